"""Endless training batches that depend on (seed, step) only, so that a run can resume anywhere.

Letters: n rows, B images in a batch, C side of the crop.
"""
from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor

from vqlib.backend.distributed import rank, world_size
from vqlib.data.augment import Augment, augment


def shuffled_indices(
    n: int, batch: int, seed: int, start: int = 0, weights: np.ndarray | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (step, indices (B,) in 0..n-1) for ever, from step `start` on.

    A step's indices depend on the seed and the step only. Without weights they are shuffled passes
    over all n. With weights (n,) each is drawn with a probability in proportion to its weight,
    with replacement.
    """
    if weights is None:
        yield from _shuffled_passes(n, batch, seed, start)
    else:
        probabilities = weights / weights.sum()                    # (n,)
        for step in count(start):
            rng = np.random.default_rng((seed, step))
            yield step, rng.choice(n, batch, p=probabilities)


def _shuffled_passes(n: int, batch: int, seed: int, start: int):
    """Every pass is a new permutation of 0..n-1; a batch may span two or more passes."""
    permutations = {}                                              # of the passes of the last batch
    for step in count(start):
        places = range(step * batch, (step + 1) * batch)           # in the sequence of passes
        needed = range(places[0] // n, places[-1] // n + 1)
        permutations = {i: p for i, p in permutations.items() if i in needed}
        for i in needed:
            if i not in permutations:
                permutations[i] = np.random.default_rng((seed, i)).permutation(n)
        yield step, np.array([permutations[place // n][place % n] for place in places])


def class_weights(labels: Tensor, balance: float) -> np.ndarray | None:
    """Weights (n,) for `shuffled_indices`: (size of the class of each label)^-balance.

    With 1 all classes are drawn equally often. With 0 the weights are None: shuffled passes.
    """
    if not balance:
        return None
    return torch.bincount(labels)[labels].double().numpy() ** -balance


def batches(
    dataset,
    split: str,
    batch: int,
    seed: int,
    augment_config: Augment,
    start: int = 0,
    class_balance: float = 0.0,
) -> Iterator[Tensor]:
    """Yield training images (B, 3, C, C) in [0, 1] for ever, from update `start` on.

    class_balance: rows are drawn by (size of their class in the split)^-class_balance; 0 gives
    shuffled passes. Every rank draws the whole batch and yields its part of it, so the number of
    ranks changes no image.
    """
    rows = dataset.splits[split]
    weights = class_weights(dataset.labels[rows], class_balance)
    for step, picks in shuffled_indices(len(rows), batch, seed, start, weights):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        images = augment(dataset.squares(rows[picks]), augment_config, dataset.geometry.crop, rng)
        yield images.chunk(world_size())[rank()]
