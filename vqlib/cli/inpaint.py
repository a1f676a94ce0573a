"""python -m vqlib inpaint: draw a part of a picture anew, as a chosen diagnosis."""
from pathlib import Path

import torch
from torch import Tensor

from vqlib.backend.files import write_atomically
from vqlib.cli.options import (
    add_command,
    add_decoder,
    add_sampling,
    add_weights,
    images,
    in_words,
    open_pipeline,
    path_name,
    png_name,
    sampling_of,
    seed,
)
from vqlib.data.decode import Geometry
from vqlib.pictures import read_picture, sheet, to_png, upright_size
from vqlib.pipeline import sampling_for

COVERED = 0.25                                                   # of a cell that is drawn anew


def add(commands) -> None:
    p = add_command(commands, "inpaint", run, __doc__.split(": ")[1],
                    "python -m vqlib inpaint --class mel\n"
                    "with your own picture:\n"
                    "  python -m vqlib inpaint photo.jpg --box 20,20,60,60 --class bcc")
    p.add_argument("picture", nargs="?", type=path_name, metavar="PICTURE",
                   help="any picture, its centre is kept; default: a sample of the class any")
    where = p.add_mutually_exclusive_group()
    where.add_argument("--box", metavar="L,T,R,B", default="25,25,75,75",
                       help="left, top, right, bottom in %% of the square; default: 25,25,75,75")
    where.add_argument("--mask", type=path_name, metavar="FILE",
                       help="picture cut like PICTURE, bright where to draw anew; default: --box")
    p.add_argument("--class", dest="label", default="any", metavar="NAME",
                   help="a diagnosis, such as mel, or any; default: any")
    p.add_argument("--n", type=images, default=4, help="redraws; default: 4")
    p.add_argument("--seed", type=seed, default=0, help="of the draws; default: 0")
    p.add_argument("--out", type=path_name, default=Path("inpainted.png"), metavar="FILE",
                   help="PNG sheet: picture, the same from codes with the part marked, redraws; "
                        "default: inpainted.png")
    add_decoder(p)
    add_sampling(p, shipped=True)
    add_weights(p)


def run(args) -> None:
    out = png_name(args.out, [args.picture, args.mask])
    pipeline = open_pipeline(args, "prior")
    label, sampling = pipeline.label(args.label), sampling_for(args.label, **sampling_of(args))
    original, codes, note = starting_point(args, pipeline)       # (3, S, S), (h, w)
    redrawn = cells_of(args, pipeline)                           # (h, w) bool
    drawn = pipeline.gpt.generate(
        torch.full((args.n,), label), **sampling, seed=args.seed,
        known=codes.flatten().expand(args.n, -1), keep=~redrawn.flatten().expand(args.n, -1))
    decoded = pipeline.decode(codes[None], args.decoder)[0]      # (3, S, S)
    images = pipeline.decode(drawn, args.decoder)                # (n, 3, S, S)
    panels = torch.cat([torch.stack([original, mark(decoded, redrawn)]), images])
    where = str(args.mask.name) if args.mask else args.box
    settings = {"class": args.label, "n": args.n, "where": where,
                "decoder": args.decoder or pipeline.decoders[0], **sampling, "seed": args.seed}
    write_atomically(out, to_png(sheet(panels), **settings))
    print(f"{note}\nwrote {out}: {int(redrawn.sum())} of {redrawn.numel()} codes drawn anew "
          f"{args.n} times as class {args.label}, {in_words(sampling)}, seed {args.seed}")


def starting_point(args, pipeline) -> tuple[Tensor, Tensor, str]:
    """What is changed: image (3, S, S), its codes (h, w), and a line on where it comes from."""
    if args.picture:
        picture = read_picture(args.picture, pipeline.geometry)
        return picture.image, pipeline.encode(picture.image[None])[0], \
            f"{args.picture.name}: {picture.note}"
    labels = torch.tensor([pipeline.label("any")])
    codes = pipeline.gpt.generate(labels, **sampling_for("any"), seed=args.seed)    # (1, T)
    image = pipeline.decode(codes, args.decoder)[0]
    side = pipeline.gpt.cfg.grid
    return image, codes.view(side, side), f"no picture given: a sample, seed {args.seed}"


def cells_of(args, pipeline) -> Tensor:                          # -> (h, w) bool
    """Cells of which the box or the mask covers a quarter or more.

    Raises ValueError if that is none, or for a box that is none.
    """
    side, f = pipeline.gpt.cfg.grid, 2**pipeline.vqvae.cfg.n_down
    S = side * f
    if args.mask:
        pixels = mask_of(args, pipeline.geometry)                # (S, S)
    else:
        left, top, right, bottom = box_of(args.box)
        place = (torch.arange(S) + 0.5) / S * 100                # percent
        across, down = (place > left) & (place < right), (place > top) & (place < bottom)
        pixels = (down[:, None] & across).float()
    covered = pixels.view(side, f, side, f).mean((1, 3))
    cells = covered >= COVERED
    if not cells.any():
        raise ValueError(f"{'the mask' if args.mask else f'--box {args.box}'} covers no cell of "
                         f"{f} x {f} px: nothing would be drawn")
    return cells


def box_of(text: str) -> list[float]:
    """Four percentages; raises ValueError unless they make a box."""
    try:
        left, top, right, bottom = (float(part) for part in text.split(","))
    except ValueError:
        left, top, right, bottom = 1, 1, 0, 0
    if not (0 <= left < right <= 100 and 0 <= top < bottom <= 100):
        raise ValueError(f"--box {text} is no left,top,right,bottom in percent, such as "
                         "25,25,75,75")
    return [left, top, right, bottom]


def mask_of(args, geometry: Geometry) -> Tensor:                 # -> (S, S), 1: draw anew
    """The mask, cut like the picture. Raises ValueError if it has another shape."""
    mask = read_picture(args.mask, geometry).image
    if args.picture:
        (w, h), (W, H) = upright_size(args.mask), upright_size(args.picture)
        if abs(w * H - h * W) > max(w, h) + max(W, H):           # more than rounding
            raise ValueError(f"--mask is {w} x {h} px, the picture {W} x {H}: they need the same "
                             "shape")
    return (mask.mean(0) > 0.5).float()


def mark(image: Tensor, cells: Tensor) -> Tensor:                # (3, S, S), (h, w) bool
    """The image with the marked cells half white, so that the part to be drawn is seen."""
    f = image.shape[-1] // cells.shape[-1]
    where = cells.repeat_interleave(f, 0).repeat_interleave(f, 1)
    return torch.where(where, 0.5 + image / 2, image)
