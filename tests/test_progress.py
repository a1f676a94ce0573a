"""Laws of progress: every update is passed on, and the last one is shown."""
import pytest

from vqlib import progress
from vqlib.progress import Line, bar, duration, watch


def updates(n):
    yield from ((step, {"loss": step / 10}) for step in range(1, n + 1))


def test_watching_passes_every_update_on_and_shows_the_last(capsys):
    assert list(watch(updates(5), 5)) == list(updates(5))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("     5/5 [####################] 100 %  loss 0.500")


def test_a_loop_that_stops_early_shows_its_last_update(capsys):
    list(watch(updates(3), 100))
    assert capsys.readouterr().out.startswith("     3/100 [")


def test_a_loop_without_updates_shows_nothing(capsys):
    assert list(watch(updates(0), 100)) == []
    assert capsys.readouterr().out == ""


def test_lines_come_at_most_as_often_as_asked(capsys, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(progress.time, "time", lambda: next(clock))
    list(watch(updates(40), 40, every=10))
    assert len(capsys.readouterr().out.splitlines()) == 4        # at 10, 20, 30 and 40


def test_in_a_notebook_one_line_is_replaced(monkeypatch):
    shown = []

    class Handle:
        def update(self, content, raw):
            shown.append(content)

    def display(content, raw, display_id):
        shown.append("first")
        return Handle()

    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", display)
    line = Line()
    for text in "abc":
        line.show(text)
    assert shown == ["first", {"text/plain": "b"}, {"text/plain": "c"}]


@pytest.mark.parametrize(("shell", "expected"), [
    (None, False), (object(), False), (type("Kernel", (), {"kernel": 1})(), True)])
def test_only_a_kernel_is_a_notebook(monkeypatch, shell, expected):
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    assert progress.in_notebook() is expected


def test_without_ipython_nothing_is_a_notebook(monkeypatch):
    monkeypatch.delitem(progress.sys.modules, "IPython", raising=False)
    assert not progress.in_notebook()


@pytest.mark.parametrize(("done", "filled"), [(0, 0), (1, 0), (50, 10), (99, 19), (100, 20)])
def test_a_bar_is_filled_by_its_share(done, filled):
    assert bar(done, 100).count("#") == filled
    assert len(bar(done, 100)) == len(bar(100, 100))


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (119, "119 s"), (150, "2 min")])
def test_a_duration_is_in_seconds_or_minutes(seconds, text):
    assert duration(seconds) == text
