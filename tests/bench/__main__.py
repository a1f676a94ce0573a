"""Benchmarks: `python -m tests.bench [name ...]` measures, fills results.json, prints tables.

Names: sampling, quantizing, priors, images, imports; none means all. Rows of other machines stay.
`--table` measures nothing. The tables also go into README.md, which says what they compare.
"""
import argparse
from importlib import import_module
from pathlib import Path

from vqlib.backend.cpu import keep_pages

from .results import NAMES, README, RESULTS, key, load, machine, refresh, save, tables


def measure(name: str) -> list:
    """Rows of a benchmark, printed as they come."""
    rows = []
    for row in import_module(f".{name}", __package__).bench():
        row.machine = machine()
        rows.append(row)
        print(*row.cells(), sep="  |  ", flush=True)
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--table", action="store_true", help="print the results that are there")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    unknown = set(args.names) - set(NAMES)
    if unknown:
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    keep_pages()                                                 # as commands and notebooks do
    results = load(args.results)
    if not args.table:
        here = key(machine())
        print(here, flush=True)
        for name in args.names or NAMES:
            results.setdefault(here, {})[name] = measure(name)
            save(args.results, results)
    text = tables(results)
    print(f"\n{text}")
    if args.results.resolve() == RESULTS.resolve():
        refresh(README, text)


if __name__ == "__main__":
    main()
