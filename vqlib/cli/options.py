"""Options that several commands share."""
import argparse
from contextlib import contextmanager

import torch

from vqlib.backend.files import FileError
from vqlib.checkpoint import load_model
from vqlib.flow_decoder import StochasticDecoder
from vqlib.gpt import SAMPLING
from vqlib.identity import assert_learnt_from, origin_of
from vqlib.metrics import assert_fits

SAMPLING_HELP = {
    "temperature": "of the logits, above 0",
    "top_k": "draw from the k likeliest codes; 0: all",
    "top_p": "draw from the likeliest codes that hold this probability, in (0, 1]",
    "first_top_p": "top-p of the first sixteenth of the codes, which settle the layout",
    "guidance": "towards the class; 1: off",
}


def positive(text: str, most=2**31) -> int:
    """A whole number from 1 on."""
    return within(text, 1, most)


def images(text: str) -> int:
    """A number of images that are drawn at once."""
    return within(text, 1, 10_000)


def seed(text: str) -> int:
    return within(text, 0, 2**32 - 1)


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


def add_data(p) -> None:
    p.add_argument("--data", type=place,
                   help="folder or .npz; default: $VQLIB_DATA, data/ham10000, synthetic")


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
    if backend not in (known := torch.compiler.list_backends(exclude_tags=())):
        raise ValueError(f"no backend {backend!r} for --compile; there are {', '.join(known)}")
    blocks = getattr(model, "blocks", None)
    for part in blocks or (model.encoder, model.decoder):
        part.compile(backend=backend)
    for block in blocks or ():
        block.step = torch.compile(block.step, backend=backend)


def load_prior(path, vqvae, kinds=("gpt",)):
    """(the prior of a file, its classes); FileError if it is no prior, or for other codes."""
    prior, metadata = load_model(path)
    if metadata["kind"] not in kinds:
        raise FileError(f"{path.name} holds a {metadata['kind']}, a {' or '.join(kinds)} is needed")
    classes = metadata.get("classes")
    if not classes or len(classes) != getattr(prior.cfg, "n_classes", len(classes)):
        raise FileError(f"{path.name} does not say which classes it knows: save it with "
                        "**workspace.metadata")
    with naming(path):
        assert_fits(prior, vqvae)
    return prior.to(vqvae.mean.device), classes


def load_stochastic(vqvae, path) -> StochasticDecoder:
    """The flow decoder of a file; raises FileError if it is for other code vectors or cells."""
    flow_decoder, _ = load_model(path, "flow_decoder", "python -m vqlib train flow-decoder")
    with naming(path):
        assert_learnt_from(flow_decoder, vqvae)
        return StochasticDecoder(vqvae, flow_decoder.to(vqvae.mean.device))


@contextmanager
def naming(path):
    """A ValueError within comes out as a FileError that names the file."""
    try:
        yield
    except ValueError as e:
        raise FileError(f"{path.name}: {e}") from e


def notes_on(*models) -> list[str]:
    """What is not known of models that were loaded together, for a reader of the results."""
    return [f"the {type(model).__name__} does not say which VQ-VAE it learnt from (an older file): "
            "only its sizes were checked"
            for model in models if model is not None and "identity" not in origin_of(model)]
