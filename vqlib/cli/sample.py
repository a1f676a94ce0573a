"""python -m vqlib sample: draw new images of a class onto one PNG sheet."""
from pathlib import Path

import torch

from vqlib.backend.files import write_atomically
from vqlib.cli.options import (
    add_command,
    add_compile,
    add_decoder,
    add_sampling,
    add_weights,
    compile_parts,
    images,
    in_words,
    open_pipeline,
    path_name,
    png_name,
    sampling_of,
    seed,
)
from vqlib.pictures import sheet, to_png
from vqlib.pipeline import sampling_for


def add(commands) -> None:
    p = add_command(commands, "sample", run, __doc__.split(": ")[1],
                    "python -m vqlib sample --class mel --n 8")
    p.add_argument("--class", dest="label", default="any", metavar="NAME",
                   help="a diagnosis, such as mel, or any; default: any")
    p.add_argument("--n", type=images, default=32, help="number of images; default: 32")
    p.add_argument("--seed", type=seed, default=0, help="of the draws; default: 0")
    p.add_argument("--out", type=path_name, default=Path("samples.png"), metavar="FILE",
                   help="PNG, settings and seed inside; default: samples.png")
    add_decoder(p)
    add_compile(p)
    add_sampling(p, shipped=True)
    add_weights(p)


def run(args) -> None:
    out, pipeline = png_name(args.out), open_pipeline(args, "prior")
    label, sampling = pipeline.label(args.label), sampling_for(args.label, **sampling_of(args))
    compile_parts(pipeline.gpt, args.compile)
    compile_parts(pipeline.vqvae, args.compile)
    codes = pipeline.gpt.generate(torch.full((args.n,), label), **sampling, seed=args.seed)
    drawn = pipeline.decode(codes, args.decoder)                 # (n, 3, H, W)
    decoder = args.decoder or pipeline.decoders[0]
    settings = {"class": args.label, "n": args.n, "decoder": decoder, **sampling,
                "seed": args.seed}
    write_atomically(out, to_png(sheet(drawn), **settings))
    print(f"wrote {out}: {args.n} images of class {args.label}, {decoder} decoder, "
          f"{in_words(sampling)}, seed {args.seed}")
