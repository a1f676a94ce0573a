"""python -m vqlib explore: the five explorers as one page in a browser, or two as an HTML file."""
import sys
import threading
import webbrowser
from pathlib import Path

from vqlib.backend.files import write_atomically
from vqlib.cli.options import (
    add_command,
    add_data,
    add_weights,
    columns_of,
    open_pipeline,
    path_name,
    port,
)

PORT = 8866


def add(commands) -> None:
    p = add_command(commands, "explore", run, __doc__.split(": ")[1], "python -m vqlib explore")
    p.add_argument("--port", type=port, default=PORT, metavar="N",
                   help=f"port, 0: any free one; default: {PORT}, else a free one")
    p.add_argument("--no-browser", action="store_true", help="print the address only")
    p.add_argument("--html", type=path_name, metavar="FILE",
                   help="write codebook and reconstruction as a page that needs no Python, and "
                        "end; default: serve all five")
    add_data(p)
    p.set_defaults(decoder=None)
    add_weights(p)


def run(args) -> None:
    if args.html and (args.data or any(columns_of(args).values())):
        raise ValueError("a page of --html shows no data set: leave out --data and the columns")
    pipeline = open_pipeline(args, "prior")
    if args.html:
        return write_page(args.html, pipeline)
    from vqlib.explorers.all_five import all_five
    server = listen(all_five(pipeline, args.data, **columns_of(args)), args.port)
    print(f"explorers at {server.address}\nCtrl+C ends them", flush=True)
    if not args.no_browser:
        threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nended")
    finally:
        server.server_close()


def listen(explorers, port: int):
    """A server at the port, or at a free one if only the default port is taken."""
    from vqlib.explorers.server import Server
    try:
        return Server(explorers, port)
    except OSError as e:
        if port != PORT:
            raise ValueError(f"port {port} is taken or not allowed: leave out --port") from e
        print(f"port {PORT} is taken, another is used", file=sys.stderr)
        return Server(explorers, 0)


def write_page(path: Path, pipeline) -> None:
    from vqlib.explorers import Codebook, Reconstruction
    from vqlib.explorers.static import page
    text = page([Reconstruction(pipeline), Codebook(pipeline)])
    write_atomically(path, text.encode())
    print(f"wrote {path}: opens offline, {len(text) / 1e6:.1f} MB")
