"""Execute the five notebooks in order and print a table: notebook, seconds, key figure.

    python notebooks/run.py                            # preset quick, into notebooks/executed/quick/
    VQLIB_PRESET=smoke python notebooks/run.py 03 04   # some of them, another preset
    python notebooks/run.py --commit                   # refresh the committed .ipynb twins instead

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
from vqlib.plots import figures
from vqlib.presets import open_workspace

HERE = Path(__file__).resolve().parent


def show(cell, cell_index, execute_reply):
    """Pass on what the cell printed last, so that a long run is seen to move."""
    lines = [line for o in cell.get("outputs", []) if o.output_type == "stream" for line in o.text.splitlines()]
    if lines:
        print("   ", lines[-1][:120], flush=True)


def execute(script: Path, target: Path, commit: bool) -> float:
    """Run one percent script as a notebook; returns seconds. A failing notebook is not written."""
    notebook = jupytext.read(script)
    old = script.with_suffix(".ipynb")
    known = [c.id for c in nbformat.read(old, 4).cells] if old.exists() else []
    for i, cell in enumerate(notebook.cells):                   # stable ids: a rebuild changes outputs only
        cell["id"] = known[i] if len(known) == len(notebook.cells) else f"{script.stem[:2]}-{i:02d}"
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    start = time.time()
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False,
                            store_widget_state=not commit, on_cell_executed=show,
                            resources={"metadata": {"path": str(HERE)}})
    client.execute()
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)
    return time.time() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="numbers, such as 03; default: all five")
    parser.add_argument("--commit", action="store_true", help="write the twins beside the scripts")
    args = parser.parse_args()
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    scripts = [s for s in sorted(HERE.glob("0?_*.py")) if not args.which or s.stem[:2] in args.which]
    try:
        ws, table = open_workspace(), []
    except ValueError as error:
        print(f"vqlib: {error}", file=sys.stderr)
        return 1
    print(ws)
    for script in scripts:
        print(f"{script.stem} ...", flush=True)
        target = script.with_suffix(".ipynb") if args.commit else \
             home() / "notebooks" / "executed" / ws.preset.name / script.with_suffix(".ipynb").name
        try:
            seconds = execute(script, target, args.commit)
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            print(f"{script.stem} failed; nothing of it was written", file=sys.stderr)
            return 1
        key = json.loads((ws.folder / f"{script.stem[:2]}.json").read_text())["key_figure"]
        table.append((script.stem, f"{seconds:.0f}", key))
    total = sum(int(row[1]) for row in table)
    last = "total", str(total), f"figures in {figures(ws.preset.name).name}/"
    for row in [("notebook", "seconds", "key figure"), *table, last]:
        print(f"{row[0]:24s} {row[1]:>8s}  {row[2]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
