"""What 9 bits per cell can buy without any net: a linear transform of whole blocks, whose coefficients share the codes out.

Encoders of a VQ-VAE see around their cell, but each code speaks of its own patch, and neighbours tell much the same. Here all
cells of a block are coded together: as many codes of as many bits, each for another part of what the block is made of.
Letters: n images or blocks, S block side, q frequencies per side that are kept, A axes, G cells of a block, K codes.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqlib.metrics import psnr, ssim
from vqlib.quantizer import nearest

CELL = 8     # pixels per side that a code stands for, as at f = 8
ROUNDS = 15  # of Lloyd's algorithm
ROWS = 30_000  # that a codebook learns from


def cosines(n: int, keep: int) -> Tensor:
    """(keep, n) the lowest frequencies of the orthonormal discrete cosine transform, type II."""
    waves = torch.cos(math.pi * torch.arange(keep)[:, None] * (torch.arange(n) + 0.5) / n) * (2 / n) ** 0.5
    waves[0] /= 2**0.5
    return waves


def analyse(x: Tensor, side: int, keep: int) -> Tensor:              # (n, 3, H, W) -> (n * blocks, 3 * q * q)
    blocks = x.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5)      # (n, H/S, W/S, 3, S, S)
    waves = cosines(side, keep)
    return (waves @ blocks @ waves.T).flatten(3).flatten(0, 2)


def synthesise(coefficients: Tensor, side: int, keep: int, size: int) -> Tensor:          # -> (n, 3, H, W)
    waves, across = cosines(side, keep), size // side
    blocks = waves.T @ coefficients.view(-1, 3, keep, keep) @ waves                        # (n * blocks, 3, S, S)
    return F.fold(blocks.view(-1, across**2, 3 * side**2).mT, size, side, stride=side)


def water_filling(power: Tensor, bits: float) -> Tensor:             # (A,) -> (A,)
    """Bits of each axis that minimise the squared error of Gaussians: log2(power / level) / 2 where that is above 0
    (Cover & Thomas 2006, theorem 10.3.3)."""
    logs = power.clamp_min(1e-30).log2()
    low, high = logs.min() - 2 * bits, logs.max()
    for _ in range(100):
        level = (low + high) / 2
        rates = ((logs - level) / 2).clamp_min(0)
        low, high = (level, high) if rates.sum() > bits else (low, level)
    return rates


def deal(rates: Tensor, hands: int) -> list[list[int]]:              # (A,)
    """Axes that are worth a bit or two, dealt so that each hand carries as many bits: the next to whoever has least."""
    dealt, load = [[] for _ in range(hands)], np.zeros(hands)
    for axis in rates.argsort(descending=True, stable=True).tolist():
        if rates[axis] > 0.03:
            least = int(load.argmin())
            dealt[least].append(axis)
            load[least] += float(rates[axis])
    return dealt


def lloyd(rows: Tensor, n_codes: int, rng: torch.Generator) -> Tensor:                   # (n, d) -> (K, d)
    """k-means from random rows; a code that nobody picks starts anew on another."""
    rows = rows[torch.randperm(len(rows), generator=rng)[:ROWS]]
    codes = rows[:n_codes].clone()
    for _ in range(ROUNDS):
        index = nearest(rows, codes)
        count = torch.bincount(index, minlength=n_codes)[:, None]
        anew = rows[torch.randint(len(rows), (n_codes,), generator=rng)]
        codes = torch.where(count > 0, torch.zeros_like(codes).index_add_(0, index, rows) / count.clamp_min(1), anew)
    return codes


def figures(train: Tensor, held_out: Tensor, side: int, keep: int, n_codes: int, seed: int) -> dict:  # (n, 3, H, W) in [0, 1]
    """PSNR and SSIM of held-out images after a transform, axes and codebooks of training images; `uncoded`: without codes."""
    rng, cells, mean = torch.Generator().manual_seed(seed), (side // CELL) ** 2, train.mean((0, 2, 3), keepdim=True)
    learnt, seen = (analyse(x - mean, side, keep) for x in (train, held_out))
    power, axes = torch.linalg.eigh((learnt.T @ learnt / len(learnt)).double())
    hands, axes = deal(water_filling(power.clamp_min(0), cells * math.log2(n_codes)), cells), axes.float()
    kept, told = torch.zeros_like(seen), torch.zeros_like(seen)
    for hand in hands:
        part = axes[:, hand]                                          # (3 * q * q, axes of this cell)
        codes, z = lloyd(learnt @ part, n_codes, rng), seen @ part
        kept += z @ part.T
        told += codes[nearest(z, codes)] @ part.T
    x_hat, uncoded = (synthesise(c, side, keep, train.shape[-1]) + mean for c in (told, kept))
    return {"psnr": float(psnr(x_hat, held_out).mean()), "ssim": float(ssim(x_hat, held_out).mean()),
            "axes": sum(map(len, hands)), "uncoded": float(psnr(uncoded, held_out).mean())}
