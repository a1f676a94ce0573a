"""Laws of evaluations in parts: nothing that is done is lost, nothing of another run is used."""
import json

import pytest

from vqlib.evaluation.parts import Parts

IDENTITY = {"seed": 0, "sampling": {"top_p": 0.9}, "pair": (1, 2)}


class Failing:
    """Gives 1, 2, ... and fails when it is called for the n-th time."""

    def __init__(self, n=None):
        self.calls, self.n = 0, n

    def __call__(self):
        self.calls += 1
        if self.calls == self.n:
            raise MemoryError("full")
        return {"value": self.calls}


def test_an_evaluation_that_failed_goes_on_where_it_was(tmp_path):
    path, function = tmp_path / "result.json.parts", Failing(n=3)
    parts = Parts(path, IDENTITY)
    with pytest.raises(MemoryError):
        [parts.run(name, function) for name in "abc"]
    again = Parts(path, IDENTITY)
    assert [again.run(name, function)["value"] for name in "abc"] == [1, 2, 4]
    assert function.calls == 4


@pytest.mark.parametrize("other", [{**IDENTITY, "seed": 1}, {}, None])
def test_parts_of_another_evaluation_are_not_used(tmp_path, capsys, other):
    path = tmp_path / "result.json.parts"
    Parts(path, IDENTITY).run("a", lambda: {"value": 1})
    assert Parts(path, other, show=True).run("a", lambda: {"value": 2}) == {"value": 2}
    assert "of another evaluation: starting afresh" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "[]", "{", '{"parts": {}}'])
def test_a_damaged_file_starts_afresh(tmp_path, capsys, content):
    path = tmp_path / "result.json.parts"
    path.write_text(content)
    assert Parts(path, IDENTITY, show=True).run("a", lambda: {"value": 2}) == {"value": 2}
    assert "result.json.parts is damaged" in capsys.readouterr().err


def test_the_file_goes_when_all_is_safe(tmp_path):
    path = tmp_path / "result.json.parts"
    parts = Parts(path, IDENTITY)
    parts.run("a", lambda: {})
    assert json.loads(path.read_text())["parts"] == {"a": {}}
    parts.finish()
    assert not path.exists()


def test_a_result_is_the_same_whether_it_was_kept_or_not(tmp_path):
    path, value = tmp_path / "result.json.parts", {"pair": (1, 2), "x": 0.1}
    assert Parts(path, {}).run("a", lambda: value) == Parts(path, {}).run("a", dict)


def test_without_a_path_nothing_is_kept_and_nothing_said(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = Parts()
    parts.plan({"a": 10})
    assert parts.run("a", lambda: {"value": 1}) == {"value": 1}
    parts.looked_at(10)
    parts.finish()
    assert not [*tmp_path.iterdir()]
    assert capsys.readouterr() == ("", "")


def test_progress_counts_images_of_parts_that_are_still_to_do(tmp_path, capsys):
    path = tmp_path / "result.json.parts"
    Parts(path, {}).run("a", dict)
    parts = Parts(path, {}, show=True, every=0)
    parts.plan({"a": 1000, "b": 30})
    parts.run("a", dict)

    def function():
        parts.looked_at(10)
        parts.looked_at(20)
        return {}

    parts.run("b", function)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "a: done before"
    assert "b: 10 of 30 images" in lines[2]
    assert "b: 30 of 30 images in all, about 0 s left" in lines[3]
