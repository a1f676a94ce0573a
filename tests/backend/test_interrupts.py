"""Laws of interrupts: they wait for what must not be cut in two, and come after a save."""
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vqlib.backend.interrupts import Guard, Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Work:
    """Something with a state that may be half changed."""

    def __init__(self):
        self.steps, self.saved, self.guard = 0, None, Guard(self.save)

    def save(self):
        self.saved = self.steps
        return f"saved {self.steps}"

    def step(self, *numbers):
        """A step in which these signals come."""
        self.guard.busy = True
        for number in numbers:
            signal.raise_signal(number)
        self.steps += 1
        self.guard.update_done()

    def run(self, *signals, between=()):
        """A step for each; None: no signal comes in it."""
        with self.guard:
            for number in signals:
                self.step(*([number] if number else []))
            for number in between:
                signal.raise_signal(number)


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    """The numbers that SIGTERM's own handler was called with; all handlers are put back."""
    numbers, before = [], {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    yield numbers
    assert Guard.live == []
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ctrl_c_in_a_step_comes_at_its_end_after_a_save():
    work = Work()
    with pytest.raises(Interrupted, match="saved 2"):
        work.run(None, signal.SIGINT, None)
    assert work.saved == work.steps == 2
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_between_steps_saves_at_once():
    work = Work()
    with pytest.raises(Interrupted, match="saved 1"):
        work.run(None, between=[signal.SIGINT])
    assert work.saved == 1


def test_who_asks_twice_does_not_wait():
    work = Work()
    with work.guard, pytest.raises(KeyboardInterrupt) as raised:
        work.step(signal.SIGINT, signal.SIGINT)
    assert raised.type is KeyboardInterrupt
    assert (work.steps, work.saved) == (0, None)


def test_sigterm_does_what_it_would_have_done_after_a_save_and_a_line(asked, capsys):
    work = Work()
    work.run(signal.SIGTERM)
    assert (work.saved, asked) == (1, [signal.SIGTERM])
    assert capsys.readouterr().err == "vqlib: saved 1\n"


def test_without_a_signal_nothing_is_saved_and_handlers_are_put_back():
    work, before = Work(), [signal.getsignal(number) for number in SIGNALS]
    with work.guard:
        work.step()
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert work.saved is None
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_two_that_take_turns_are_both_saved():
    first, second = Work(), Work()
    with first.guard:
        first.step()
        with pytest.raises(Interrupted, match="saved 1; saved 1"):
            second.run(signal.SIGINT)
    assert first.saved == second.saved == 1


TOLD_TO_END = """
with Guard(lambda: "saved") as guard:
    guard.busy = True
    os.kill(os.getpid(), signal.SIGTERM)
    print("to the end of the step", flush=True)
    guard.update_done()
    print("and no further", flush=True)
"""
CLOSED = """
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with Guard(lambda: "saved") as guard:
    os.kill(os.getpid(), signal.SIGHUP)
"""
NOTEBOOK = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
shell.run_cell("from vqlib.backend.interrupts import Interrupted")
shell.run_cell("raise Interrupted('vqvae stopped after update 3')")
"""
FORKS = """
import json, os, signal, sys
from vqlib.backend.interrupts import Guard

ended = []
for code, *outputs in json.loads(sys.argv[1]):
    if not os.fork():
        for number, path in enumerate(outputs, 1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        exec(code)
        sys.exit()
    ended.append(os.waitstatus_to_exitcode(os.wait()[1]))
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """{code: (exit status, stdout, stderr)} of processes that ran it.

    One process forks them: it has imported PyTorch, which takes longest.
    """
    folder, root = tmp_path_factory.mktemp("ended"), Path(__file__).resolve().parents[2]
    codes = {code: (folder / f"{i}.out", folder / f"{i}.err")
             for i, code in enumerate((TOLD_TO_END, CLOSED, NOTEBOOK))}
    jobs = json.dumps([(code, *map(str, paths)) for code, paths in codes.items()])
    done = subprocess.run([sys.executable, "-c", FORKS, jobs], check=True, stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": str(root)})
    return {code: (status, *(path.read_text() for path in paths))
            for (code, paths), status in zip(codes.items(), json.loads(done.stdout), strict=True)}


def test_a_process_that_is_told_to_end_says_a_line_and_ends_by_that_signal(ended):
    assert ended[TOLD_TO_END] == (-signal.SIGTERM, "to the end of the step\n", "vqlib: saved\n")


def test_a_notebook_shows_one_line(ended):
    _, out, err = ended[NOTEBOOK]
    assert out + err == "Interrupted: vqvae stopped after update 3\n"


def test_a_signal_that_is_ignored_stays_so_and_stops_nothing(asked):
    """As SIGINT in the background of a shell, and SIGHUP under nohup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = Work()
    with work.guard:
        work.step(signal.SIGINT)
        assert work.saved is None
        work.step(signal.SIGTERM)                                # the guard is still there
    assert (work.steps, work.saved, asked) == (2, 2, [signal.SIGTERM])


def test_a_terminal_that_is_closed_ends_a_run_after_a_save(ended):
    assert ended[CLOSED] == (-signal.SIGHUP, "", "vqlib: saved\n")
