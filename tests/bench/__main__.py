"""Benchmarks: `python -m tests.bench [name ...]` measures, keeps the figures in results.json and prints README's table.

Names: sampling, quantizing, priors, images, imports; none: all. `--table` only prints what is there. Each line was measured
in one run, contestants in turn; a line keeps the machine and the day it was measured on.
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

from vqlib.backend.memory import keep_pages

from .timing import Row

NAMES = ("sampling", "quantizing", "priors", "images", "imports")
HEADER = ("what", "against", "to reach", "min / median / max", "reached", "behind it")
RESULTS = Path(__file__).with_name("results.json")


def machine() -> dict:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.machine(), "cores": len(os.sched_getaffinity(0)),
            "threads": torch.get_num_threads(), "torch": torch.__version__, "load": round(os.getloadavg()[0], 1),
            "day": datetime.date.today().isoformat()}


def table(results: dict[str, list[Row]]) -> str:
    lines = [HEADER, ["---"] * len(HEADER), *(row.cells() for rows in results.values() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machines(results: dict[str, list[Row]]) -> str:
    seen = dict.fromkeys("{cpu}, {threads} threads on {cores} cores, torch {torch}, load {load}, {day}".format(**row.machine)
                         for rows in results.values() for row in rows)
    return "Measured on " + "; ".join(seen)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--table", action="store_true", help="print the figures that were kept")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    kept = json.loads(args.results.read_text()) if args.results.exists() else {}
    keep_pages()                                                      # as every command and notebook does
    results = {name: [Row(**row) for row in kept.get(name, [])] for name in NAMES}
    for name in [] if args.table else args.names or NAMES:
        results[name] = []
        for row in import_module(f".{name}", __package__).bench():
            row.machine = machine()
            results[name].append(row)
            print(*row.cells(), sep="  |  ", flush=True)
        args.results.write_text(json.dumps({k: [asdict(row) for row in rows] for k, rows in results.items()}, indent=1) + "\n")
    print(f"\n{table(results)}\n\n{machines(results)}")


if __name__ == "__main__":
    main()
