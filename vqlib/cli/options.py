"""Options that several commands share, and how their help looks."""
import argparse
import sys
from functools import partial
from pathlib import Path

import torch

from vqlib.gpt import SAMPLING
from vqlib.pipeline import (
    DEFAULTS,
    FLOW,
    GUIDANCE,
    LEAST_SQUARES,
    MAX_SEED,
    load_pipeline,
)

SAMPLING_HELP = {
    "temperature": "above 0; below 1, likely codes are drawn more often",
    "top_k": "draw from the k likeliest codes; 0: all",
    "top_p": "draw from the likeliest codes of this probability, in (0, 1]",
    "first_top_p": "top-p of the first 1/16 of the codes (the layout)",
    "guidance": "towards the class; 1: off",
}
HELP = partial(argparse.RawDescriptionHelpFormatter, width=96, max_help_position=28)


def add_command(commands, name: str, run, text: str, example: str):
    """A subparser whose help ends with an example that works when it is pasted."""
    p = commands.add_parser(name, help=text, description=text, formatter_class=HELP,
                            epilog=f"example:\n  {example}")
    p.set_defaults(run=run)
    return p


def positive(text: str, most=2**31) -> int:
    """A whole number from 1 on."""
    return within(text, 1, most)


def images(text: str) -> int:
    """A number of images that are drawn at once."""
    return within(text, 1, 10_000)


def seed(text: str) -> int:
    return within(text, 0, MAX_SEED)


def port(text: str) -> int:
    return within(text, 0, 2**16 - 1)


def within(text: str, least: int, most: int) -> int:
    n = int(text)
    if not least <= n <= most:
        raise argparse.ArgumentTypeError(f"{text} is {'below' if n < least else 'above'} "
                                         f"{least if n < least else most}")
    return n


def place(text: str) -> str:
    """The name of a data set, which is empty if it came from a variable that is not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: name a folder or .npz, or leave it out")
    return text


def path_name(text: str) -> Path:
    """The name of a file or a folder: an empty one would mean the folder where we are."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty: give a name, or leave it out")
    return Path(text)


def add_weights(p, prior=True) -> None:
    """Which models; `prior`: the command needs one."""
    group = p.add_argument_group("weights")
    group.add_argument("--weights", type=path_name, metavar="FOLDER",
                       help="with trained models; default: data/pretrained, those that ship")
    group.add_argument("--vqvae", type=path_name, metavar="FILE",
                       help="alone; then give the other models by file, too")
    if prior:
        group.add_argument("--prior", type=path_name, metavar="FILE",
                           help="instead of the folder's")
    group.add_argument("--flow-decoder", type=path_name, metavar="FILE",
                       help="instead of the folder's")


def add_decoder(p, several=False) -> None:
    choices = (FLOW, LEAST_SQUARES)
    text = "default: all there are" if several else f"default: {FLOW} where there is one"
    p.add_argument("--decoder", choices=choices, help=f"what turns codes into images; {text}")


def open_pipeline(args, *needs: str):
    """The models that the options ask for; what a user should know of them goes to stderr."""
    pipeline = load_pipeline(args.weights, args.vqvae, getattr(args, "prior", None),
                             args.flow_decoder, needs)
    for note in (pipeline.notes if args.decoder != LEAST_SQUARES else ()):
        print(f"vqlib: note: {note}", file=sys.stderr)
    pipeline.decoder(args.decoder)                               # refused before the work begins
    return pipeline


def png_name(path: Path, inputs=()) -> Path:
    """Raises ValueError unless a file of that name can be a PNG, and is none of the inputs."""
    if path.suffix.lower() != ".png" or path.is_dir():
        raise ValueError(f"--out {path} is no file name that ends in .png")
    return not_over(path, inputs)


def not_over(path: Path, inputs) -> Path:
    """Raises ValueError if an output would replace one of the files that were given."""
    if path.exists() and any(given and path.samefile(given) for given in inputs):
        raise ValueError(f"{path} is one of the pictures given: name another --out")
    return path


def in_words(settings: dict) -> str:
    """{"first_top_p": 0.95, "seed": 0} -> "first-top-p 0.95, seed 0"."""
    return ", ".join(f"{name.replace('_', '-')} {value:g}" if isinstance(value, float) else
                     f"{name.replace('_', '-')} {value}" for name, value in settings.items())


def add_data(p) -> None:
    p.add_argument("--data", type=place,
                   help="folder or .npz; default: $VQLIB_DATA, data/ham10000, synthetic")
    p.add_argument("--image-column", metavar="NAME",
                   help="of a table, with the names of images; default: found")
    p.add_argument("--label-column", metavar="NAME",
                   help="of a table, with classes; default: dx, diagnosis, label, ...")


def columns_of(args) -> dict:
    return {"image_column": args.image_column, "label_column": args.label_column}


def add_compile(p) -> None:
    p.add_argument("--compile", nargs="?", const="inductor", metavar="BACKEND",
                   help="torch.compile the nets; default: off; without a name: inductor")


def add_sampling(p, shipped=False) -> None:
    """The settings of `GPT.generate`: neutral ones by default, or those of `sampling_for`."""
    group = p.add_argument_group("sampling")
    for name, neutral in SAMPLING.items():
        default, text = neutral, f"{neutral:g}"
        if shipped:
            default, text = None, f"{DEFAULTS.get(name, 0):g}"
            text = f"{GUIDANCE:g}, for any 1" if name == "guidance" else text
        group.add_argument(f"--{name.replace('_', '-')}", type=type(neutral), default=default,
                           metavar="X", help=f"{SAMPLING_HELP[name]}; default: {text}")


def sampling_of(args) -> dict:
    return {name: getattr(args, name) for name in SAMPLING}


def compile_parts(model, backend: str | None) -> None:
    """torch.compile in place: encoder and decoder, a flow decoder's layers, or a prior's blocks
    and their sampling step.

    Weights keep their names; the quantizer stays as it is.
    """
    if not backend:
        return
    if backend not in (known := torch.compiler.list_backends(exclude_tags=())):
        raise ValueError(f"no backend {backend!r} for --compile; there are {', '.join(known)}")
    blocks = getattr(model, "blocks", None)
    for part in blocks or getattr(model, "layers", None) or (model.encoder, model.decoder):
        part.compile(backend=backend)
    for block in blocks or ():
        block.step = torch.compile(block.step, backend=backend)
