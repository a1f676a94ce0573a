"""Alternatives to `vqlib.quantizer.Quantizer` with its interface, as the papers have them.

Letters: B images, D code width, h w grid cells, K codes, L levels per channel.
"""
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlib.backend.distributed import all_reduce_sum
from vqlib.quantizer import Quantized, Quantizer, perplexity


class UnitQuantizer(Quantizer):
    """Encoder outputs and codes of unit length: the nearest code is at the smallest angle.

    (Yu et al. 2022, arXiv 2110.04627, section 3.2, l2-normalised codes.) The codebook follows
    moving averages, as in the base class.
    """

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.shorten()

    def shorten(self) -> None:
        self.codebook.copy_(F.normalize(self.codebook, dim=1))

    def init_from(self, z: Tensor) -> None:                      # (B, D, h, w)
        super().init_from(F.normalize(z, dim=1))

    def encode(self, z: Tensor) -> Tensor:                       # (B, D, h, w) -> (B, h, w)
        return super().encode(F.normalize(z, dim=1))

    def forward(self, z: Tensor) -> Quantized:                   # (B, D, h, w)
        return super().forward(F.normalize(z, dim=1))

    def step(self) -> Tensor:
        batch_perplexity = super().step()
        self.shorten()                                           # a mean of unit vectors is shorter
        return batch_perplexity


def rotated(z: Tensor, e: Tensor) -> Tensor:                     # (B, D, h, w) twice
    """e, written as a rotation and a stretch of z that count as constants.

    So the gradient reaches z turned and stretched, where straight-through copies it:
    |e|/|z| (z - 2 r r'z + 2 e^ z^'z) with unit vectors z^, e^ and r along z^ + e^
    (Fifty et al. 2025, arXiv 2410.06424, section 4.2, equation 4).
    """
    z_hat, e_hat = F.normalize(z.detach(), dim=1), F.normalize(e.detach(), dim=1)
    r = F.normalize(z_hat + e_hat, dim=1)
    stretch = e.norm(dim=1, keepdim=True) / z.detach().norm(dim=1, keepdim=True).clamp_min(1e-6)
    along_r = (r * z).sum(1, keepdim=True)                       # (B, 1, h, w)
    along_z = (z_hat * z).sum(1, keepdim=True)
    return stretch * (z - 2 * r * along_r + 2 * e_hat * along_z)


class RotationQuantizer(Quantizer):
    """The same codes; the gradient reaches the encoder rotated instead of copied."""

    def forward(self, z: Tensor) -> Quantized:                   # (B, D, h, w)
        q = super().forward(z)
        return q._replace(e=rotated(z, q.e.detach()))


class ScalarQuantizer(nn.Module):
    """FSQ: each channel is rounded to one of L levels; 512 codes are 8 x 8 x 8, width 3.

    Nothing is learnt and no code can die (Mentzer et al. 2024, arXiv 2309.15505, section 3.1 and
    the listing of appendix A.1).
    """

    def __init__(self, n_codes, code_dim, *_settings):
        super().__init__()
        self.levels = round(n_codes ** (1 / code_dim))           # L
        powers = self.levels ** torch.arange(code_dim)
        self.register_buffer("basis", powers.view(1, -1, 1, 1))  # (1, D, 1, 1)
        self.register_buffer("resets", torch.tensor(0))
        picks = torch.zeros(self.levels**code_dim)               # (K,) since the last step
        self.register_buffer("picks", picks, persistent=False)
        self.steps = 0                                           # steps since the start

    def init_from(self, z: Tensor) -> None:                      # (B, D, h, w)
        """The codes lie on a fixed grid."""

    def bound(self, z: Tensor) -> Tensor:
        """Into an interval that rounds to L integers, -4..3 for 8."""
        half, offset = (self.levels - 1) * (1 - 1e-3) / 2, 0.5 * (self.levels % 2 == 0)
        return torch.tanh(z + math.tan(offset / half)) * half - offset

    def encode(self, z: Tensor) -> Tensor:                       # (B, D, h, w) -> (B, h, w)
        levels = self.bound(z.detach().float()).round() + self.levels // 2      # 0..L-1
        return (levels * self.basis).sum(1).round().long()

    def forward(self, z: Tensor) -> Quantized:                   # (B, D, h, w)
        bounded = self.bound(z.float())
        rounded = bounded + (bounded.round() - bounded).detach()  # straight through
        codes = self.encode(z)                                   # (B, h, w)
        if self.training:
            self.picks += torch.bincount(codes.flatten(), minlength=len(self.picks))
        return Quantized(rounded / (self.levels // 2), codes, z.new_zeros(()))

    def lookup(self, codes: Tensor) -> Tensor:                   # (B, h, w) -> (B, D, h, w)
        half = self.levels // 2
        return (codes[:, None] // self.basis % self.levels - half) / half

    @torch.no_grad()
    def step(self) -> Tensor:
        """The perplexity () of all codes since the last step, on all ranks; nothing moves."""
        batch_perplexity = perplexity(all_reduce_sum(self.picks))
        self.picks.zero_()
        self.steps += 1
        return batch_perplexity


KINDS = {"ema": Quantizer, "unit": UnitQuantizer, "rotation": RotationQuantizer,
         "fsq": ScalarQuantizer}
