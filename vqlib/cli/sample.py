"""python -m vqlib sample: draw new images of a class."""
import io
from pathlib import Path

import torch
from PIL import Image
from torchvision.utils import save_image

from vqlib.backend.device import default_device
from vqlib.backend.files import write_atomically
from vqlib.checkpoint import load_model
from vqlib.cli.options import (
    add_compile,
    add_sampling,
    compile_parts,
    images,
    load_prior,
    load_stochastic,
    notes_on,
    sampling_of,
    seed,
)
from vqlib.data.sources import DataError


def add(commands) -> None:
    text = __doc__.split(": ")[1]
    p = commands.add_parser("sample", help=text, description=text)
    p.set_defaults(run=run)
    p.add_argument("--vqvae", type=Path, required=True, metavar="FILE")
    p.add_argument("--prior", type=Path, required=True, metavar="FILE")
    p.add_argument("--flow-decoder", type=Path, metavar="FILE",
                   help="decode with it; default: with the VQ-VAE's own decoder")
    p.add_argument("--class", dest="label", default="any", metavar="NAME",
                   help="a diagnosis, or any; default: any")
    p.add_argument("--n", type=images, default=32, help="images; default: 32")
    p.add_argument("--seed", type=seed, default=0, help="default: 0")
    p.add_argument("--out", type=Path, default=Path("samples.png"), metavar="FILE",
                   help="default: samples.png")
    add_sampling(p)
    add_compile(p)


def run(args) -> None:
    if args.out.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"--out {args.out} has no suffix of an image format, such as .png")
    vqvae, _ = load_model(args.vqvae, "vqvae")
    vqvae = vqvae.to(default_device())
    gpt, classes = load_prior(args.prior, vqvae)
    names = [*classes, "any"]
    if args.label not in names:
        raise DataError(f"no class {args.label!r}; this prior knows {', '.join(names)}")
    decoder = load_stochastic(vqvae, args.flow_decoder) if args.flow_decoder else vqvae
    compile_parts(gpt, args.compile)
    compile_parts(vqvae, args.compile)
    labels = torch.full((args.n,), names.index(args.label))
    codes = gpt.generate(labels, **sampling_of(args), seed=args.seed)
    drawn = decoder.decode(codes.view(args.n, gpt.cfg.grid, gpt.cfg.grid))
    file = io.BytesIO()
    save_image(drawn, file, format=Image.registered_extensions()[args.out.suffix.lower()])
    write_atomically(args.out, file.getvalue())
    print(f"wrote {args.out}: {args.n} images of class {args.label}, seed {args.seed}")
    for note in notes_on(gpt, getattr(decoder, "flow_decoder", None)):
        print(note)
