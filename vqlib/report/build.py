"""Markdown and notebooks -> pages and a PDF, by pandoc and typst. Nothing is loaded from outside.

The same inputs give the same bytes.
"""
import io
import json
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from vqlib.backend.files import write_atomically
from vqlib.backend.paths import home
from vqlib.report import document, need, notebooks
from vqlib.report.saved import Run
from vqlib.report.text import COLUMNS

HERE = Path(__file__).parent
STYLE = HERE / "style"
COMMON = [f"--lua-filter={STYLE / 'page.lua'}", f"--columns={COLUMNS}", "--fail-if-warnings",
          "--standalone"]
HTML = [*COMMON, f"--template={STYLE / 'page.html'}", "--mathml", "--embed-resources", "--toc",
        "--toc-depth=2", "--email-obfuscation=none"]
CITED = ["--citeproc", f"--bibliography={HERE / 'references.bib'}",
         f"--csl={STYLE / 'numbered.csl'}", "--metadata=link-citations:true", "--number-sections"]
IPYNB = "ipynb-lists_without_preceding_blankline"  # a line that begins with "443." is no list
MADE = ("index.html", "report.pdf")  # the report itself; beside it a page for each notebook


@dataclass
class Pandoc:
    """Runs pandoc in a folder that holds the figures."""

    folder: Path

    def __call__(self, text: str, read: str, write: str, arguments: list, metadata: dict) -> str:
        (self.folder / "metadata.json").write_text(json.dumps(metadata))
        return need("pypandoc").convert_text(
            text, write, read, cworkdir=str(self.folder),
            extra_args=[*arguments, "--metadata-file=metadata.json"])


def smaller(figure: Path) -> tuple[str, bytes]:
    """(file name, contents) of a figure: as JPEG where it shows photographs, PNG otherwise."""
    jpeg, png = io.BytesIO(), figure.read_bytes()
    Image.open(figure).convert("RGB").save(jpeg, "JPEG", quality=90)
    if len(jpeg.getvalue()) < len(png) / 2:                      # drawings are smaller as PNG
        return f"{figure.stem}.jpg", jpeg.getvalue()
    return figure.name, png


@contextmanager
def workshop(run: Run, names: list[str]):
    """(pandoc, {name: file}) in a new folder with these figures, which goes in the end."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name in names:
            files[name], contents = smaller(run.figure(name))
            (Path(folder) / files[name]).write_bytes(contents)
        yield Pandoc(Path(folder)), files


def navigation(pages: list[notebooks.Page], current: str) -> list[dict]:
    """Links to the report and to each notebook, for the top of each page."""
    links = [("Report", MADE[0])] + [(f"Notebook {page.path.stem[1]}", page.link)
                                     for page in pages]
    return [{"name": name, "href": link, "current": link == current} for name, link in links]


def notebook_page(pandoc: Pandoc, page: notebooks.Page, pages: list, preset: str) -> str:
    note = ("As it was executed for this report." if page.executed else
            "The committed pair. It was executed with the weights that ship (preset flagship)"
            + ("." if preset == "flagship" else f", not under the report's preset {preset}."))
    metadata = {"lang": "en", "pagetitle": page.title, "note": note,
                "pages": navigation(pages, page.link)}
    return pandoc(notebooks.prepared(page.path), IPYNB, "html5", HTML, metadata)


def pdf(pandoc: Pandoc, text: str) -> bytes:
    """The report set by typst, with its own fonts: the same on each machine.

    By the standard PDF/UA-1: a picture or a formula without an alt text is an error.
    """
    arguments = [*COMMON, *CITED, f"--template={STYLE / 'report.typ'}"]
    source = pandoc.folder / "report.typ"
    source.write_text(pandoc(text, "markdown", "typst", arguments, {"lang": "en"}))
    return need("typst").compile(str(source), root=str(pandoc.folder), format="pdf",
                                 pdf_standards="ua-1", ignore_system_fonts=True)


def build(run: Run) -> dict[str, bytes]:
    """{file name: contents}: the report as a page and as a PDF, and a page for each notebook."""
    names = document.figures_named()
    run.require(names)
    for module in ("pypandoc", "typst"):                         # before a minute is spent
        need(module)
    pages = notebooks.find(run.preset.name)
    links = [{"title": page.title, "link": page.link} for page in pages]
    with workshop(run, names) as (pandoc, files):
        text = document.report(run, links, files)
        metadata = {"lang": "en", "pages": navigation(pages, MADE[0]), "pdf": MADE[1]}
        index = pandoc(text, "markdown", "html5", [*HTML, *CITED], metadata)
        made = {MADE[0]: index.encode(), MADE[1]: pdf(pandoc, text)}
        for page in pages:
            made[page.link] = notebook_page(pandoc, page, pages, run.preset.name).encode()
    return made


def write(run: Run, folder: Path | None = None) -> list[Path]:
    """Build the report into `folder`, by default report/; returns the files."""
    folder = folder or home() / "report"
    paths = []
    for name, contents in build(run).items():
        write_atomically(folder / name, contents)
        paths.append(folder / name)
    return paths
