"""Laws of finding results: the right run is taken, and what is missing names notebook and command.
"""
import os

import pytest
from made_up_run import make_run

from vqlib.report.__main__ import main
from vqlib.report.document import figures_named
from vqlib.report.saved import Missing, find_run


@pytest.fixture
def run(home):
    return make_run(home)


def test_the_environment_or_the_argument_names_the_preset(home, monkeypatch):
    quick, flagship = make_run(home), make_run(home, "flagship")
    assert find_run("flagship") == flagship
    monkeypatch.setenv("VQLIB_PRESET", "quick")
    assert find_run() == quick


def test_without_a_name_the_preset_that_has_results_is_taken(home):
    flagship = make_run(home, "flagship")
    assert find_run() == flagship


def test_of_several_runs_the_most_complete_then_the_newest_is_taken(home):
    old, new, part = (make_run(home, fingerprint=name) for name in ("1", "2", "3"))
    os.utime(old.folder / "05.json", (1, 1))
    (part.folder / "05.json").unlink()
    assert find_run("quick") == new


def test_a_preset_whose_name_begins_with_anothers_is_not_taken_for_it(home):
    make_run(home, "flagship-f4")
    with pytest.raises(Missing, match="no results under preset flagship;"):
        find_run("flagship")


def test_a_preset_without_a_prior_says_so(home):
    make_run(home, "flagship-f4")
    with pytest.raises(Missing, match=r"flagship-f4 has no prior.*VQLIB_PRESET=quick"):
        find_run()


def test_without_any_results_all_notebooks_are_to_be_run(home):
    with pytest.raises(Missing, match=r"VQLIB_PRESET=smoke python notebooks/run\.py$"):
        find_run("smoke")


@pytest.mark.parametrize(("lost", "notebooks"), [
    (["data/runs/{run}/03.json"], "notebook 03"),
    (["data/runs/{run}/04.json", "data/runs/{run}/prior.safetensors"], "notebook 04"),
    (["figures/quick/01_samples.png", "data/runs/{run}/05.json"], "notebooks 01 and 05"),
])
def test_what_is_missing_names_its_notebooks_and_the_command(run, home, lost, notebooks, capsys):
    for name in lost:
        (home / name.format(run=run.folder.name)).unlink()
    assert main([]) == 1
    [line] = capsys.readouterr().err.splitlines()
    numbers = notebooks.removeprefix("notebooks").removeprefix("notebook").replace(" and", "")
    assert f"run {notebooks} with the same data" in line
    assert line.endswith(f"VQLIB_PRESET=quick python notebooks/run.py{numbers}")
    assert lost[0].format(run=run.folder.name) in line
    assert str(home) not in line


def test_a_whole_run_lacks_nothing(run):
    run.require(figures_named())
