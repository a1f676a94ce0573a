"""Batches that depend on (seed, step) only, wherever a run starts: runs resume. Letters: B batch, C crop side."""
from itertools import count

import numpy as np
import torch

from vqlib.backend.distributed import rank, world_size
from vqlib.data.augment import Augment, augment


def order(n: int, batch: int, seed: int, start=0, weights=None):
    """Yield (step, (batch,) indices) for ever: shuffled passes over n, or, with weights (n,), draws in their proportion.

    Step s is the same wherever one starts.
    """
    decks = {}                                                        # of the epochs that a batch is drawn from
    for step in count(start):
        if weights is not None:
            yield step, np.random.default_rng((seed, step)).choice(n, batch, p=weights / weights.sum())
            continue
        i = np.arange(step * batch, (step + 1) * batch)
        decks = {e: decks[e] if e in decks else np.random.default_rng((seed, e)).permutation(n) for e in {*(i // n).tolist()}}
        yield step, np.array([decks[k // n][k % n] for k in i.tolist()])


def by_class(labels: torch.Tensor, balance: float) -> np.ndarray | None:
    """Weights (n,) for `order`: (size of an image's class)^-balance; None for 0, where passes are shuffled instead."""
    return torch.bincount(labels)[labels].double().numpy() ** -balance if balance else None


def batches(dataset, split: str, batch: int, seed: int, cfg: Augment, start=0):
    """Yield this rank's training images (B, 3, C, C) in [0, 1] for ever, from update `start` on; (seed, step) decides them."""
    rows = dataset.splits[split]
    for step, picks in order(len(rows), batch, seed, start):
        rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
        yield augment(dataset.squares(rows[picks]), cfg, dataset.geometry.crop, rng).chunk(world_size())[rank()]
