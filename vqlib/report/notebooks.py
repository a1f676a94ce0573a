"""The five notebooks as pandoc reads them: with alt texts, and without what needs a kernel."""
import html
import json
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from vqlib.alt_texts import ALT_TEXTS, EXPLORER, NO_PICTURE, PICTURE
from vqlib.backend.paths import home

COMMITTED = Path(__file__).resolve().parents[2] / "notebooks"    # the pairs of this checkout
PICTURES = ("image/png", "image/jpeg")
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Page:
    """A notebook that becomes a page."""

    path: Path
    executed: bool                   # under the report's preset; else as it was committed

    @property
    def link(self) -> str:
        return f"{self.path.stem}.html"

    @property
    def title(self) -> str:
        """The notebook's first heading."""
        first = nbformat.read(self.path, 4).cells[0].source.splitlines()[0]
        return first.removeprefix("# ")


def find(preset: str) -> list[Page]:
    """Each notebook as it was executed under the preset, else its committed pair."""
    executed = home() / "notebooks" / "executed" / preset
    pages = []
    for committed in sorted(COMMITTED.glob("0?_*.ipynb")):
        copy = executed / committed.name
        pages.append(Page(copy if copy.exists() else committed, copy.exists()))
    return pages


def figure_names(source: str) -> list[str]:
    """Names under which a cell saves figures, in its order."""
    return re.findall(r'plots\.save\(\s*fig, ws, "([^"]+)"', source)


def prepared(path: Path) -> str:
    """The notebook as JSON in which each picture has an alt text."""
    notebook, join = nbformat.read(path, 4), CoalesceStreamsPreprocessor()
    for n, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            names = iter(figure_names(cell.source))
            join.preprocess_cell(cell, {}, n)                    # printed lines in one block
            cell.outputs = [show(output, names) for output in cell.outputs]
    return json.dumps(notebook)


def show(output, names):
    """An output as it is, or what stands for its picture or its explorer on a page.

    names: of the figures that the cell saves and that have not been shown yet. Of an output in
    several forms pandoc would take the plain text: Markdown goes alone.
    """
    data = output.get("data", {})
    mime = next((mime for mime in PICTURES if mime in data), None)
    if mime:
        alt = EXPLORER if WIDGET in data else ALT_TEXTS.get(next(names, ""), PICTURE)
        source = f"data:{mime};base64,{''.join(data[mime].split())}"
        return form("text/html", f'<img alt="{html.escape(alt)}" src="{source}">')
    if WIDGET in data:
        return form("text/markdown", f"*{NO_PICTURE}*")
    if "text/markdown" in data:
        return form("text/markdown", data["text/markdown"])
    return output


def form(mime: str, text: str):
    """An output in one form only."""
    return nbformat.v4.new_output("display_data", {mime: text})
