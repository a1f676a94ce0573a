"""The codebook: nearest code, moving averages, dead-code reset.

Letters: B images, D code width, h w grid cells, K codes, N = B*h*w rows (one per grid cell).
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlib.backend.cpu import linear
from vqlib.backend.distributed import all_reduce_sum, rank, world_size

CHUNK = 4096  # rows per block of distances: (4096, 512) floats are 8 MB and stay in the cache


class Quantized(NamedTuple):
    """What the quantizer returns for one batch."""

    e: Tensor       # (B, D, h, w) code vectors; the gradient passes straight through to z
    codes: Tensor   # (B, h, w) indices in 0..K-1
    commit: Tensor  # () mean squared distance of z to its code vectors


class Quantizer(nn.Module):
    """A codebook learnt by exponential moving averages (van den Oord et al. 2017, appendix A.1).

    `forward` replaces encoder outputs by their nearest codes and, in training mode, adds up which
    rows each code got. `step` then moves the codebook once, as an optimiser would, after one or
    several forward passes, on one or several ranks:

        q = quantizer(encoder(x)); loss.backward(); optimizer.step(); quantizer.step()

    decay: of the moving averages. reset_threshold: a code whose average count falls under this
    share of N/K, or under half a row where that is less, is dead and moves to a random row of the
    batch; 0 never resets (as in the report).
    """

    def __init__(self, n_codes, code_dim, decay=0.99, reset_threshold=0.02, seed=0):
        super().__init__()
        self.decay, self.reset_threshold, self.seed = decay, reset_threshold, seed
        codebook = torch.randn(n_codes, code_dim, generator=torch.Generator().manual_seed(seed))
        # codebook = ema_sum / ema_count. Counts start at 1 (the report's at 0, which scales a code
        # that nobody picks by orders of magnitude)
        self.register_buffer("codebook", codebook)               # (K, D)
        self.register_buffer("ema_count", torch.ones(n_codes))   # (K,)
        self.register_buffer("ema_sum", codebook.clone())        # (K, D)
        self.register_buffer("resets", torch.tensor(0))          # dead codes moved since the start
        self.steps = 0                                           # since the start
        # since the last step: rows of each code, their sum, forward passes and their rows
        self.register_buffer("count", torch.zeros(n_codes), persistent=False)             # (K,)
        self.register_buffer("sum", torch.zeros(n_codes, code_dim), persistent=False)     # (K, D)
        self.passes, self.rows = 0, []                                                    # [(n, D)]

    def forward(self, z: Tensor) -> Quantized:                   # (B, D, h, w)
        """Raises ValueError unless z has D channels."""
        # channels last, like the looked-up vectors: comparing both is three times as fast
        z = z.float().contiguous(memory_format=torch.channels_last)
        codes = self.encode(z)                                   # (B, h, w)
        e = self.lookup(codes)                                   # (B, D, h, w) before the step
        if self.training:
            self.collect(as_rows(z.detach()), codes.flatten())
        with torch.autocast(z.device.type, enabled=False):
            e, commit = StraightThrough.apply(z, e)              # only z gets a gradient
        return Quantized(e, codes, commit)

    def encode(self, z: Tensor) -> Tensor:                       # (B, D, h, w) -> (B, h, w)
        """The index of the nearest code of each cell."""
        if z.shape[1] != self.codebook.shape[1]:
            raise ValueError(f"the quantizer takes {self.codebook.shape[1]} channels, "
                             f"got {tuple(z.shape)}")
        with torch.autocast(z.device.type, enabled=False):       # bfloat16 confuses near codes
            index = nearest(as_rows(z.detach()), self.codebook)  # (N,)
        return index.view(len(z), *z.shape[2:])

    def lookup(self, codes: Tensor) -> Tensor:                   # (B, h, w)
        """Code vectors (B, D, h, w) of int64 codes in 0..K-1.

        A CPU raises IndexError for other codes; a GPU stops with a device-side assertion.
        """
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def collect(self, rows: Tensor, index: Tensor) -> None:      # (n, D), (n,)
        """Add a forward pass to the count and the sum of rows of each code."""
        self.passes += 1
        self.count.index_add_(0, index, torch.ones_like(rows[:, 0]))   # no (N, K) one-hot
        self.sum.index_add_(0, index, rows)
        if self.reset_threshold:
            self.rows.append(rows)

    @torch.no_grad()
    def step(self) -> Tensor:
        """Move the codebook once, after an update's forward passes on all ranks.

        Returns the perplexity () of all codes of these passes. Raises RuntimeError if there was
        no forward pass in training mode since the last step.
        """
        if not self.passes:
            raise RuntimeError("step() without a forward pass in training mode: nothing to follow")
        count, sums = all_reduce_sum(self.count), all_reduce_sum(self.sum)   # (K,), (K, D)
        self.ema_count.lerp_(count, 1 - self.decay)
        self.ema_sum.lerp_(sums, 1 - self.decay)
        mean = self.ema_sum / self.ema_count[:, None]            # (K, D)
        # a code that was not picked keeps its ratio: it stays where it is, here without rounding
        self.codebook.copy_(torch.where(count[:, None] > 0, mean, self.codebook))
        self.steps += 1
        if self.reset_threshold:
            self.reset_dead_codes(count.sum())
        batch_perplexity = perplexity(count)
        self.forget_passes()
        return batch_perplexity

    def reset_dead_codes(self, N: Tensor) -> None:               # () rows of the whole batch
        """Move codes that are hardly ever picked to random rows of the batch.

        The threshold is at most 0.5: a code just moved has a count of 1 and gets time to be picked.
        """
        threshold = (self.reset_threshold * N / len(self.codebook)).clamp_max(0.5)
        dead = self.ema_count < threshold                        # (K,)
        self.move(dead, self.random_rows(torch.cat(self.rows)))
        self.resets += dead.sum()

    @torch.no_grad()
    def init_from(self, z: Tensor) -> None:                      # (B, D, h, w) of the first batch
        """Put the codes on random encoder outputs, before the first step."""
        all_codes = torch.ones_like(self.ema_count, dtype=torch.bool)
        self.move(all_codes, self.random_rows(as_rows(z)))

    def random_rows(self, rows: Tensor) -> Tensor:               # (n, D) of this rank -> (K, D)
        """K random rows of the whole batch, the same on all ranks.

        If the batch has fewer than K rows, all of them, some several times.
        """
        n, K = len(rows), len(self.codebook)
        rng = torch.Generator().manual_seed(self.seed + self.steps)
        pick = torch.randperm(n * world_size(), generator=rng)[:K]
        pick = pick.repeat(-(-K // len(pick)))[:K] - n * rank()
        pick = pick.to(rows.device, non_blocking=True)
        mine = (pick >= 0) & (pick < n)                          # other ranks have the others
        return all_reduce_sum(torch.where(mine[:, None], rows[pick.clamp(0, n - 1)], 0.0))

    def move(self, which: Tensor, rows: Tensor) -> None:         # (K,) mask, (K, D)
        """Put the i-th code of the mask on the i-th row.

        Vector, sum and count move together, or the next step would undo the move.
        """
        rows = rows[(which.cumsum(0) - 1).clamp_min(0)]          # (K, D)
        self.codebook.copy_(torch.where(which[:, None], rows, self.codebook))
        self.ema_sum.copy_(torch.where(which[:, None], rows, self.ema_sum))
        self.ema_count.masked_fill_(which, 1.0)

    def forget_passes(self) -> None:
        self.count.zero_()
        self.sum.zero_()
        self.rows, self.passes = [], 0

    def get_extra_state(self) -> Tensor:
        """Puts `steps` into the state dict; no buffer, since reading one makes a GPU wait."""
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)
        self.forget_passes()


class StraightThrough(torch.autograd.Function):
    """(e, mean squared distance of z to e); z gets the gradients of both.

    The same as `z + (e - z).detach()` and `mse_loss(z, e)` with one new tensor instead of three.
    """

    @staticmethod
    def forward(ctx, z, e):                                      # (B, D, h, w) twice
        ctx.save_for_backward(z, e)
        squares = 0
        for some_z, some_e in zip(z.chunk(8), e.chunk(8)):       # mse_loss keeps all its squares
            squares = squares + F.mse_loss(some_z, some_e, reduction="sum")
        return e.view_as(e), squares / z.numel()

    @staticmethod
    def backward(ctx, grad_e, grad_commit):
        z, e = ctx.saved_tensors
        return torch.sub(z, e).mul_(grad_commit * (2 / z.numel())).add_(grad_e), None


def nearest(rows: Tensor, codebook: Tensor) -> Tensor:           # (N, D), (K, D) -> (N,)
    """Index of the closest code of each row.

    ||r - c||^2 = ||r||^2 - 2 r.c + ||c||^2, of which the first term is the same for all codes.
    """
    half_norm, opposite = codebook.pow(2).sum(1) / 2, -codebook  # (K,), (K, D)
    size = CHUNK if rows.device.type == "cpu" else 16 * CHUNK    # a GPU is idle between blocks
    return torch.cat([linear(some, opposite, half_norm).min(1).indices
                      for some in rows.split(size)])


def perplexity(counts: Tensor) -> Tensor:                        # (K,) -> ()
    """Effective number of codes: 1 if a single code is used, K if all are used equally."""
    p = counts / counts.sum()
    return torch.exp(-torch.xlogy(p, p).sum())


def as_rows(z: Tensor) -> Tensor:                                # (B, D, h, w) -> (N, D)
    """One row per cell; no copy where the channels lie last in memory."""
    return z.float().movedim(1, -1).flatten(0, 2)
