"""python -m vqlib download: fetch a published data set into data/, or list what there is."""
from vqlib.backend.paths import home
from vqlib.cli.options import add_command, path_name
from vqlib.data.catalogue import CATALOGUE


def add(commands) -> None:
    p = add_command(commands, "download", run, __doc__.split(": ")[1],
                    "python -m vqlib download list")
    p.add_argument("name", choices=("list", *CATALOGUE), metavar="NAME", type=str.lower,
                   help="list, or " + ", ".join(CATALOGUE))
    p.add_argument("--folder", type=path_name, metavar="DIR", help="default: data/NAME")


def run(args) -> None:
    from vqlib.data.download import download, readable, state  # requests is slow to import
    if args.name == "list":
        print(f"{'name':17} {'images':>6}  {'size':12} {'licence':13} present")
        for name, entry in CATALOGUE.items():
            print(f"{name:17} {entry.images:6}  {readable(entry.size):12} {entry.licence:13} "
                  f"{state(entry, home() / 'data' / name)}")
        return
    try:
        folder = download(args.name, args.folder)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on from here") from None
    found = folder == home() / "data" / "ham10000"
    print(f"{CATALOGUE[args.name].title} ({CATALOGUE[args.name].licence}) lies in {folder}: "
          + ("it is found without being named" if found else f"--data {folder}"))
