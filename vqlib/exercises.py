"""Checks of the answers to the notebooks' exercises; none of them ends a notebook."""
from collections.abc import Callable

OPEN, RIGHT, WRONG = "not answered yet", "right", "not right yet"


def check(number: str, answer, accept: Callable, why: str, hint: str, measured="") -> str:
    """Say whether an answer is right.

    number: of the exercise, such as "2.1". answer: None as long as there is none. accept(answer)
    decides; an exception in it counts as wrong. why: said after a right answer; hint: after a wrong
    one. measured: what the cell found, printed once there is an answer: a prediction comes first.
    Prints a line `exercise 2.1: right. ...` that a grader can search for, and returns its verdict:
    OPEN, RIGHT or WRONG.
    """
    if answer is None:
        verdict, more = OPEN, ""
    else:
        verdict, more = verdict_on(answer, accept, why, hint)
        if measured:
            print(measured)
    print(f"exercise {number}: {verdict}" + (f". {more}" if more else ""))
    return verdict


def verdict_on(answer, accept: Callable, why: str, hint: str) -> tuple[str, str]:
    try:
        right = bool(accept(answer))
    except Exception as error:  # whatever was typed in: a check must not end the notebook
        return WRONG, f"{answer!r} cannot be checked ({type(error).__name__}: {error})"
    return (RIGHT, why) if right else (WRONG, hint)


def near(value: float, within: float) -> Callable:
    """Accepts numbers that differ from `value` by at most `within`."""
    return lambda answer: abs(float(answer) - value) <= within
