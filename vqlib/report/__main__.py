"""python -m vqlib.report: the course report as a page and a PDF, from what the notebooks saved.

    python -m vqlib.report                   # of $VQLIB_PRESET, else of the run that has results
    python -m vqlib.report --preset quick --out somewhere
"""
import argparse
import sys
from pathlib import Path

from vqlib.report.build import write
from vqlib.report.saved import find_run


def main(argv=None) -> int:
    p = argparse.ArgumentParser(prog="python -m vqlib.report", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--preset", help="default: $VQLIB_PRESET, else the one whose results are there")
    p.add_argument("--out", type=Path, help="folder to write to; default: report/")
    args = p.parse_args(argv)
    try:
        run = find_run(args.preset)
        print(f"preset {run.preset.name}, results in data/runs/{run.folder.name}/", flush=True)
        for path in write(run, args.out):
            print(f"{path.stat().st_size / 1e6:6.2f} MB  {path.parent.name}/{path.name}")
    except (ValueError, ImportError) as error:
        print(f"vqlib: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
