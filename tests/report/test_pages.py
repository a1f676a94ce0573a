"""Laws of the pages and the PDF: whole without a network, no dead link, alt texts, same bytes."""
import importlib
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from made_up_run import CLASSES, TITLE, make_run

from vqlib.alt_texts import ALT_TEXTS
from vqlib.report import build, need
from vqlib.report.__main__ import main

pytest.importorskip("pypandoc", reason="needs the extra: pip install 'vqlib[report]'")
pytest.importorskip("typst", reason="needs the extra: pip install 'vqlib[report]'")

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LOADS = {"src", "srcset", "poster", "data", "action"}  # attributes that fetch what they name


class Page(HTMLParser):
    """What a test asks of a page: its tags, and the text that a reader sees."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text, self.hidden = [], "", 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.hidden += tag in ("style", "annotation", "pre")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("style", "annotation", "pre")

    def handle_data(self, data):
        self.text += "" if self.hidden else data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def run(home):
    return make_run(home)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files of a report that was built once: {name: contents}."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("VQLIB_HOME", str(home))
        return build.build(make_run(home))


@pytest.fixture(scope="module")
def pages(made):
    return {name: Page(contents.decode()) for name, contents in made.items() if "html" in name}


def test_there_are_a_report_a_pdf_and_a_page_for_each_notebook(made):
    assert [*made][:2] == ["index.html", "report.pdf"]
    assert [name[:2] for name in [*made][2:]] == ["01", "02", "03", "04", "05"]
    assert made["report.pdf"].startswith(b"%PDF-")


def test_nothing_is_loaded_from_outside(made, pages):
    for name, page in pages.items():
        for tag, attributes in page.tags:
            loaded = [attributes[key] for key in LOADS & {*attributes}]
            loaded += [attributes["href"]] if tag == "link" else []
            assert all(target.startswith("data:") for target in loaded), (name, tag)
        assert page.all("script") == []
        style = made[name].decode().split("<style>")[1].split("</style>")[0]
        assert not re.search(r"@import|url\(", style)


def test_no_link_is_dead(pages):
    for name, page in pages.items():
        for link in page.all("a"):
            target, _, anchor = link["href"].partition("#")
            if target.startswith("https://"):
                continue
            assert target in {"", "report.pdf", *pages}, (name, link["href"])
            ids = {attributes.get("id") for _, attributes in pages.get(target or name, page).tags}
            assert not anchor or anchor in ids, (name, link["href"])


def test_an_identifier_stands_once_in_a_page(pages):
    for page in pages.values():
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len({*ids})


def test_each_picture_has_an_alt_text(pages):
    for name, page in pages.items():
        assert page.all("img"), name
        for image in page.all("img"):
            assert len(image.get("alt") or "") > 20, name


def test_pictures_of_notebooks_have_the_alt_texts_of_their_figures(pages):
    for name, page in pages.items():
        if name != "index.html":
            saved = [text for figure, text in ALT_TEXTS.items() if figure[:2] == name[:2]]
            assert {image["alt"] for image in page.all("img")} >= {*saved}


def test_figures_of_the_page_are_numbered_from_one_on(pages):
    for kind in ("Figure", "Table"):
        numbers = re.findall(rf"{kind}\u00a0(\d+)\. ", pages["index.html"].text)
        assert [int(n) for n in numbers] == list(range(1, len(numbers) + 1))


def test_names_from_the_data_are_shown_as_they_are(made, pages):
    for text in (*CLASSES, TITLE):
        assert text in pages["index.html"].text
    assert "example.org" not in str([link["href"] for link in pages["index.html"].all("a")])
    assert pages["index.html"].all("i") == pages["index.html"].all("b") == []


def test_formulas_are_mathml_and_none_is_left_as_tex(pages):
    page = pages["index.html"]
    assert len(page.all("math")) > 20
    shown = page.text.replace(CLASSES[3], "")
    assert not re.search(r"\$|\\[a-z]", shown)
    assert "{{" not in shown


def test_tables_and_figures_scroll_in_boxes_of_their_own(made):
    html = made["index.html"].decode()
    for tag in ("table", "img"):
        for before in re.split(rf"<{tag}[ >]", html)[:-1]:
            assert 'class="scroll"' in before[-400:], tag


def test_markdown_that_a_cell_returned_is_a_table_and_no_python_object(pages):
    for path in NOTEBOOKS.glob("0*.ipynb"):
        cells = nbformat.read(path, nbformat.NO_CONVERT).cells
        texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
        texts += [output.get("data", {}).get("text/markdown", "")
                  for cell in cells for output in cell.get("outputs", [])]
        shown = "\n".join(texts).splitlines()
        rows = [line for line in shown if re.fullmatch(r"\|[ :|-]+\|", line)]
        page = pages[f"{path.stem}.html"]
        assert len(page.all("table")) == len(rows) > 0, path.name
        assert "IPython.core.display" not in page.text


def test_a_notebook_that_was_not_executed_under_the_preset_says_so(pages):
    text = " ".join(pages["01_data_stats.html"].text.split())
    assert "preset flagship), not under the report’s preset quick" in text


def test_no_page_names_a_folder_of_this_machine(made):
    for name, contents in made.items():
        if name.endswith("html"):
            assert not re.search(rb"/(home|root|tmp|work|Users)/", contents), name


def test_the_same_results_give_the_same_bytes(run, monkeypatch):
    monkeypatch.setattr(build.notebooks, "find", lambda preset: [])
    assert build.build(run) == build.build(run)


def test_the_command_writes_the_files_and_says_so(run, home, monkeypatch, capsys):
    monkeypatch.setattr(build, "build", lambda run: {"index.html": b"x" * 20_000})
    assert main([]) == 0
    assert (home / "report" / "index.html").stat().st_size == 20_000
    assert "preset quick" in capsys.readouterr().out


def test_a_missing_extra_says_how_to_install_it(run, monkeypatch, capsys):
    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"typst is missing: pip install 'vqlib\[report\]'"):
        need("typst")
    assert main([]) == 1
    assert "pip install 'vqlib[report]'" in capsys.readouterr().err
