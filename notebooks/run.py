"""Execute the five notebooks in order and print a table: notebook, seconds, key metric.

    python notebooks/run.py                           # preset quick; notebooks/executed/quick/
    VQLIB_PRESET=smoke python notebooks/run.py 03 04  # some of them, another preset
    python notebooks/run.py --commit                  # refresh the committed .ipynb files instead

Data: $VQLIB_DATA, else data/ham10000, else synthetic lesions.
"""
import argparse
import json
import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from vqlib.backend.paths import home
from vqlib.data.sources import locate
from vqlib.plots import UNDATED, figure_folder
from vqlib.records import record
from vqlib.workspace import open_workspace

HERE = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


class Client(NotebookClient):
    """Executes a notebook, and prints what its cells print while they run.

    Each line says which cell it is of how many, and the minutes since the notebook began.
    """

    began = printed = 0.0  # seconds, when the notebook began, and when a line was printed
    waiting = ""           # the last text of a line that is replaced, if it was not printed

    def process_message(self, msg, cell, cell_index):
        kind, content = msg["msg_type"], msg["content"]
        if kind == "stream":
            self.pass_on(content["text"], cell_index)
        elif kind.endswith("display_data") and set(content["data"]) == {"text/plain"}:
            self.waiting = content["data"]["text/plain"]         # a training's line
            if time.time() - self.printed >= 10:
                self.pass_on_waiting(cell_index)
        return super().process_message(msg, cell, cell_index)

    def pass_on_waiting(self, cell_index: int, **_) -> None:
        text, self.waiting = self.waiting, ""
        self.pass_on(text, cell_index)

    def pass_on(self, text: str, cell_index: int) -> None:
        self.printed = time.time()
        minutes, seconds = divmod(int(self.printed - self.began), 60)
        for line in filter(None, text.splitlines()):
            print(f"  cell {cell_index + 1:2d} of {len(self.nb.cells)}  {minutes:2d}:{seconds:02d}"
                  f"  {line[:120]}", flush=True)


def read_script(script: Path):
    """The notebook of a percent script.

    Cells keep the ids of the committed notebook: a rebuild changes outputs only.
    """
    notebook, paired = jupytext.read(script), script.with_suffix(".ipynb")
    ids = [cell.id for cell in nbformat.read(paired, 4).cells] if paired.exists() else []
    if len(ids) != len(notebook.cells):
        ids = [f"{script.stem[:2]}-{i:02d}" for i in range(len(notebook.cells))]
    for cell, cell_id in zip(notebook.cells, ids):
        cell["id"] = cell_id
    # what Lab writes when it saves: opening a committed notebook changes nothing
    notebook.metadata["kernelspec"] = KERNEL
    notebook.metadata["jupytext"] = {"notebook_metadata_filter": "-all"}
    return notebook


def execute(script: Path, target: Path) -> float:
    """Run one percent script as a notebook; returns seconds. A failing notebook is not written."""
    notebook, start = read_script(script), time.time()
    client = Client(
        notebook, timeout=None, kernel_name="python3", record_timing=False,
        extra_arguments=["--log-level=ERROR"],                   # no warning of how it is connected
        store_widget_state=False, resources={"metadata": {"path": str(HERE)}})
    client.began, client.on_cell_executed = start, client.pass_on_waiting
    client.execute()
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    return time.time() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="numbers, such as 03; default: all five")
    parser.add_argument("--commit", action="store_true",
                        help="write the paired notebooks beside the scripts")
    parser.add_argument("--record", action="store_true",
                        help="keep the metrics in data/notebooks/, for the notebooks' tables")
    parser.add_argument("--format", choices=UNDATED, default="png",
                        help="of the files in figures/; default: png")
    args = parser.parse_args()
    os.environ["VQLIB_FIGURES"] = args.format
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    scripts = [script for script in sorted(HERE.glob("0?_*.py"))
               if not args.which or script.stem[:2] in args.which]
    try:
        if os.environ.get("VQLIB_DATA"):  # kernels run in another folder: what is meant is here
            os.environ["VQLIB_DATA"] = str(locate())
        ws = open_workspace()
    except ValueError as error:
        print(f"vqlib: {error}", file=sys.stderr)
        return 1
    print(ws)
    folder = HERE if args.commit else home() / "notebooks" / "executed" / ws.preset.name
    rows, measured = [], {}
    for script in scripts:
        print(f"{script.stem} ...", flush=True)
        try:
            seconds = execute(script, folder / f"{script.stem}.ipynb")
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            print(f"{script.stem} failed; nothing of it was written", file=sys.stderr)
            return 1
        results = json.loads((ws.folder / f"{script.stem[:2]}.json").read_text())
        rows.append((script.stem, f"{seconds:.0f}", results["key_metric"]))
        measured[script.stem[:2]] = results.get("rows", {})
    if args.record:
        print(f"kept in {record(ws, measured).name}")
    total = sum(int(seconds) for _, seconds, _ in rows)
    figures = figure_folder(ws.preset.name, ws.dataset.title)
    last = "total", str(total), f"figures in {figures.name}/"
    for name, seconds, metric in [("notebook", "seconds", "key metric"), *rows, last]:
        print(f"{name:24s} {seconds:>8s}  {metric}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
