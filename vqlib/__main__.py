"""python -m vqlib: the command line, see vqlib/cli."""
import sys

from vqlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
