"""The five notebooks run from start to end, alone and from elsewhere; the committed pairs agree."""
import ast
import json
import os
import re
import runpy
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
from conftest import picture
from jupyter_client.kernelspec import get_kernel_spec
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

from vqlib import metrics
from vqlib.backend.files import FileError
from vqlib.studies import faults, results
from vqlib.studies.runner import STUDIES

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SCRIPTS = sorted(NOTEBOOKS.glob("0?_*.py"))
NAMES = [s.stem for s in SCRIPTS]

YEARS = {"1989", "2009", "2017", "2019", "2022", "2023"}  # numbers that nobody measured
SMOKE = {"VQLIB_PRESET": "smoke", "VQLIB_DATA": "synthetic", "JUPYTER_PLATFORM_DIRS": "1"}

# what solves each exercise; numbers depend on data and preset
ANSWERS = {
    "1.1": '"less"', "1.2": "255 * (mean[0] - mean[1])", "1.3": "68.9",
    "2.1": "4 * np.log2(2 * cfg.n_codes) / np.log2(cfg.n_codes)", "2.2": "6.02", "2.3": '"fewer"',
    "3.1": '"in between"', "3.2": '"more"', "3.3": '"neighbours"',
    "4.1": "per_image / 8",
    "4.2": '"more" if (held_out_nats(gpt, codes, (labels + 1) % len(dataset.classes))'
           ' - without).sum() > 0 else "fewer"',
    "4.3": "sum(p.numel() for p in gpt.parameters()) / "
           "sum(p.numel() for p in GPT(replace(gpt.cfg, layers=1)).parameters())",
    "5.1": "12.04", "5.2": '"fewer"', "5.3": '"some"',
}

def python(*arguments, home, cwd):
    """Run python with results under `home`, on synthetic data under `smoke`."""
    variables = {**os.environ, **SMOKE, "VQLIB_HOME": str(home)}
    return subprocess.run([sys.executable, *arguments], env=variables, cwd=cwd,
                          capture_output=True, text=True)

@pytest.fixture
def here(tmp_path, monkeypatch):
    """Lets this process be the one that runs something: it has imported what that takes."""
    def go(home, cwd=tmp_path, **environment):
        monkeypatch.chdir(cwd)
        for name, value in {**SMOKE, "VQLIB_HOME": str(home), **environment}.items():
            monkeypatch.setenv(name, value)
    return go

def run_notebooks(folder, monkeypatch, *arguments):
    """The status with which run.py of that folder ends."""
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    for name in ("VQLIB_FIGURES", "PYDEVD_DISABLE_FILE_VALIDATION"):
        monkeypatch.setenv(name, "")                             # set there, unset afterwards
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(folder / "run.py"), run_name="__main__")
    return ended.value.code

