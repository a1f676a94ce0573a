"""The prior of a row: the library's GPT with parts taken away, or with one that it does without.

Letters: B images, T = h*w codes per image, t of them known, K codes, C width.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqlib.gpt import GPT, NEIGHBOURS, GPTConfig
from vqlib.windowed_gpt import WindowedGPT, WindowedGPTConfig


@dataclass(frozen=True)
class PriorRow:
    """One prior and how it trains; the defaults are ours."""

    key: str
    label: str
    against: str | None = None
    window: bool = False             # the report's transformer on a quarter of the sequence
    positions: str = "row + column"  # or "1-D"
    neighbours: bool = True          # codes generated around a cell are inputs
    class_token: bool = True
    order: str = "coarse to fine"    # or "raster", or "annealed": random at first, then raster
    kv_heads: int = 2                # of two heads: each has its own keys and values
    dropout: float = 0.0
    corruption: float = 0.0          # share of the input codes that training makes random
    augmentations: int = 8           # flips and quarter turns of each training image
    average: float = 0.0             # decay of an average of the weights, which is evaluated


def generated_neighbours(order: Tensor, side: int) -> Tensor:    # (T,) -> (T, 12)
    """When the cells around each cell were generated, for any order of generation.

    T stands for cells outside the grid and for those that come later.
    """
    T = side**2
    places = torch.stack([order // side, order % side], 1)       # (T, 2) row and column
    places = places[:, None] + torch.tensor(NEIGHBOURS)          # (T, 12, 2)
    inside = ((places >= 0) & (places < side)).all(-1)
    row, column = places.clamp(0, side - 1).unbind(-1)
    when = order.argsort()[row * side + column]                  # (T, 12)
    earlier = when < torch.arange(T)[:, None]
    return torch.where(inside & earlier, when, T)


class AblatedGPT(GPT):
    """With a row of defaults it is `vqlib.gpt.GPT` to the bit."""

    def __init__(self, cfg: GPTConfig, row: PriorRow, updates: int, seed=0):
        super().__init__(cfg, seed)
        self.settings, self.updates, self.updates_done = row, updates, 0
        self.raster = torch.arange(cfg.grid**2)
        if row.order != "coarse to fine":
            self.generate_in(self.raster)
        if row.positions == "1-D":
            self.use_cell_positions(seed)

    def use_cell_positions(self, seed: int) -> None:
        """One vector per cell, in place of one per row plus one per column."""
        side, rng = self.cfg.grid, torch.Generator().manual_seed(seed)
        for name in ("row", "previous_row"):
            vectors = 0.02 * torch.randn(side, side, self.cfg.width, generator=rng)
            setattr(self, name, nn.Parameter(vectors))
        del self.column, self.previous_column
        self.column = self.previous_column = 0

    def generate_in(self, order: Tensor) -> None:                # (T,) cells
        neighbours = generated_neighbours(order, self.cfg.grid)
        if not self.settings.neighbours:
            neighbours = torch.full_like(neighbours, len(order))
        self.generation_order, self.neighbours = order, neighbours

    def forward(self, prefix: Tensor, labels: Tensor) -> Tensor:   # (B, t), (B,) -> (B, t+1, K)
        if self.training and self.settings.corruption:
            wrong = torch.rand(prefix.shape, device=prefix.device) < self.settings.corruption
            prefix = torch.where(wrong, torch.randint_like(prefix, self.cfg.n_codes), prefix)
        return super().forward(prefix, labels)

    def loss(self, codes: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Mean nats per code; annealed rows change the order of generation as they train.

        Orders are random in the first half of a run, raster in the last quarter, and mixed in
        between (Yu et al. 2024, arXiv 2411.00776, section 3.2; there each image has an order of
        its own, here four share one).
        """
        if self.settings.order != "annealed":
            return super().loss(codes, labels, rng)
        random_share = 3 - 4 * self.updates_done / self.updates  # above 1: always, below 0: never
        losses = []
        for some_codes, some_labels in zip(codes.split(4), labels.split(4)):
            if torch.rand((), generator=rng) < random_share:
                self.generate_in(torch.randperm(len(self.raster), generator=rng))
            else:
                self.generate_in(self.raster)
            losses.append(super().loss(some_codes, some_labels, rng))
        self.generate_in(self.raster)
        self.updates_done += 1
        return torch.stack(losses).mean()


def build(row: PriorRow, cfg: GPTConfig, updates: int, seed: int) -> nn.Module:
    """The windowed transformer has the same sizes as the others."""
    if row.window:
        windowed = WindowedGPTConfig(cfg.grid, cfg.n_codes, cfg.width, cfg.heads, cfg.layers,
                                  row.dropout)
        return WindowedGPT(windowed, seed)
    return AblatedGPT(cfg, row, updates, seed)
