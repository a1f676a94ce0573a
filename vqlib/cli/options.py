"""Options that several commands share."""
import argparse

import torch

from vqlib.checkpoint import FileError, load_model
from vqlib.flow_decoder import StochasticDecoder
from vqlib.gpt import SAMPLING

SAMPLING_HELP = {
    "temperature": "of the logits, above 0",
    "top_k": "draw from the k likeliest codes; 0: all",
    "top_p": "draw from the likeliest codes that hold this probability, in (0, 1]",
    "first_top_p": "top-p of the first sixteenth of the codes, which settle the layout",
    "guidance": "towards the class; 1: off",
}


def positive(text: str) -> int:
    n = int(text)
    if n < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return n


def add_data(p) -> None:
    p.add_argument("--data", help="folder or .npz; default: $VQLIB_DATA, data/ham10000, synthetic")
    p.add_argument("--image-column", metavar="NAME",
                   help="of a table beside the images: names of images; default: found")
    p.add_argument("--label-column", metavar="NAME",
                   help="of a table beside the images: classes; default: dx, diagnosis, label, ...")


def columns_of(args) -> dict:
    return {"image_column": args.image_column, "label_column": args.label_column}


def add_compile(p) -> None:
    p.add_argument("--compile", nargs="?", const="inductor", metavar="BACKEND",
                   help="torch.compile the nets; default: off; without a name: inductor")


def add_sampling(p) -> None:
    for name, default in SAMPLING.items():
        p.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default,
                       metavar="X", help=f"{SAMPLING_HELP[name]}; default: {default}")


def sampling_of(args) -> dict:
    return {name: getattr(args, name) for name in SAMPLING}


def compile_parts(model, backend: str | None) -> None:
    """torch.compile in place: encoder and decoder, or a prior's blocks and their sampling step.

    Weights keep their names; the quantizer stays as it is.
    """
    if not backend:
        return
    blocks = getattr(model, "blocks", None)
    for part in blocks or (model.encoder, model.decoder):
        part.compile(backend=backend)
    for block in blocks or ():
        block.step = torch.compile(block.step, backend=backend)


def load_stochastic(vqvae, path) -> StochasticDecoder:
    """The flow decoder of a file; raises FileError if it is for other code vectors or cells."""
    flow_decoder, _ = load_model(path, "flow_decoder", "python -m vqlib train flow-decoder")
    try:
        return StochasticDecoder(vqvae, flow_decoder.to(vqvae.mean.device))
    except ValueError as e:
        raise FileError(f"{path.name}: {e}") from e