@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A home folder in which run.py has executed all five notebooks, and what it printed.

    All exercises are solved.
    """
    home = tmp_path_factory.mktemp("a home with späces")
    answered = shutil.copytree(NOTEBOOKS, home / "answered",
                               ignore=shutil.ignore_patterns("executed", "*.ipynb"))
    for script in answered.glob("0?_*.py"):
        script.write_text(solved(script.read_text()))
    run = python(answered / "run.py", home=home, cwd=home)
    assert run.returncode == 0, run.stderr[-3000:]
    return home, run.stdout

def solved(text):
    """A script whose exercises have their right answers."""
    before, *cells = text.split("ANSWER = None")
    for cell in cells:
        number = re.search(r'check\("(\d\.\d)"', cell)[1]
        before += f"ANSWER = {ANSWERS[number]}{cell}"
    return before

def code_cells(script):
    return [cell.source for cell in jupytext.read(script).cells if cell.cell_type == "code"]

def figure_names(script):
    """Names that a notebook saves figures under."""
    return re.findall(r'plots\.save\(fig, ws, "([^"]+)"', script.read_text())

def test_there_are_five():
    assert [n[:2] for n in NAMES] == ["01", "02", "03", "04", "05"]

def test_all_five_run_in_order_and_the_table_names_each(executed):
    _, printed = executed
    table = printed.splitlines()[-7:]
    assert [line.split()[0] for line in table] == ["notebook", *NAMES, "total"]

def test_a_run_passes_on_what_its_cells_print_with_cell_and_time(executed):
    _, printed = executed
    lines = [line for line in printed.splitlines() if line.startswith("  cell ")]
    place = re.compile(r"  cell +(\d+) of (\d+)  +\d+:\d\d  ")
    assert all(place.match(line) and int(place.match(line)[1]) <= int(place.match(line)[2])
               for line in lines)
    assert any("150/150 [####" in line for line in lines)        # a training's last line
    assert any(line.endswith("caught: lesion 0 is in train and in test: the split leaks")
               or "the split leaks" in line for line in lines)

def test_each_figure_is_written_by_exactly_one_notebook_and_carries_its_number(executed):
    home, _ = executed
    names = []
    for script in SCRIPTS:
        own = figure_names(script)
        assert all(name.startswith(script.stem[:2]) for name in own)
        names += own
    assert len(names) == len(set(names))
    drawn = sorted(path.stem for path in (home / "figures" / "smoke").iterdir())
    assert drawn == sorted(names)

def test_executed_copies_show_no_error_and_no_path_of_this_machine(executed):
    home, _ = executed
    for name in NAMES:
        text = (home / "notebooks" / "executed" / "smoke" / f"{name}.ipynb").read_text()
        assert '"output_type": "error"' not in text
        assert str(home) not in text, name
        assert str(NOTEBOOKS.parent) not in text, name

def test_every_exercise_can_be_solved(executed):
    _, printed = executed
    verdicts = dict(re.findall(r"exercise (\d\.\d): (.+)", printed))
    assert verdicts.keys() == ANSWERS.keys()
    assert not {number: said for number, said in verdicts.items() if not said.startswith("right.")}

def test_nbconvert_executes_some_alone_from_any_folder_and_trains_no_finished_run_again(
        executed, tmp_path):
    home, _ = executed
    logs = sorted(home.glob("data/runs/*/*/log.jsonl"))
    assert len(logs) == 5                                        # notebook 02 wrote 3, 04 wrote 2
    before = [log.read_text() for log in logs]
    some = [NAMES[1], NAMES[3]]
    run = python("-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--output-dir",
                 tmp_path, *(NOTEBOOKS / f"{name}.ipynb" for name in some), home=home, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    assert all((tmp_path / f"{name}.ipynb").exists() for name in some)
    assert [log.read_text() for log in logs] == before

def test_one_class_is_one_row_of_pictures_and_a_relative_path_means_what_it_means_to_who_gave_it(
        here, tmp_path, monkeypatch):
    """Another set lies below the home folder under the same relative path."""
    home, given = tmp_path / "home", tmp_path / "set" / "nevus"
    for place, n in ((given, 40), (home / "set" / "another", 30)):
        place.mkdir(parents=True)
        for i in range(n):
            picture(i).save(place / f"{i}.png")
    here(home, VQLIB_DATA="set")
    assert run_notebooks(NOTEBOOKS, monkeypatch, "01") == 0
    shown = (home / "notebooks" / "executed" / "smoke" / f"{NAMES[0]}.ipynb").read_text()
    assert "40 images used, 0 skipped" in shown
    assert "nevus" in shown
    assert '"output_type": "error"' not in shown

def test_the_report_is_written_from_what_the_notebooks_saved(executed, here, monkeypatch):
    for module in ("pypandoc", "typst"):
        pytest.importorskip(module, reason="needs the extra: pip install 'vqlib[report]'")
    home, _ = executed
    here(home)
    monkeypatch.setattr(sys, "argv", ["vqlib.report"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("vqlib.report", run_name="__main__")
    assert ended.value.code == 0
    assert (home / "report" / "report.pdf").stat().st_size > 100_000
    assert "As it was executed" in (home / "report" / f"{NAMES[0]}.html").read_text()

def test_a_notebook_without_its_input_names_the_one_that_makes_it(here, tmp_path):
    here(tmp_path)
    makers = ("notebook 01", "notebook 02", "notebook 02", "notebook 02")
    for script, maker in zip(SCRIPTS[1:], makers, strict=True):
        with pytest.raises((FileNotFoundError, FileError), match=maker):
            runpy.run_path(str(script))

def test_a_failing_notebook_leaves_nothing_behind(here, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "some"
    folder.mkdir()
    shutil.copy(NOTEBOOKS / "run.py", folder)
    (folder / "02_broken.py").write_text("# %%\nprint(1)\n\n# %%\nraise ValueError('it fails')\n")
    here(tmp_path)
    assert run_notebooks(folder, monkeypatch, "02") == 1
    said = capsys.readouterr().err
    assert "it fails" in said
    assert "nothing of it was written" in said
    assert not (tmp_path / "notebooks").exists()

@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_the_paired_notebook_has_the_scripts_cells_and_was_run_top_to_bottom(script):
    paired = script.with_suffix(".ipynb")
    cells = nbformat.read(paired, 4).cells
    sources = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    assert sources == [(cell.cell_type, cell.source) for cell in cells]
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "make pairs, then commit"
    assert paired.stat().st_size < 1_000_000
    outputs = json.dumps([cell.get("outputs", []) for cell in cells])
    assert not re.search(r"/(home|root|tmp|work|Users)/", outputs)

@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_a_committed_notebook_shows_its_exercises_unanswered(script):
    cells = [cell for cell in nbformat.read(script.with_suffix(".ipynb"), 4).cells
             if "exercise" in cell.metadata.get("tags", [])]
    texts = [output.get("text", "") for cell in cells for output in cell.outputs]
    found = re.findall(r"exercise (\d\.\d): not answered yet", "".join(texts))
    assert found == [f"{int(script.stem[:2])}.{k}" for k in (1, 2, 3)]

def numbers(text):
    """Numbers of a text that someone must have measured: with decimals, or of three digits."""
    text = re.sub(r"`[^`]*`|\$[^$]*\$|<details>.*?</details>|https?://\S+", " ", text,
                  flags=re.S)
    return {number.replace(",", "") for number in
            re.findall(r"(?<![\w.])\d[\d,]*\.\d+|(?<![\w.,])\d{1,3}(?:,\d{3})+|"
                       r"(?<![\w.,])\d{3,}(?![\w.])|(?<![\w.,])\d+(?= %)", text)}

def rounds_to(number, values):
    """Whether a number is one of the values, rounded to as many digits as it has."""
    digits = len(number.partition(".")[2])
    return any(abs(value - float(number)) <= 0.5001 * 10**-digits for value in values)

@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_numbers_in_the_text_stand_in_the_outputs(script):
    """Or in the code, in the studies' results, or among what the course report says."""
    cells = nbformat.read(script.with_suffix(".ipynb"), 4).cells
    known = "".join((cell.source if cell.cell_type == "code" else "") + " ".join(
        output.get("text", "") + str(output.get("data", {}).get("text/markdown", ""))
        + str(output.get("data", {}).get("text/plain", "")) for output in cell.get("outputs", []))
        + "\n" for cell in cells)
    course = NOTEBOOKS.parent / "vqlib" / "report" / "course_report.toml"
    known += course.read_text() + faults.table() + str(metrics.REPORT_STD)
    known += "".join(results.table(name) + results.setup(name) for name in STUDIES)
    values = [float(v) for v in re.findall(r"\d+\.?\d*", re.sub(r"(?<=\d),(?=\d{3})", "", known))]
    values += [100 * value for value in values if value <= 1.5]  # shares, told in percent
    texts = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert {n for n in numbers(texts) if not rounds_to(n, values)} <= YEARS

