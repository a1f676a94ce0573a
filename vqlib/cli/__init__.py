"""python -m vqlib: what the notebooks do, without them; every command has defaults that work.

One module per command: `add(commands)` declares its options, `run(args)` does it.
"""
import argparse
import os
import sys

import torch

from vqlib.backend.cpu import keep_pages
from vqlib.backend.distributed import joined, rank
from vqlib.cli import codes, download, evaluate, explore, inpaint, reconstruct, sample, train


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m vqlib", description=__doc__.split("\n")[0])
    commands = top.add_subparsers(dest="command", required=True)
    for command in (download, train, evaluate, sample, reconstruct, inpaint, codes, explore):
        command.add(commands)
    return top


def ran_out_of_memory(error: Exception) -> bool:
    """Whether Python, a GPU or torch's CPU allocator, which has no error of its own, says so."""
    return (isinstance(error, (MemoryError, torch.OutOfMemoryError))
            or "can't allocate memory" in str(error))


def main(argv=None) -> int:
    """Run a command; 0, or 1 after a one-line message if something the user can mend is wrong.

    130 if it was interrupted.
    """
    args = parser().parse_args(argv)
    keep_pages()
    try:
        with joined():
            args.run(args)
            print(end="", flush=True)                            # a full disk is told here
    except BrokenPipeError:
        print("vqlib: stopped, nobody reads the output any more", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)             # what is left goes there
        return 1
    except (ValueError, OSError, ImportError, FloatingPointError) as e:
        print(f"vqlib: {e}", file=sys.stderr)                    # DataError, FileError: ValueErrors
        return 1
    except (MemoryError, RuntimeError) as e:
        if not ran_out_of_memory(e):
            raise
        print("vqlib: there is not enough memory: ask for fewer images (--n), or train with "
              f"--accumulate ({str(e).splitlines()[0]})", file=sys.stderr)
        return 1
    except KeyboardInterrupt as e:
        if rank() == 0:
            print(f"vqlib: {str(e) or 'interrupted'}", file=sys.stderr)
        return 130
    return 0
