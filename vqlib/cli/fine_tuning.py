"""`train --init`: a training that starts from the weights of another, such as those that ship.

Letters: C width of the prior, n classes.
"""
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vqlib.checkpoint import kind_of, load_model
from vqlib.identity import weights_digest
from vqlib.pipeline import find_weights

NAMES = {"vqvae": "vqvae", "gpt": "prior", "windowed_gpt": "windowed",
         "flow_decoder": "flow-decoder"}                          # kind -> name of the file


def check_init(args, configs: dict) -> None:
    """Raises ValueError before anything is trained for weights that cannot be started from.

    configs: name -> settings of each model that is to be trained, None: the preset has none.
    """
    if args.init and args.model == "all" and not args.init.is_dir():
        raise ValueError("train all starts from several files: give --init their folder, such as "
                         "data/pretrained")
    for kind, name in (NAMES.items() if args.init else ()):
        if configs.get(name):
            open_init(init_file(args.init, name), kind, configs[name])


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


def open_init(path: Path, kind: str, config):
    """(model, metadata) of a file whose weights a model with these settings can start from.

    Classes may differ. Raises ValueError for a model of other sizes, FileError for another kind.
    """
    source, metadata = load_model(path, kind)
    if kind == "gpt":
        config = replace(config, n_classes=source.cfg.n_classes)
    with torch.device("meta"):                                   # shapes without memory
        wanted = type(source)(config)
    if sizes_of(source) != sizes_of(wanted):
        sizes = metadata.get("preset", "its own")
        raise ValueError(f"{path.name} has the sizes of preset {sizes}, this run has others: add "
                         f"--preset {sizes}")
    return source, metadata


def sizes_of(model) -> tuple:
    """Heads, which no shape shows, and the shapes of all weights."""
    shapes = {name: w.shape for name, w in model.state_dict().items()}
    return getattr(model.cfg, "heads", None), shapes


def copy_weights(model, path: Path, kind: str, classes: list[str]) -> None:
    """The weights of a file; a class that the file does not know starts as "any"."""
    source, metadata = open_init(path, kind, model.cfg)
    weights = source.state_dict()
    if kind == "gpt":
        name = "class_embedding.weight"
        weights[name] = rows_of(weights[name], metadata.get("classes", []), classes)
    model.load_state_dict(weights)


def rows_of(embedding: Tensor, old: list[str], new: list[str]) -> Tensor:  # (n+1, C) -> (m+1, C)
    """Rows of the classes by their names; the last row stands for any class."""
    rows = [old.index(name) if name in old else len(embedding) - 1 for name in new]
    return embedding[[*rows, len(embedding) - 1]]