@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_text_is_short_and_stands_where_it_is_needed(script):
    cells = jupytext.read(script).cells
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    lengths = [len(text.split()) for text in texts]
    assert statistics.median(lengths) <= 80
    kinds = "".join("t" if cell.cell_type == "markdown" else "c" for cell in cells)
    assert "ccc" not in kinds[kinds.index("t", 1):]              # imports, parameters, data: then
    [learned] = [text for text in texts if "## What we learned" in text]
    bullets = [line for line in learned.splitlines() if line.startswith("- ")]
    assert 1 <= len(bullets) <= 5
    assert "@@" not in "".join(texts)

@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_graders_can_set_the_parameters(script):
    [cell] = [cell for cell in jupytext.read(script).cells
              if "parameters" in cell.metadata.get("tags", [])]
    assert re.findall(r"^(\w+) =", cell.source, re.M)[:3] == ["PRESET", "DATA", "SEED"]

@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_opening_and_saving_in_lab_changes_neither_file_of_a_pair(script, tmp_path):
    shutil.copy(NOTEBOOKS.parent / "pyproject.toml", tmp_path)
    runner = runpy.run_path(str(NOTEBOOKS / "run.py"))
    (tmp_path / "notebooks").mkdir()
    pair = [tmp_path / "notebooks" / f"{script.stem}.{suffix}" for suffix in ("py", "ipynb")]
    shutil.copy(script, pair[0])
    nbformat.write(runner["read_script"](script), pair[1])
    before = [path.read_text() for path in pair]
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)()
    manager.root_dir = str(tmp_path)
    model = manager.get(f"notebooks/{pair[1].name}", content=True)
    spec = get_kernel_spec("python3")                            # Lab writes down what it started
    model["content"]["metadata"]["kernelspec"] = {
        "display_name": spec.display_name, "language": spec.language, "name": "python3"}
    manager.save(model, f"notebooks/{pair[1].name}")
    assert [path.read_text() for path in pair] == before

@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_cells_are_short_and_hold_no_library_code(script):
    cells = code_cells(script)
    lengths = [len([line for line in cell.splitlines() if line.strip()]) for cell in cells]
    path = jupytext.read(script).cells                           # exercises and options come after
    end = next(i for i, cell in enumerate(path) if "## Exercises" in cell.source)
    assert sum(cell.cell_type == "code" for cell in path[:end]) <= 25
    assert max(lengths) <= 25
    assert statistics.median(lengths) <= 8
    for node in (node for cell in cells for node in ast.walk(ast.parse(cell))):
        assert not isinstance(node, ast.ClassDef)
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 8, node.name
