"""The prior of a row: the library's GPT with parts taken away, or with one that it does without.

Letters: B images, T = h*w codes per image, K codes, C width.
"""
import torch
from torch import Tensor, nn

from vqlib.gpt import GPT, NEIGHBOURS, GPTConfig
from vqlib.studies.rows import PriorRow
from vqlib.windowed_gpt import WindowedConfig, WindowedGPT


def drawn_around(order: Tensor, side: int) -> Tensor:                # (T,) -> (T, 12)
    """When the cells around each were drawn, for any order of drawing; T where not before it, or outside."""
    T = side**2
    place = torch.stack([order // side, order % side], 1)[:, None] + torch.tensor(NEIGHBOURS)        # (T, 12, 2)
    inside = ((place >= 0) & (place < side)).all(-1)
    row, column = place.clamp(0, side - 1).unbind(-1)
    when = order.argsort()[row * side + column]
    return torch.where(inside & (when < torch.arange(T)[:, None]), when, T)


class AblatedGPT(GPT):
    """A row without any change is `vqlib.gpt.GPT` to the bit."""

    def __init__(self, cfg: GPTConfig, row: PriorRow, updates: int, seed=0):
        super().__init__(cfg, seed)
        self.settings, self.updates, self.done = row, updates, 0
        self.raster = torch.arange(cfg.grid**2)
        if row.order != "sparse to dense":
            self.draw_in(self.raster)
        if row.positions == "1-D":                                    # a vector per cell, not a row's plus a column's
            rng = torch.Generator().manual_seed(seed)
            for name in ("row", "last_row"):
                setattr(self, name, nn.Parameter(0.02 * torch.randn(cfg.grid, cfg.grid, cfg.width, generator=rng)))
            del self.column, self.last_column
            self.column = self.last_column = 0

    def draw_in(self, order: Tensor) -> None:                         # (T,)
        around = drawn_around(order, self.cfg.grid)
        self.generation_order, self.around = order, around if self.settings.around else torch.full_like(around, len(order))

    def forward(self, prefix: Tensor, labels: Tensor) -> Tensor:      # (B, t), (B,)
        if self.training and self.settings.corruption:
            wrong = torch.rand(prefix.shape, device=prefix.device) < self.settings.corruption
            prefix = torch.where(wrong, torch.randint_like(prefix, self.cfg.n_codes), prefix)
        return super().forward(prefix, labels)

    def loss(self, codes: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Annealed: orders are random in the first half of a run, raster in the last quarter, mixed between (Yu et al. 2024,
        arXiv 2411.00776, section 3.2; there each image has an order of its own, here four share one)."""
        if self.settings.order != "annealed":
            return super().loss(codes, labels, rng)
        share, losses = 3 - 4 * self.done / self.updates, []
        for part in zip(codes.split(4), labels.split(4)):
            random = torch.rand((), generator=rng) < share
            self.draw_in(torch.randperm(len(self.raster), generator=rng) if random else self.raster)
            losses.append(super().loss(*part, rng))
        self.draw_in(self.raster)
        self.done += 1
        return torch.stack(losses).mean()


def build(row: PriorRow, cfg: GPTConfig, updates: int, seed: int):
    """The window's transformer has the same sizes as the others."""
    if row.window:
        return WindowedGPT(WindowedConfig(cfg.grid, cfg.n_codes, cfg.width, cfg.heads, cfg.layers, row.dropout), seed)
    return AblatedGPT(cfg, row, updates, seed)
