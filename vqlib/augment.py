"""Random views of whole batches, and batches that depend on (seed, step) only, so that a resumed run sees the same ones.

Letters: B batch, S side of a cached square, C crop side.
"""
import math
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
import torch.nn.functional as F

from vqlib.distributed import rank, world


def centre_crop(x: torch.Tensor, side: int) -> torch.Tensor:         # (..., S, S) -> (..., C, C)
    edge = (x.shape[-1] - side) // 2
    return x[..., edge : edge + side, edge : edge + side]


@dataclass(frozen=True)
class Augment:
    """Random views of a batch; all off gives centre crops."""

    flip: float = 0.4          # probability of a left-right flip
    rotate: float = 10.0       # largest rotation to either side, in degrees
    dihedral: bool = False     # one of the eight flips and quarter turns: exact, and skin has no up


def augment(x: torch.Tensor, cfg: Augment, crop: int, dice: torch.Generator) -> torch.Tensor:
    """(B, 3, S, S) -> (B, 3, C, C). Rotates about the centre, then crops; what leaves the square is reflected."""
    if cfg.rotate:
        angle = (torch.rand(len(x), generator=dice) * 2 - 1) * math.radians(cfg.rotate)
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(len(x))
        turn = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)          # (B, 2, 3)
        grid = F.affine_grid(turn.to(x.device, non_blocking=True), x.shape, align_corners=False)
        grid = centre_crop(grid.movedim(-1, 1), crop).movedim(1, -1)                     # (B, C, C, 2)
        x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    x = centre_crop(x, crop)
    if cfg.dihedral:
        which = torch.randint(8, (len(x),), generator=dice).tolist()
        return torch.stack([view(image, k) for image, k in zip(x, which)])
    flips = (torch.rand(len(x), generator=dice) < cfg.flip).to(x.device, non_blocking=True)
    return torch.where(flips[:, None, None, None], x.flip(-1), x)


def view(x: torch.Tensor, k: int) -> torch.Tensor:                   # (..., C, C)
    """The k-th of the eight flips and quarter turns; 0 is the image itself, 4 its mirror image."""
    return torch.rot90(x.flip(-1) if k >= 4 else x, k % 4, (-2, -1))


def order(n: int, batch: int, seed: int, start=0):
    """Yield (step, (batch,) indices) for ever: shuffled passes over n; step s is the same wherever one starts."""
    for step in count(start):
        i = np.arange(step * batch, (step + 1) * batch)
        decks = {epoch: np.random.default_rng((seed, epoch)).permutation(n) for epoch in set((i // n).tolist())}
        yield step, np.array([decks[k // n][k % n] for k in i.tolist()])


def batches(dataset, split: str, batch: int, seed: int, cfg: Augment, start=0):
    """Yield this rank's training images (B, 3, C, C) in [0, 1] for ever, from update `start` on; (seed, step) decides them."""
    rows = dataset.splits[split]
    for step, picks in order(len(rows), batch, seed, start):
        dice = torch.Generator().manual_seed(seed * 1_000_003 + step)
        yield augment(dataset.squares(rows[picks]), cfg, dataset.geometry.crop, dice).chunk(world())[rank()]
