"""Random augmentation of whole batches: flips, rotations, quarter turns.

Letters: B images in a batch, S side of a cached square, C side of the crop.
"""
import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """What may happen to a training image at random; with everything off it is only cropped."""

    flip: float = 0.4          # probability of a left-right flip
    rotate: float = 10.0       # largest rotation to either side, in degrees
    dihedral: bool = False     # one of the eight flips and quarter turns: exact, and skin has no up


def centre_crop(images: Tensor, side: int) -> Tensor:              # (..., S, S) -> (..., C, C)
    edge = (images.shape[-1] - side) // 2
    return images[..., edge : edge + side, edge : edge + side]


def dihedral(images: Tensor, k: int) -> Tensor:                    # (..., C, C)
    """The k-th of the eight flips and quarter turns; 0 changes nothing, 4 is the mirror image."""
    return torch.rot90(images.flip(-1) if k >= 4 else images, k % 4, (-2, -1))


def to_unit(images: Tensor) -> Tensor:
    """Bytes -> floats in [0, 1]; floats stay as they are."""
    if images.is_floating_point():
        return images
    return images.float().div_(255)          # images / 255 converts slowly: 25 times as long


def augment(images: Tensor, config: Augment, crop: int, rng: torch.Generator) -> Tensor:
    """Augment a batch (B, 3, S, S) of bytes, or of floats in [0, 1], to (B, 3, C, C) in [0, 1].

    Rotates about the centre, then crops. Where a rotation reaches beyond the square, the image is
    reflected. Without a rotation bytes stay bytes until the end: a quarter of the memory.
    """
    n, angles, flips = len(images), None, None
    if config.rotate:
        angles = (torch.rand(n, generator=rng) * 2 - 1) * math.radians(config.rotate)        # (B,)
    if not config.dihedral:                                        # which has flips of its own
        flips = torch.rand(n, generator=rng) < config.flip         # (B,)

    if angles is not None:
        images = rotate_crop_flip(to_unit(images), angles, flips, crop)
    else:
        images = centre_crop(images, crop)
        if flips is not None:
            where = flips.to(images.device, non_blocking=True)[:, None, None, None]
            images = torch.where(where, images.flip(-1), images)
    if config.dihedral:
        return dihedral_of_each(images, torch.randint(8, (n,), generator=rng))
    return to_unit(images)


def dihedral_of_each(images: Tensor, which: Tensor) -> Tensor:     # (B, 3, C, C), (B,) in 0..7
    """Turn each image by its own of the eight flips and quarter turns -> (B, 3, C, C) in [0, 1]."""
    if images.device.type != "cpu":
        return to_unit(gathered(images, which))
    out = images.new_empty(images.shape, dtype=torch.float32)
    for place, image, k in zip(out, images, which.tolist()):
        place.copy_(dihedral(image, k))                            # turns and converts in one pass
    return out if images.is_floating_point() else out.div_(255)


def gathered(images: Tensor, which: Tensor) -> Tensor:             # (B, 3, C, C), (B,) in 0..7
    """`dihedral` of each image in one step: a GPU would wait for three steps an image."""
    which = which.to(images.device, non_blocking=True)
    source = pixels_from(images.shape[-1], images.device)[which]   # (B, C*C)
    flat = images.flatten(2)                                       # (B, 3, C*C)
    return flat.gather(2, source[:, None].expand_as(flat)).view_as(images)


@cache
def pixels_from(side: int, device: torch.device) -> Tensor:        # (8, C*C)
    """Which pixel of an image lies at each place of its k-th flip or quarter turn."""
    places = torch.arange(side * side, device=device).view(side, side)
    return torch.stack([dihedral(places, k).flatten() for k in range(8)])


def rotate_crop_flip(images: Tensor, angles: Tensor, flips: Tensor | None, crop: int) -> Tensor:
    """Rotate (B, 3, S, S) by angles (B,) in radians, crop, and mirror where flips (B,) is true.

    One sampling does it all -> (B, 3, C, C): only pixels of the crop are computed, and a mirrored
    image is one whose columns are sampled from right to left.
    """
    S, device = images.shape[-1], images.device
    angles = angles.to(device, non_blocking=True)[:, None, None]   # (B, 1, 1)
    line = torch.arange(1 - S, S, 2, device=device)                # pixel centres in -S..S
    line = centre_crop(line.expand(S, S), crop)[0] / S             # (C,)
    column, row = line, line[:, None]
    if flips is not None:
        flips = flips.to(device, non_blocking=True)[:, None, None]
        column = torch.where(flips, -line, line)                   # (B, 1, C)

    cos, sin = angles.cos(), angles.sin()
    grid = images.new_empty(len(images), crop, crop, 2)            # x, y of each sample, in -1..1
    torch.sub(cos * column, sin * row, out=grid[..., 0])
    torch.add(sin * column, cos * row, out=grid[..., 1])
    grid = grid.clamp(-1, 1).mul_(2).sub_(grid)    # reflects, twice as fast as grid_sample does
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
