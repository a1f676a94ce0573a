"""EMA vector quantizer: one row per grid cell -> the nearest of K codes.

Letters: B images, D code width, h w grid cells, K codes, N = B*h*w rows.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlib.backend.cpu import linear
from vqlib.backend.distributed import all_reduce_sum, rank, world_size

CHUNK = 4096  # rows per distance block: (4096, 512) floats are 8 MB and stay in cache; (N, K) never exists


class Quantized(NamedTuple):
    """What the quantizer says of one batch."""

    e: Tensor           # (B, D, h, w) code vectors; the gradient passes straight through to z
    codes: Tensor       # (B, h, w) indices in 0..K-1
    commit: Tensor      # () mean squared distance of z to its codes
    perplexity: Tensor  # () effective number of codes in this batch


def nearest(rows: Tensor, codebook: Tensor) -> Tensor:
    """Index of the closest code of each row, by ||r - c||^2 = ||r||^2 - 2 r.c + ||c||^2 without its constant term."""
    half, opposite = codebook.pow(2).sum(1) / 2, -codebook                               # (K,), (K, D)
    return torch.cat([linear(r, opposite, half).min(1).indices for r in rows.split(CHUNK)])  # (N,)


def perplexity(counts: Tensor) -> Tensor:
    """Effective number of codes from (K,) picks: 1 if a single code is used, K if all are used equally."""
    p = counts / counts.sum()
    return torch.exp(-torch.xlogy(p, p).sum())


def as_rows(z: Tensor) -> Tensor:                                    # (B, D, h, w) -> (N, D), no copy of channels-last z
    return z.float().movedim(1, -1).flatten(0, 2)


class StraightThrough(torch.autograd.Function):
    """(e, mean squared distance of z to e); z gets the gradients of both: one new tensor, where autograd would keep three."""

    @staticmethod
    def forward(ctx, z, e):
        ctx.save_for_backward(z, e)
        parts = zip(z.chunk(8), e.chunk(8))                           # mse_loss keeps all squares before it adds them
        return e.view_as(e), sum(F.mse_loss(*part, reduction="sum") for part in parts) / z.numel()

    @staticmethod
    def backward(ctx, to_e, to_distance):
        z, e = ctx.saved_tensors
        return torch.sub(z, e).mul_(to_distance * (2 / z.numel())).add_(to_e), None


class Quantizer(nn.Module):
    """Codebook learnt by exponential moving averages (van den Oord et al. 2017, appendix A.1).

    `data_init` puts the first codes on rows of the first training batch; `reset_threshold` moves a code to a random row of the
    batch once its average count falls under that share of N/K (0: never). Both are off in the report. A batch may come in
    parts, one forward pass each, on several ranks: all are coded by the same codebook, which moves once, after the last.
    """

    def __init__(self, n_codes, code_dim, decay=0.99, data_init=True, reset_threshold=0.02, seed=0):
        super().__init__()
        self.decay, self.reset_threshold, self.seed = decay, reset_threshold, seed
        codebook = torch.randn(n_codes, code_dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("codebook", codebook)                    # (K, D)
        self.register_buffer("count", torch.ones(n_codes))            # one pseudo-member each, not 0
        self.register_buffer("total", codebook.clone())               # (K, D) codebook = total / count
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("resets", torch.tensor(0))              # codes moved since the start
        self.register_buffer("waiting", torch.tensor(data_init))      # for the first batch
        self.expect(1)

    def expect(self, parts: int) -> None:
        """From now on batches come in so many parts. Keeps two buffers on the host: to ask a GPU for them would stop it."""
        self.parts, self.done, self.sums = parts, 0, 0
        self.clock, self.fresh = int(self.updates), bool(self.waiting)

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        self.expect(self.parts)

    def forward(self, z: Tensor) -> Quantized:                        # (B, D, h, w)
        if z.shape[1] != self.codebook.shape[1]:
            raise ValueError(f"the quantizer takes {self.codebook.shape[1]} channels, got {tuple(z.shape)}")
        with torch.autocast(z.device.type, enabled=False):            # float32 throughout: bf16 confuses near codes
            z = z.float().contiguous(memory_format=torch.channels_last)  # as the codes' vectors: else distances cost thrice
            if self.training:
                self.survey([z])
            rows = as_rows(z.detach())                                # (N, D)
            index = nearest(rows, self.codebook)                      # (N,)
            codes = index.view(len(z), *z.shape[2:])                  # (B, h, w)
            e = self.lookup(codes)                                    # (B, D, h, w) before the update, as picked
            picked = self.count.new_zeros(self.count.shape).index_add_(0, index, torch.ones_like(rows[:, 0]))  # (K,)
            if self.training:
                picked = self.update(rows, index, picked)
            e, commit = StraightThrough.apply(z, e)                   # the codebook is a buffer: only z gets a gradient
            return Quantized(e, codes, commit, perplexity(picked))

    def lookup(self, codes: Tensor) -> Tensor:                        # (B, h, w) -> (B, D, h, w)
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def survey(self, parts) -> None:                                  # of (B, D, h, w): all parts of a batch
        """Put the codes on rows of the first training batch before any of it is coded; later do nothing."""
        if self.fresh:
            places = [self._places(as_rows(z), i, 0) for i, z in zip(range(self.parts), parts, strict=True)]
            self._put(self.waiting.expand(len(self.count)), all_reduce_sum(sum(places)))
            self.waiting.fill_(False)
            self.fresh = False

    @torch.no_grad()
    def update(self, rows: Tensor, index: Tensor, picked: Tensor) -> Tensor:  # (n, D), (n,), (K,) of a part -> (K,) so far
        added = torch.zeros_like(self.total).index_add_(0, index, rows)  # (K, D) never an (N, K) one-hot
        places = self._places(rows, self.done, 1) if self.reset_threshold else added[:0]
        self.sums = self.sums + torch.cat([x.flatten() for x in (picked, added, places)])
        self.done += 1
        if self.done < self.parts:
            return self.sums[: len(picked)]
        picked, added, places = all_reduce_sum(self.sums).split([picked.numel(), added.numel(), places.numel()])
        self.done, self.sums = 0, 0
        self.count.lerp_(picked, 1 - self.decay)
        self.total.lerp_(added.view_as(self.total), 1 - self.decay)
        moved = self.total / self.count[:, None]                      # the others' ratio is unchanged: they stay put
        self.codebook.copy_(torch.where(picked[:, None] > 0, moved, self.codebook))
        self.updates += 1
        self.clock += 1
        if self.reset_threshold:                                               # below the 1 of a new code: it gets time to be picked
            dead = self.count < min(self.reset_threshold * len(rows) * self.parts * world_size() / len(self.count), 0.5)  # (K,)
            self._put(dead, places.view_as(self.total)[dead.cumsum(0) - 1])
            self.resets += dead.sum()
        return picked

    def _places(self, rows: Tensor, part: int, later: int) -> Tensor:  # (n, D) -> (K, D)
        """K random rows of the whole batch; 0 where another part or rank has them, so that the sum over all is the rows."""
        n, N = len(rows), len(rows) * self.parts * world_size()
        pick = torch.randperm(N, generator=torch.Generator().manual_seed(self.seed + self.clock + later))
        pick = pick.repeat(-(-len(self.count) // N))[: len(self.count)] - n * (rank() * self.parts + part)
        pick = pick.to(rows.device, non_blocking=True)
        return torch.where(((pick >= 0) & (pick < n))[:, None], rows[pick.clamp(0, n - 1)], 0.0)

    def _put(self, which: Tensor, rows: Tensor) -> None:              # (K,) mask, (K, D)
        """Put codes on rows: vector, sum and count together, or the next update would undo the move."""
        self.codebook.copy_(torch.where(which[:, None], rows, self.codebook))
        self.total.copy_(torch.where(which[:, None], rows, self.total))
        self.count.masked_fill_(which, 1.0)
