"""The report as Markdown: `report.md` with its placeholders filled from a run."""
import re
import textwrap
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jinja2

from vqlib.alt_texts import ALT_TEXTS
from vqlib.evaluation import tables as evaluation
from vqlib.report import course, derived, studies, text
from vqlib.report.saved import Missing, Run, how
from vqlib.report.tables import Tables
from vqlib.report.text import Markdown

FILE = Path(__file__).with_name("report.md")


@dataclass
class Numbering:
    """Figures and tables, numbered in their order; a reference may stand before what it names."""

    files: dict[str, str]                                 # figure -> its file
    known: dict[str, str] = field(default_factory=dict)   # name -> Figure 3, from a first pass
    found: dict[str, str] = field(default_factory=dict)

    def label(self, kind: str, name: str) -> str:
        if name in self.found:
            raise ValueError(f"{name} stands twice in {FILE.name}")
        n = sum(label.startswith(kind) for label in self.found.values())
        self.found[name] = f"{kind}{text.SPACE}{n + 1}"
        return self.found[name]

    def figure(self, name: str, caller) -> Markdown:
        """A figure of a notebook; the caption is the text of the call."""
        caption, alt = one_line(caller()), ALT_TEXTS[name]
        label = self.label("Figure", name)
        return Markdown(f'\n![**{label}.** {caption}]({self.files[name]})'
                        f'{{#{anchor(name)} alt="{alt}"}}\n\n')

    def table(self, name: str, body: Markdown, caller) -> Markdown:
        """A table; the caption is the text of the call, in short lines: a long one widens it."""
        caption = f": **{self.label('Table', name)}.** {one_line(caller())}"
        caption = textwrap.fill(caption, break_on_hyphens=False, break_long_words=False)
        return Markdown(f"\n::: {{#{anchor(name)}}}\n{body}\n\n{caption}\n:::\n\n")

    def list_table(self, name: str, header: list[str], align: str, caller) -> Markdown:
        """A table of sentences, see `text.listed_rows`; what stands before it is the caption."""
        caption, _, rows = caller().partition("\n* ")
        body = text.pipe_table(header, text.listed_rows("* " + rows), align)
        return self.table(name, body, lambda: caption)

    def see(self, name: str) -> Markdown:
        """A reference by name, such as Figure 3, that leads there."""
        return Markdown(f"[{self.known.get(name, name)}](#{anchor(name)})")


def anchor(name: str) -> str:
    """An identifier: it begins with a letter, which names of figures do not."""
    return f"at-{name}"


def one_line(caption: str) -> str:
    return " ".join(caption.split())


def figures_named() -> list[str]:
    """Names of the figures that the template shows."""
    return re.findall(r'call figure\("([^"]+)"\)', FILE.read_text())


def context(run: Run, pages: list[dict]) -> dict:
    """Everything that the template may name, but for figures and tables."""
    saved, models, values = run.metrics(), run.models(), course.read()
    made = {name: metadata for name, (_, metadata) in models.items()}
    samples = saved["05"]
    known = {
        **derived.of_course_report(values, run.preset.geometry),
        **derived.of_data(saved["01"]), **derived.reconstructions(saved["02"]),
        "data": saved["01"], "codebook": saved["03"], "prior": saved["04"],
        "near": samples["memorisation"], "preset": run.preset, "written": derived.WRITTEN,
        "course": values, "made": made, "models": {name: model for name, (model, _) in
                                                   models.items()},
        "vq": models["vqvae"][0].cfg, "title": made["vqvae"]["data"],
        "is_ham": "HAM10000" in made["vqvae"]["data"], "pages": pages,
        "parameters": {name: sum(p.numel() for p in model.parameters())
                       for name, (model, _) in models.items()},
    }
    first_is_faulty = run.preset.divide_by_pixel_variance        # as under `report`
    known["faulty"], known["mended"] = ((known["ours"], known["other"]) if first_is_faulty
                                        else (known["other"], known["ours"]))
    return {**known, "on_test": on_test(run)}


def on_test(run: Run) -> dict | None:
    """The evaluation of the weights that ship, if they are the run's: images, seed and rows."""
    evaluated = evaluation.published(run.folder, run.preset.name, "test")
    if not evaluated:
        return None
    found = evaluated["generation"]
    try:
        return {**found, "rows": evaluation.rows(found)}
    except KeyError as error:
        raise Missing(f"data/pretrained/{run.preset.name}-test.json is of another version of vqlib "
                      f"(no {error}): write it again as data/pretrained/README.md says") from error


@cache
def compiled(template: str) -> jinja2.Template:
    """Unknown names are errors, and what a placeholder prints is escaped unless it is Markdown."""
    env = jinja2.Environment(undefined=jinja2.StrictUndefined, finalize=text.finished,
                             trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
                             comment_start_string="<!--", comment_end_string="-->")
    env.filters |= {name: getattr(text, name) for name in ("fixed", "signed", "percent", "spread")}
    env.globals |= {name: getattr(studies, name) for name in ("effect", "losing", "setup")}
    return env.from_string(template)


def fill(template: str, known: dict, files: dict[str, str]) -> str:
    """The template's text; filled twice, since a reference may stand before what it names."""
    numbers: dict[str, str] = {}
    for _ in range(2):
        numbering = Numbering(files, numbers)
        calls = {name: getattr(numbering, name) for name in
                 ("figure", "table", "list_table", "see")}
        filled = compiled(template).render(known, rows=Tables(known), **calls)
        numbers = numbering.found
    return filled


def report(run: Run, pages: list[dict], files: dict[str, str]) -> str:
    """The report of a run as Markdown.

    pages: {title, link} of each notebook's page; files: {name: file} of each figure. Raises Missing
    if notebooks of another version saved something else.
    """
    try:
        return fill(FILE.read_text(), context(run, pages), files)
    except (jinja2.UndefinedError, KeyError) as error:
        raise Missing(f"results of another version of the notebooks ({error}); "
                      f"{how(run.preset)}") from error
