"""The five notebooks: they run from start to end, alone and from elsewhere, and their committed twins are what they say."""
import ast
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SCRIPTS = sorted(NOTEBOOKS.glob("0?_*.py"))
NAMES = [s.stem for s in SCRIPTS]
SMOKE = {**os.environ, "VQLIB_PRESET": "smoke", "VQLIB_DATA": "synthetic", "JUPYTER_PLATFORM_DIRS": "1"}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A home folder in which run.py has executed all five notebooks on synthetic data, and what it printed."""
    home = tmp_path_factory.mktemp("a home with späces")
    run = subprocess.run([sys.executable, NOTEBOOKS / "run.py"], env={**SMOKE, "VQLIB_HOME": str(home)}, cwd=home,
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return home, run.stdout


def code_cells(script):
    return [c.source for c in jupytext.read(script).cells if c.cell_type == "code"]


def test_there_are_five():
    assert [n[:2] for n in NAMES] == ["01", "02", "03", "04", "05"]


def test_all_five_run_in_order_and_the_table_names_each(executed):
    _, printed = executed
    table = printed.splitlines()[-7:]
    assert [line.split()[0] for line in table] == ["notebook", *NAMES, "total"]


def test_each_figure_is_written_by_exactly_one_notebook_and_carries_its_number(executed):
    home, _ = executed
    drawn = [(re.findall(r'plots\.save\(fig, ws, "([^"]+)"', s.read_text()), s.stem[:2]) for s in SCRIPTS]
    names = [name for figures, _ in drawn for name in figures]
    assert len(names) == len(set(names))
    assert all(name.startswith(number) for figures, number in drawn for name in figures)
    assert sorted(p.stem for p in (home / "figures" / "smoke").iterdir()) == sorted(names)


def test_executed_copies_show_no_error_and_no_path_of_this_machine(executed):
    home, _ = executed
    for name in NAMES:
        text = (home / "notebooks" / "executed" / "smoke" / f"{name}.ipynb").read_text()
        assert '"output_type": "error"' not in text
        assert str(home) not in text, name
        assert str(NOTEBOOKS.parent) not in text, name


def test_a_finished_run_is_not_trained_again(executed):
    home, _ = executed
    logs = sorted(home.glob("data/runs/*/*/log.jsonl"))
    assert len(logs) == 5
    before = {p: p.read_text() for p in logs}
    again = subprocess.run([sys.executable, NOTEBOOKS / "run.py", "02", "04"], env={**SMOKE, "VQLIB_HOME": str(home)},
                           capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    assert {p: p.read_text() for p in logs} == before


def test_nbconvert_executes_one_alone_from_any_folder(executed, tmp_path):
    home, _ = executed
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--output-dir", tmp_path,
               SCRIPTS[4].with_suffix(".ipynb")]
    run = subprocess.run(command, env={**SMOKE, "VQLIB_HOME": str(home)}, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert (tmp_path / f"{NAMES[4]}.ipynb").exists()


@pytest.mark.parametrize(("name", "maker"), [(NAMES[1], "notebook 01"), (NAMES[2], "notebook 02"), (NAMES[3], "notebook 02"),
                                             (NAMES[4], "notebook 02")])
def test_a_notebook_without_its_input_names_the_one_that_makes_it(executed, tmp_path, name, maker):
    run = subprocess.run([sys.executable, NOTEBOOKS / f"{name}.py"], cwd=tmp_path, capture_output=True, text=True,
                         env={**SMOKE, "VQLIB_HOME": str(tmp_path), "MPLBACKEND": "agg"})
    assert run.returncode != 0
    assert maker in run.stderr.splitlines()[-1]


def test_a_failing_notebook_leaves_nothing_behind(tmp_path):
    env = {**SMOKE, "VQLIB_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, NOTEBOOKS / "run.py", "02"], env=env, capture_output=True, text=True)
    assert run.returncode == 1
    assert "nothing of it was written" in run.stderr
    assert not (tmp_path / "notebooks").exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_the_twin_has_the_scripts_cells_and_was_run_top_to_bottom(script):
    twin = script.with_suffix(".ipynb")
    cells = nbformat.read(twin, 4).cells
    assert [(c.cell_type, c.source) for c in jupytext.read(script).cells] == [(c.cell_type, c.source) for c in cells]
    order = [c.execution_count for c in cells if c.cell_type == "code"]
    assert order == list(range(1, len(order) + 1)), "make twins, then commit"
    assert twin.stat().st_size < 1_000_000
    assert not re.search(r"/(home|root|tmp|work|Users)/", json.dumps([c.get("outputs", []) for c in cells]))


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_cells_are_short_and_hold_no_library_code(script):
    cells = code_cells(script)
    lengths = [len([line for line in c.splitlines() if line.strip()]) for c in cells]
    assert len(cells) <= 25
    assert max(lengths) <= 25
    assert statistics.median(lengths) <= 8
    for node in (n for c in cells for n in ast.walk(ast.parse(c))):
        assert not isinstance(node, ast.ClassDef)
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 8, node.name
