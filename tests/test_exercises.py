"""Laws of the exercises' checks: they say right or wrong and why, and never end a notebook."""
import pytest

from vqlib.exercises import OPEN, RIGHT, WRONG, check, near


def test_an_open_exercise_is_said_to_be_open(capsys):
    assert check("1.1", None, near(3, 1), "because", "think") == OPEN
    assert capsys.readouterr().out == "exercise 1.1: not answered yet\n"


def test_what_was_measured_is_shown_after_the_prediction_only(capsys):
    check("1.1", None, near(3, 1), "because", "think", measured="3 dB")
    assert "3 dB" not in capsys.readouterr().out
    check("1.1", 7, near(3, 1), "because", "think", measured="3 dB")
    assert capsys.readouterr().out == "3 dB\nexercise 1.1: not right yet. think\n"


@pytest.mark.parametrize(("answer", "verdict", "text"), [
    (3.4, RIGHT, "right. because"), (2, RIGHT, "right. because"),
    (4.1, WRONG, "not right yet. think"), (float("nan"), WRONG, "not right yet. think")])
def test_a_number_within_reach_is_right_and_another_gets_the_hint(capsys, answer, verdict, text):
    assert check("1.1", answer, near(3, 1), "because", "think") == verdict
    assert capsys.readouterr().out == f"exercise 1.1: {text}\n"


@pytest.mark.parametrize("answer", ["three", [], {"a": 1}, object, ..., "1e400x"])
def test_nothing_that_is_typed_in_ends_the_notebook(capsys, answer):
    assert check("1.1", answer, near(3, 1), "because", "think") == WRONG
    assert "cannot be checked" in capsys.readouterr().out


def test_a_check_that_fails_itself_is_a_wrong_answer(capsys):
    assert check("1.1", 3, lambda answer: 1 / 0, "because", "think") == WRONG
    assert "ZeroDivisionError" in capsys.readouterr().out
