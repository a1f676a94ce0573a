"""What a reader can expect: metrics of the notebooks in a few settings, kept beside the code.

`python notebooks/run.py --record` writes them; notebooks show them as a table, so that no such
number is typed into a text.
"""
import json
from pathlib import Path

from vqlib.backend import paths
from vqlib.backend.files import is_there, read_json, write_atomically

# title of a column -> name of its file in data/notebooks/
SETTINGS = {"`quick`, synthetic lesions": "quick-synthetic", "`quick`, HAM10000": "quick-ham10000",
            "`flagship`, HAM10000, weights that ship": "flagship-ham10000"}


def file_of(preset: str, data_title: str) -> Path:
    """Where the metrics of a setting are kept, whether it is one of `SETTINGS` or not."""
    data = data_title.split()[0].strip(",").lower()
    return paths.home() / "data" / "notebooks" / f"{preset}-{data}.json"


def record(workspace, notebooks: dict[str, dict[str, str]]) -> Path:
    """Keep rows {measure: value} of notebooks {"01": rows}; those of other notebooks stay."""
    path = file_of(workspace.preset.name, workspace.dataset.title)
    kept = read_json(path) if is_there(path) else {}
    text = json.dumps({**kept, **notebooks}, indent=1, ensure_ascii=False, sort_keys=True)
    write_atomically(path, text.encode() + b"\n")
    return path


def expected(notebook: str, rows: dict[str, str]) -> str:
    """Markdown: a notebook's measures {measure: value} of this run, and those kept of `SETTINGS`.

    A setting without metrics has no column.
    """
    columns = {"this run": rows}
    for title, name in SETTINGS.items():
        kept = {}
        for place in (paths.CHECKOUT, paths.home()):               # a $VQLIB_HOME may have none
            path = place / "data" / "notebooks" / f"{name}.json"
            kept |= read_json(path) if is_there(path) else {}
        if of_setting := kept.get(notebook):
            columns[title] = of_setting
    measures = dict.fromkeys(name for values in columns.values() for name in values)
    lines = [["measure", *columns], ["---"] * (1 + len(columns))]
    lines += [[name, *(values.get(name, "-") for values in columns.values())] for name in measures]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
