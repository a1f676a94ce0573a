"""python -m vqlib {download,train,evaluate,sample}: what the notebooks do, without them.

One module per command: `add(commands)` declares its options, `run(args)` does it.
"""
import argparse
import sys

from vqlib.backend.cpu import keep_pages
from vqlib.backend.distributed import joined
from vqlib.cli import download, evaluate, sample, train


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m vqlib", description=__doc__.split("\n")[0])
    commands = top.add_subparsers(dest="command", required=True)
    for command in (download, train, evaluate, sample):
        command.add(commands)
    return top


def main(argv=None) -> int:
    """Run a command; 0, or 1 after a one-line message if something the user can mend is wrong."""
    args = parser().parse_args(argv)
    keep_pages()
    try:
        with joined():
            args.run(args)
    except (ValueError, OSError, ImportError, FloatingPointError) as e:
        print(f"vqlib: {e}", file=sys.stderr)                    # DataError, FileError: ValueErrors
        return 1
    return 0
