"""EMA vector quantizer: one row per grid cell -> the nearest of K codes.

Letters: B images, D code width, h w grid cells, K codes, N = B*h*w rows.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 4096  # rows per distance block: (4096, 512) floats are 8 MB and stay in cache; (N, K) never exists


class Quantized(NamedTuple):
    """What the quantizer says of one batch."""

    e: Tensor           # (B, D, h, w) code vectors; the gradient passes straight through to z
    codes: Tensor       # (B, h, w) indices in 0..K-1
    commit: Tensor      # () mean squared distance of z to its codes
    perplexity: Tensor  # () effective number of codes in this batch


def nearest(rows: Tensor, codebook: Tensor) -> Tensor:
    """Index of the closest code of each row, by ||r - c||^2 = ||r||^2 - 2 r.c + ||c||^2 without its constant term."""
    half = codebook.pow(2).sum(1) / 2                                                    # (K,)
    return torch.cat([torch.addmm(half, r, codebook.T, alpha=-1).argmin(1) for r in rows.split(CHUNK)])  # (N,)


def perplexity(counts: Tensor) -> Tensor:
    """Effective number of codes from (K,) picks: 1 if a single code is used, K if all are used equally."""
    p = counts / counts.sum()
    return torch.exp(-torch.xlogy(p, p).sum())


class Quantizer(nn.Module):
    """Codebook learnt by exponential moving averages (van den Oord et al. 2017, appendix A.1).

    `data_init` puts the first codes on rows of the first training batch; `revive` moves a code to a random row of the
    batch once its average count falls under that share of N/K (0: never). Both are off in the report.
    """

    def __init__(self, n_codes, code_dim, decay=0.99, data_init=True, revive=0.02, seed=0):
        super().__init__()
        self.decay, self.revive, self.seed = decay, revive, seed
        codebook = torch.randn(n_codes, code_dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("codebook", codebook)                    # (K, D)
        self.register_buffer("count", torch.ones(n_codes))            # one pseudo-member each, not 0
        self.register_buffer("total", codebook.clone())               # (K, D) codebook = total / count
        self.register_buffer("updates", torch.tensor(0))
        self.register_buffer("revived", torch.tensor(0))              # codes moved since the start
        self.register_buffer("waiting", torch.tensor(data_init))      # for the first batch

    def forward(self, z: Tensor) -> Quantized:                        # (B, D, h, w)
        if z.shape[1] != self.codebook.shape[1]:
            raise ValueError(f"the quantizer takes {self.codebook.shape[1]} channels, got {tuple(z.shape)}")
        rows = z.detach().float().movedim(1, -1).flatten(0, 2)        # (N, D) float32 even under autocast
        if self.training and self.waiting:
            self._place(torch.arange(len(self.count), device=z.device), rows)
            self.waiting.fill_(False)
        index = nearest(rows, self.codebook)                          # (N,)
        codes = index.view(len(z), *z.shape[2:])                      # (B, h, w)
        e = self.lookup(codes)                                        # (B, D, h, w) before the update, as picked
        commit = F.mse_loss(z.float(), e)                             # the codebook is a buffer: only z gets a gradient
        picked = torch.bincount(index, minlength=len(self.count)).float()  # (K,)
        if self.training:
            self.update(rows, index, picked)
        return Quantized(z + (e - z).detach(), codes, commit, perplexity(picked))

    def lookup(self, codes: Tensor) -> Tensor:                        # (B, h, w) -> (B, D, h, w)
        return F.embedding(codes, self.codebook).movedim(-1, 1)

    @torch.no_grad()
    def update(self, rows: Tensor, index: Tensor, picked: Tensor):    # (N, D), (N,), (K,)
        added = torch.zeros_like(self.total).index_add_(0, index, rows)  # (K, D) never an (N, K) one-hot
        self.count.lerp_(picked, 1 - self.decay)
        self.total.lerp_(added, 1 - self.decay)
        moved = self.total / self.count[:, None]                      # the others' ratio is unchanged: they stay put
        self.codebook.copy_(torch.where(picked[:, None] > 0, moved, self.codebook))
        self.updates += 1
        if self.revive:
            share = min(self.revive * len(rows) / len(self.count), 0.5)  # below the 1 of a new code: it gets time to be picked
            dead = (self.count < share).nonzero()[:, 0]
            if len(dead):
                self._place(dead, rows)
                self.revived += len(dead)

    def _place(self, which: Tensor, rows: Tensor):                    # (m,), (N, D)
        """Put codes on random rows: vector, sum and count together, or the next update would undo the move."""
        dice = torch.Generator().manual_seed(self.seed + int(self.updates))
        pick = torch.randperm(len(rows), generator=dice)
        pick = pick.repeat(-(-len(which) // len(rows)))[: len(which)].to(rows.device)
        self.codebook[which] = rows[pick]
        self.total[which] = rows[pick]
        self.count[which] = 1.0
