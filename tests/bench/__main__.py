"""Benchmarks: `python -m tests.bench [name ...]` measures, fills results.json, prints a table.

Names: sampling, quantizing, priors, images, imports; none means all. `--table` only prints what is
there. Each row was measured in one run, contestants in turn, and keeps its machine and day.
"""
import argparse
import datetime
import json
import os
import platform
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch

from vqlib.backend.cpu import keep_pages

from .timing import Row

NAMES = ("sampling", "quantizing", "priors", "images", "imports")
HEADER = ("what", "against", "to reach", "min / median / max", "reached", "behind it")
RESULTS = Path(__file__).with_name("results.json")


def machine() -> dict:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.machine(),
            "cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "load": round(os.getloadavg()[0], 1),
            "day": datetime.date.today().isoformat()}


def table(results: dict[str, list[Row]]) -> str:
    lines = [HEADER, ["---"] * len(HEADER)]
    lines += [row.cells() for rows in results.values() for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machines(results: dict[str, list[Row]]) -> str:
    text = "{cpu}, {threads} threads on {cores} cores, torch {torch}, load {load}, {day}"
    lines = [text.format(**row.machine) for rows in results.values() for row in rows]
    return "Measured on " + "; ".join(dict.fromkeys(lines))


def load(path: Path) -> dict[str, list[Row]]:
    """Rows of each benchmark that a file of results has."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    return {name: [Row(**row) for row in kept.get(name, [])] for name in NAMES}


def save(path: Path, results: dict[str, list[Row]]) -> None:
    rows = {name: [asdict(row) for row in some] for name, some in results.items()}
    path.write_text(json.dumps(rows, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--table", action="store_true", help="print the results that are there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    unknown = set(args.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    keep_pages()                                                 # as commands and notebooks do
    results = load(args.results)
    for name in [] if args.table else args.names or NAMES:
        results[name] = []
        for row in import_module(f".{name}", __package__).bench():
            row.machine = machine()
            results[name].append(row)
            print(*row.cells(), sep="  |  ", flush=True)
        save(args.results, results)
    print(f"\n{table(results)}\n\n{machines(results)}")


if __name__ == "__main__":
    main()
