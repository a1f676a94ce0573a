"""python -m vqlib: the command line, see vqlib/cli."""
import sys

try:
    from vqlib.cli import main
except KeyboardInterrupt:                                        # torch takes seconds to load
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
