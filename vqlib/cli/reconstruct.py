"""python -m vqlib reconstruct: what the codes keep of any pictures, and what they lose."""
import csv
import io
import sys
from pathlib import Path

import torch

from vqlib import metrics
from vqlib.backend.files import write_atomically
from vqlib.cli.options import (
    add_command,
    add_decoder,
    add_weights,
    not_over,
    open_pipeline,
    path_name,
)
from vqlib.data import synthetic
from vqlib.data.records import DataError
from vqlib.pictures import Picture, code_map, list_files, read_pictures, sheet, to_png

ON_SHEET = 16                                                    # pictures: a sheet is to be seen


def add(commands) -> None:
    p = add_command(commands, "reconstruct", run, __doc__.split(": ")[1],
                    "python -m vqlib reconstruct\n"
                    "with your own pictures:\n"
                    "  python -m vqlib reconstruct photo.jpg holiday/ --out mine")
    p.add_argument("pictures", nargs="*", type=path_name, metavar="PICTURE",
                   help="files and folders: JPEG, PNG, BMP, TIFF, WebP of any size; the centre is "
                        "kept; default: six lesions that the program paints")
    p.add_argument("--out", type=path_name, default=Path("reconstructed"), metavar="FOLDER",
                   help="gets NAME.original.png, one file per decoder, NAME.codes.png, sheet.png "
                        "and psnr.csv (dB); default: reconstructed")
    add_decoder(p, several=True)
    add_weights(p, prior=False)


def run(args) -> None:
    given, pipeline, lines, rows = list_files(args.pictures), open_pipeline(args), [], []
    not_over(args.out / "sheet.png", given)
    for picture in usable(open_pictures(given, pipeline)):
        panels, decibels = reconstruct(pipeline, picture, args.decoder)
        for name, image in panels.items():
            out = not_over(args.out / f"{picture.name}.{name}.png", given)
            write_atomically(out, to_png(image))
        lines.append({"picture": picture.name, **decibels, "kept": picture.note})
        if len(rows) < ON_SHEET:
            rows.append(torch.stack([*panels.values()]))         # (panels, 3, S, S)
        values = ", ".join(f"{name} {value} dB" for name, value in decibels.items())
        print(f"{picture.name}: {picture.note}: {values}", flush=True)
    write_atomically(args.out / "sheet.png", to_png(sheet(torch.cat(rows), len(rows[0]))))
    write_atomically(args.out / "psnr.csv", table(lines).encode())
    print(f"wrote {args.out}/ for {len(lines)} pictures; sheet.png shows {len(rows)}: "
          f"{', '.join(panels)}")


def open_pictures(paths: list[Path], pipeline):
    """Yield the pictures of files and folders; without any, lesions of the built-in generator."""
    if paths:
        yield from read_pictures(paths, pipeline.geometry)
        return
    side = pipeline.geometry.crop
    images, factors = synthetic.synthetic(6, side, seed=0)       # (6, 3, S, S) uint8
    for i, (image, label) in enumerate(zip(torch.from_numpy(images).float() / 255, factors.label)):
        name = f"painted-{i + 1}-{synthetic.CLASSES[label]}"
        yield Picture(name, image, f"{side} x {side} px, painted by a program")


def usable(found):
    """The pictures among pictures and errors, which go to stderr; DataError if there is none."""
    n, error = 0, None
    for item in found:
        if isinstance(item, DataError):
            error = item
            print(f"vqlib: skipped {item}", file=sys.stderr)
        else:
            n += 1
            yield item
    if not n:
        raise DataError(f"none of the pictures could be used; the last: {error}")


def reconstruct(pipeline, picture: Picture, decoder: str | None):
    """{name: (3, S, S)} of original, decodings and code map; {decoder: PSNR in dB}."""
    x = picture.image[None]
    codes = pipeline.encode(x)                                   # (1, h, w)
    panels, decibels = {"original": picture.image}, {}
    for name in [decoder] if decoder else pipeline.decoders[::-1]:
        x_hat = pipeline.decode(codes, name)                     # (1, 3, S, S)
        panels[name] = x_hat[0]
        decibels[name] = round(float(metrics.psnr(x_hat, x)), 2)
    cfg = pipeline.vqvae.cfg
    panels["codes"] = code_map(codes[0], cfg.n_codes, 2**cfg.n_down)
    return panels, decibels


def table(lines: list[dict]) -> str:
    """CSV with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0])
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
