"""Transform coding: what 9 bits per cell reach without a net.

Encoders of a VQ-VAE see around their cell, but each code describes its own patch, and neighbours
describe much the same. Here all cells of a block are coded together. The block is rotated to
axes that do not correlate (cosines, then principal axes), the axes are split into as many groups
as the block has cells, and each group has its own k-means codebook.
Letters: n images or blocks, S block side, q frequencies per side that are kept, A axes,
G groups = cells per block, K codes, d axes of a group.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqlib.metrics import psnr, ssim
from vqlib.quantizer import nearest

CELL = 8            # pixels per side that a code stands for, as at f = 8
LEAST_BITS = 0.03   # an axis that is worth less is not coded
ROUNDS = 15         # of k-means
ROWS = 30_000       # that a codebook learns from


def cosines(n: int, keep: int) -> Tensor:                        # -> (keep, n)
    """The lowest frequencies of the orthonormal discrete cosine transform, type II."""
    places = torch.arange(n) + 0.5
    waves = torch.cos(math.pi * torch.arange(keep)[:, None] * places / n) * (2 / n) ** 0.5
    waves[0] /= 2**0.5
    return waves


def analyse(x: Tensor, side: int, keep: int) -> Tensor:          # (n, 3, H, W)
    """Coefficients of each block: (n * blocks, 3 * q * q)."""
    blocks = x.unfold(2, side, side).unfold(3, side, side)       # (n, 3, H/S, W/S, S, S)
    blocks = blocks.permute(0, 2, 3, 1, 4, 5)                    # (n, H/S, W/S, 3, S, S)
    waves = cosines(side, keep)                                  # (q, S)
    return (waves @ blocks @ waves.T).flatten(3).flatten(0, 2)


def synthesise(coefficients: Tensor, side: int, keep: int, size: int) -> Tensor:
    """Images (n, 3, H, W) of H = W = `size` from coefficients (n * blocks, 3 * q * q)."""
    waves, across = cosines(side, keep), size // side
    blocks = waves.T @ coefficients.view(-1, 3, keep, keep) @ waves             # (., 3, S, S)
    return F.fold(blocks.view(-1, across**2, 3 * side**2).mT, size, side, stride=side)


def water_filling(power: Tensor, bits: float) -> Tensor:         # (A,) -> (A,)
    """The bits of each axis that minimise the squared error of Gaussians.

    log2(power / level) / 2 where that is above 0; the level is such that all bits are spent
    (Cover & Thomas 2006, theorem 10.3.3).
    """
    logs = power.clamp_min(1e-30).log2()
    low, high = logs.min() - 2 * bits, logs.max()
    for _ in range(100):                                         # bisection
        level = (low + high) / 2
        rates = ((logs - level) / 2).clamp_min(0)
        if rates.sum() > bits:
            low = level
        else:
            high = level
    return rates


def split_axes(rates: Tensor, n_groups: int) -> list[list[int]]:   # (A,) bits of each axis
    """Groups of axes that carry about as many bits each.

    The axis with the most bits comes first; each joins the group with the fewest bits so far.
    """
    groups, bits = [[] for _ in range(n_groups)], np.zeros(n_groups)
    for axis in rates.argsort(descending=True, stable=True).tolist():
        if rates[axis] > LEAST_BITS:
            fewest = int(bits.argmin())
            groups[fewest].append(axis)
            bits[fewest] += float(rates[axis])
    return groups


def kmeans(rows: Tensor, n_codes: int, rng: torch.Generator) -> Tensor:         # (n, d) -> (K, d)
    """Lloyd's algorithm from random rows; a code that no row picks moves to another random row."""
    rows = rows[torch.randperm(len(rows), generator=rng)[:ROWS]]
    codes = rows[:n_codes].clone()
    for _ in range(ROUNDS):
        index = nearest(rows, codes)                             # (n,)
        count = torch.bincount(index, minlength=n_codes)[:, None]               # (K, 1)
        random_rows = rows[torch.randint(len(rows), (n_codes,), generator=rng)]
        means = torch.zeros_like(codes).index_add_(0, index, rows) / count.clamp_min(1)
        codes = torch.where(count > 0, means, random_rows)
    return codes


def measure(train: Tensor, held_out: Tensor, side: int, keep: int, n_codes: int, seed: int) -> dict:
    """PSNR and SSIM of held-out images; everything is learnt from training images.

    Both are (n, 3, H, W) in [0, 1]. `coded_axes`: how many axes of a block get bits;
    `psnr_uncoded`: of these axes before they are quantized.
    """
    rng, n_cells = torch.Generator().manual_seed(seed), (side // CELL) ** 2
    mean = train.mean((0, 2, 3), keepdim=True)                   # (1, 3, 1, 1)
    train_blocks = analyse(train - mean, side, keep)             # (n * blocks, 3 * q * q)
    held_out_blocks = analyse(held_out - mean, side, keep)
    covariance = train_blocks.T @ train_blocks / len(train_blocks)
    power, axes = torch.linalg.eigh(covariance.double())         # (A,), (3 * q * q, A)
    bits = n_cells * math.log2(n_codes)
    groups = split_axes(water_filling(power.clamp_min(0), bits), n_cells)
    axes = axes.float()
    uncoded, coded = torch.zeros_like(held_out_blocks), torch.zeros_like(held_out_blocks)
    for group in groups:
        basis = axes[:, group]                                   # (3 * q * q, d)
        codebook, z = kmeans(train_blocks @ basis, n_codes, rng), held_out_blocks @ basis
        uncoded += z @ basis.T
        coded += codebook[nearest(z, codebook)] @ basis.T
    size = train.shape[-1]
    x_hat = synthesise(coded, side, keep, size) + mean
    x_uncoded = synthesise(uncoded, side, keep, size) + mean
    return {"psnr": float(psnr(x_hat, held_out).mean()),
            "ssim": float(ssim(x_hat, held_out).mean()),
            "coded_axes": sum(map(len, groups)),
            "psnr_uncoded": float(psnr(x_uncoded, held_out).mean())}
