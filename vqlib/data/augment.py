"""Random views of whole batches. Letters: B batch, S side of a cached square, C crop side."""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F


def centre_crop(x: torch.Tensor, side: int) -> torch.Tensor:         # (..., S, S) -> (..., C, C)
    edge = (x.shape[-1] - side) // 2
    return x[..., edge : edge + side, edge : edge + side]


@dataclass(frozen=True)
class Augment:
    """Random views of a batch; all off gives centre crops."""

    flip: float = 0.4          # probability of a left-right flip
    rotate: float = 10.0       # largest rotation to either side, in degrees
    dihedral: bool = False     # one of the eight flips and quarter turns: exact, and skin has no up


def unit(x: torch.Tensor) -> torch.Tensor:
    """Bytes -> [0, 1]; floats stay as they are."""
    return x if x.is_floating_point() else x.float().div_(255)       # x / 255 in one step takes 25 times as long


def augment(x: torch.Tensor, cfg: Augment, crop: int, rng: torch.Generator) -> torch.Tensor:
    """(B, 3, S, S) bytes, or floats in [0, 1] -> (B, 3, C, C) in [0, 1].

    Rotates about the centre, then crops; what leaves the square is reflected. Bytes are moved as such where that is exact:
    a quarter of the memory.
    """
    angle = (torch.rand(len(x), generator=rng) * 2 - 1) * math.radians(cfg.rotate) if cfg.rotate else None
    flips = None if cfg.dihedral else torch.rand(len(x), generator=rng) < cfg.flip
    if cfg.rotate:
        x = turn(unit(x), angle, flips, crop)
    else:
        x = centre_crop(x, crop)
        if flips is not None:
            x = torch.where(flips.to(x.device, non_blocking=True)[:, None, None, None], x.flip(-1), x)
    if cfg.dihedral:
        out = x.new_empty(x.shape, dtype=torch.float32)
        for place, image, k in zip(out, x, torch.randint(8, (len(x),), generator=rng).tolist()):
            place.copy_(dihedral(image, k))                               # turned and made a float in one go
        return out if x.is_floating_point() else out.div_(255)
    return unit(x)


def turn(x, angle, flips, crop: int) -> torch.Tensor:              # (B, 3, S, S), (B,), (B,) or None -> (B, 3, C, C)
    """Rotated, then mirrored where `flips` say: only the crop is sampled, and reading rows backwards is free."""
    angle, S = angle.to(x.device, non_blocking=True)[:, None, None], x.shape[-1]
    column = centre_crop(torch.arange(1 - S, S, 2, device=x.device).expand(S, S), crop)[0] / S   # (C,) -1..1 spans the square
    row = column[:, None]
    if flips is not None:
        column = torch.where(flips.to(x.device, non_blocking=True)[:, None, None], -column, column)  # (B, 1, C)
    cos, sin, grid = angle.cos(), angle.sin(), x.new_empty(len(x), crop, crop, 2)
    torch.sub(cos * column, sin * row, out=grid[..., 0])
    torch.add(sin * column, cos * row, out=grid[..., 1])
    grid = grid.clamp(-1, 1).mul_(2).sub_(grid)                       # reflects at the border; twice as fast as grid_sample's
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def dihedral(x: torch.Tensor, k: int) -> torch.Tensor:                   # (..., C, C)
    """The k-th of the eight flips and quarter turns; 0 is the image itself, 4 its mirror image."""
    return torch.rot90(x.flip(-1) if k >= 4 else x, k % 4, (-2, -1))
