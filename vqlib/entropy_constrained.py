"""A second way to find codes: those that the prior expects among near ones, instead of the nearest.

Entropy-constrained vector quantization (Chou, Lookabaugh & Gray 1989) with a conditional model: of two codes that lie nearly
as close, the one that costs fewer bits. Letters: B images, D code width, h w grid cells, T = h*w, K codes.
"""
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqlib.gpt import GPT
from vqlib.quantizer import as_rows


@dataclass
class EntropyConstrainedEncoder:
    """A VQ-VAE in all but how it encodes; what it decodes and measures is the VQ-VAE's own."""

    vqvae: nn.Module
    prior: GPT
    rate: float                # squared distance in the encoder's units that one nat is worth; 0 gives the nearest codes

    def __getattr__(self, name):
        return getattr(self.vqvae, name)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:                       # (B, 3, H, W) in [0, 1] -> (B, h, w)
        """Code k of a cell minimises ||z - e_k||^2 - rate * log p(k | codes chosen before).

        Cells come in the prior's order of drawing. The class is not told: codes depend on the image only.
        """
        z, grid = self.vqvae.encoder(self.vqvae.normalise(images)), self.prior.cfg.grid
        if z.shape[-2:] != (grid, grid):
            raise ValueError(f"the prior knows {grid} x {grid} codes, images of {tuple(images.shape)} have {tuple(z.shape[-2:])}")
        far = torch.cdist(as_rows(z), self.vqvae.quantizer.codebook).square().view(len(z), grid**2, -1)  # (B, T, K)
        order = self.prior.generation_order.tolist()
        codes = torch.empty(len(z), len(order), dtype=torch.long, device=z.device)
        loop = self.prior.steps(torch.full_like(codes[:, 0], self.prior.cfg.n_classes))
        logits = next(loop)                                           # (B, K)
        for cell, after in zip(order, [*order[1:], None]):
            codes[:, cell] = (far[:, cell] - self.rate * logits.log_softmax(-1)).argmin(-1)
            if after is not None:
                logits = loop.send(codes[:, cell])
        return codes.view(len(z), grid, grid)


def encoder(vqvae, prior, rate: float | None = None):
    """What finds the codes that a prior was made for: the VQ-VAE itself, or thriftily at the prior's rate or the one given."""
    rate = getattr(prior and prior.cfg, "rate", 0.0) if rate is None else rate
    return EntropyConstrainedEncoder(vqvae, prior, rate) if rate else vqvae
