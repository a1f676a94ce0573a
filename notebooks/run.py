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
from vqlib.plots import figure_folder
from vqlib.workspace import open_workspace

HERE = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def show_progress(cell, cell_index, execute_reply):
    """Pass on what the cell printed last, so that a long run is seen to move."""
    outputs = [o for o in cell.get("outputs", []) if o.output_type == "stream"]
    lines = "".join(o.text for o in outputs).splitlines()
    if lines:
        print("   ", lines[-1][:120], flush=True)


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
    notebook.metadata["kernelspec"] = KERNEL
    return notebook


def execute(script: Path, target: Path, commit: bool) -> float:
    """Run one percent script as a notebook; returns seconds. A failing notebook is not written."""
    notebook, start = read_script(script), time.time()
    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", record_timing=False,
        store_widget_state=not commit, on_cell_executed=show_progress,
        resources={"metadata": {"path": str(HERE)}})
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
    args = parser.parse_args()
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
    rows = []
    for script in scripts:
        print(f"{script.stem} ...", flush=True)
        try:
            seconds = execute(script, folder / f"{script.stem}.ipynb", args.commit)
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            print(f"{script.stem} failed; nothing of it was written", file=sys.stderr)
            return 1
        results = json.loads((ws.folder / f"{script.stem[:2]}.json").read_text())
        rows.append((script.stem, f"{seconds:.0f}", results["key_metric"]))
    total = sum(int(seconds) for _, seconds, _ in rows)
    last = "total", str(total), f"figures in {figure_folder(ws.preset.name).name}/"
    for name, seconds, metric in [("notebook", "seconds", "key metric"), *rows, last]:
        print(f"{name:24s} {seconds:>8s}  {metric}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
