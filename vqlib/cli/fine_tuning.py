"""`train --init`: a training that starts from the weights of another, such as those that ship.

Letters: C width of the prior, n classes.
"""
from pathlib import Path

from torch import Tensor

from vqlib.checkpoint import kind_of, load_model
from vqlib.identity import weights_digest
from vqlib.pipeline import find_weights

NAMES = {"vqvae": "vqvae", "gpt": "prior", "windowed_gpt": "windowed",
         "flow_decoder": "flow-decoder"}                          # kind -> name of the file


def check_init(args, names) -> None:
    """Raises ValueError before anything is trained for weights that cannot be started from."""
    if args.init and args.model == "all" and not args.init.is_dir():
        raise ValueError("train all starts from several files: give --init their folder, such as "
                         "data/pretrained")
    for name in (names if args.init else ()):
        load_model(init_file(args.init, name))


def init_file(init: Path, name: str) -> Path:
    return find_weights(init, name) if init.is_dir() else init


def start_from(init: Path | None, model, classes: list[str]) -> None:
    """Put the weights of `init`, a file or a folder, into a model that is to be trained.

    They belong to the identity of its run: a run that began otherwise is not gone on with.
    Raises ValueError for a model of other sizes.
    """
    if init:
        kind = kind_of(model)
        copy_weights(model, init_file(init, NAMES[kind]), kind, classes)
        model.origin = {"init": weights_digest(model)}


def copy_weights(model, path: Path, kind: str, classes: list[str]) -> None:
    """The weights of a file; a class that the file does not know starts as "any"."""
    source, metadata = load_model(path, kind)
    weights = source.state_dict()
    if kind == "gpt":
        name = "class_embedding.weight"
        weights[name] = rows_of(weights[name], metadata.get("classes", []), classes)
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        sizes = metadata.get("preset", "its own")
        raise ValueError(f"{path.name} has the sizes of preset {sizes}, this run has others: add "
                         f"--preset {sizes}") from e


def rows_of(embedding: Tensor, old: list[str], new: list[str]) -> Tensor:  # (n+1, C) -> (m+1, C)
    """Rows of the classes by their names; the last row stands for any class."""
    rows = [old.index(name) if name in old else len(embedding) - 1 for name in new]
    return embedding[[*rows, len(embedding) - 1]]
