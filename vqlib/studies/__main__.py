"""Run every row of a study that has no result yet, and keep what it measures as JSON."""
import argparse
from pathlib import Path

from vqlib.studies.runner import STUDIES, run_all
from vqlib.studies.study import FOLDER


def main(argv=None) -> None:
    p = argparse.ArgumentParser(prog="python -m vqlib.studies", description=__doc__)
    p.add_argument("study", choices=(*STUDIES, "all"))
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2],
                   help="default: 0 1 2; codec runs under the first only")
    p.add_argument("--data", help="folder or .npz; default: $VQLIB_DATA, data/ham10000, synthetic")
    p.add_argument("--out", type=Path, default=FOLDER, help="of results; default: data/studies")
    args = p.parse_args(argv)
    names = list(STUDIES) if args.study == "all" else [args.study]
    for study, row, seed, was_run in run_all(names, args.data, args.seeds, args.out):
        print(f"{study.name} {row.key} {seed}: {'done' if was_run else 'was there'}", flush=True)


if __name__ == "__main__":
    main()
