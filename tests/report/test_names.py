"""What the repository says of its figures and sources is there: alt texts, the map, references."""
import re
from pathlib import Path

import jupytext
import pytest
import yaml

from vqlib.alt_texts import ALT_TEXTS
from vqlib.report.document import FILE, figures_named
from vqlib.report.notebooks import figure_names

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("0?_*.py"))}
MAP = (ROOT / "figures" / "README.md").read_text()
ROWS = [line.strip("| ").split(" | ") for line in MAP.splitlines() if "](../notebooks/" in line]


def saved() -> list[str]:
    return [name for path in SCRIPTS.values() for name in figure_names(path.read_text())]


def test_each_figure_that_a_notebook_saves_has_an_alt_text():
    assert {*ALT_TEXTS} == {*saved()}


@pytest.mark.parametrize("text", ALT_TEXTS.values(), ids=ALT_TEXTS)
def test_an_alt_text_is_a_sentence_that_holds_for_any_run(text):
    assert len(text) > 20
    assert text.endswith(".")
    assert not re.search(r"""\d|["{}]""", text)                  # no number, nothing to escape


def test_the_report_shows_figures_that_notebooks_save():
    assert {*figures_named()} <= {*saved()}
    assert len(figures_named()) == len({*figures_named()})


def sections(script: Path) -> dict[str, str]:
    """{heading: code up to the next heading} of a notebook."""
    found, heading = {}, ""
    for cell in jupytext.read(script).cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ (.+)$", cell.source, flags=re.M)
            heading = headings[-1] if headings else heading
            found |= {name: "" for name in headings}
        else:
            found[heading] = found.get(heading, "") + cell.source + "\n"
    return found


def test_the_map_covers_what_the_course_report_shows():
    items = " ".join(row[0] for row in ROWS)
    for item in ("sample image", "PSNR", "reconstructed", "codebook projection", "generations",
                 "transformer training metrics", "mean", "hyperparameters"):
        assert item in items


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_map_leads_to_files_and_headings_that_are_there(row):
    _, ours, notebook, heading = row
    for target in re.findall(r"\]\(([^)]+)\)", ours + notebook):
        assert (ROOT / "figures" / target).exists(), target
    [name] = re.findall(r"notebooks/(\w+)\.ipynb", notebook)
    found = sections(SCRIPTS[name])
    assert heading in found
    for figure in re.findall(r"\]\((\w+)\.png\)", ours):
        assert figure in figure_names(found[heading]), f"{figure} is saved under another heading"


def bibliography() -> dict[str, str]:
    """{key: its DOI or address}."""
    entries = re.split(r"^@\w+\{", FILE.with_name("references.bib").read_text(), flags=re.M)[1:]
    return {entry.split(",")[0]: re.search(r"^  (?:doi|url) = \{(.+)\}", entry, flags=re.M)[1]
            for entry in entries}


def test_each_reference_is_cited_and_the_citation_file_has_it():
    cited = {*re.findall(r"@(\w+)", "".join(re.findall(r"\[@.*?\]", FILE.read_text())))}
    assert cited == {*bibliography()}
    known = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    assert {*bibliography().values()} <= {one.get("doi", one.get("url")) for one in known}


def test_the_citation_file_has_what_its_format_asks_of_a_reference():
    for one in yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]:
        assert {"type", "title", "authors", "year"} <= {*one}
        assert {"doi", "url"} & {*one}
