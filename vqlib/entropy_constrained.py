"""Entropy-constrained encoding: codes that are near *and* expected by the prior.

ECVQ (Chou, Lookabaugh & Gray 1989) with a conditional model: of two codes that lie nearly as
close, take the one that costs fewer bits. An option when images are encoded; it trains nothing.

Letters: B images, D code width, h w grid cells, T = h*w, K codes.
"""
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vqlib.gpt import GPT, Sampler
from vqlib.quantizer import as_rows


@dataclass
class EntropyConstrainedEncoder:
    """A VQ-VAE that encodes in another way; everything else is the VQ-VAE's own.

    So `decode` is the VQ-VAE's, but `to` and `eval` give back the VQ-VAE itself.

    lambda_: the Lagrange multiplier, in squared distance of the encoder's units per nat.
    """

    vqvae: nn.Module
    prior: GPT
    lambda_: float

    def __getattr__(self, name):
        if name == "vqvae":                                      # copy and pickle ask before it
            raise AttributeError(name)                           # is there: no endless recursion
        return getattr(self.vqvae, name)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:            # (B, 3, H, W) in [0, 1] -> (B, h, w)
        """Each cell takes the k that minimises ||z - e_k||^2 - lambda * log p(k | codes before).

        Cells come in the prior's generation order. The class is not used: codes depend on the
        image only. Raises ValueError for images of another size than the prior's grid.
        """
        z, grid = self.vqvae.encoder(self.vqvae.normalise(images)), self.prior.cfg.grid
        if z.shape[-2:] != (grid, grid):
            raise ValueError(f"the prior knows {grid} x {grid} codes, images of "
                             f"{tuple(images.shape)} have {tuple(z.shape[-2:])}")
        distance = torch.cdist(as_rows(z), self.vqvae.quantizer.codebook).square()  # (B*T, K)
        distance = distance.view(len(z), grid**2, -1)                               # (B, T, K)
        codes = torch.empty(distance.shape[:2], dtype=torch.long, device=z.device)
        sampler = Sampler(self.prior, torch.full_like(codes[:, 0], self.prior.cfg.n_classes))
        chosen = None                                            # (B,) at the cell before
        for cell in self.prior.generation_order.tolist():
            nats = -sampler.step(chosen).log_softmax(-1)         # (B, K)
            chosen = (distance[:, cell] + self.lambda_ * nats).argmin(-1)
            codes[:, cell] = chosen
        return codes.view(len(z), grid, grid)


def encoder_for(vqvae, prior=None, lambda_: float = 0.0):
    """What encodes images: the VQ-VAE itself (nearest codes), or ECVQ where lambda_ > 0.

    Raises ValueError for a negative or infinite lambda_, and for one above 0 without a whole-grid
    prior, which alone can predict a code from those drawn before it wherever they lie.
    """
    if not 0 <= lambda_ < math.inf:
        raise ValueError(f"lambda {lambda_} must be a number from 0 on")
    if not lambda_:
        return vqvae
    if not isinstance(prior, GPT):
        raise ValueError(f"entropy-constrained encoding (lambda {lambda_:g}) needs a whole-grid "
                         "prior; lambda 0 takes the nearest codes")
    return EntropyConstrainedEncoder(vqvae, prior, lambda_)
