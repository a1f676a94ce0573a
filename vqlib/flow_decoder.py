"""A second way to look at codes: the faithful picture plus one draw of what least squares averaged away.

A conditional flow (Lipman et al. 2023, "Flow matching for generative modeling", equation 23 with sigma_min = 0) carries noise
to residuals of real images. Letters: B images, H W pixels, h w grid cells, D code width, f pixels per cell side, C width.
"""
import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlib.backend.distributed import all_reduce_sum, world_size


@dataclass(frozen=True)
class FlowDecoderConfig:
    """Sizes of the flow's net; code_dim must be the VQ-VAE's."""

    code_dim: int = 128        # D
    width: int = 64            # C
    layers: int = 6
    patch: int = 4             # pixels per side that the net sees as one place; divides f
    steps: int = 8             # Euler steps from noise to residual

    def __post_init__(self):
        if min(self.width, self.layers, self.patch, self.steps) < 1:
            raise ValueError(f"width, layers, patch and steps must be at least 1, got {self}")


class Layer(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)) + what time says)), no norms: codes and residuals come with a known scale."""

    def __init__(self, width):
        super().__init__()
        self.wide, self.back = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.time = nn.Linear(width, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:             # (B, C, H/p, W/p), (B, C)
        return x + self.back(F.relu(self.wide(F.relu(x)) + self.time(time)[:, :, None, None]))


class FlowDecoder(nn.Module):
    """Velocity of the flow, given time, code vectors and the faithful picture; encoder, codebook and decoder stay as they are."""

    def __init__(self, cfg: FlowDecoderConfig, seed=0):
        super().__init__()
        self.cfg, C, pixels = cfg, cfg.width, 3 * cfg.patch**2
        self.register_buffer("mix", torch.eye(3))                     # white noise -> colours that residuals have
        self.register_buffer("unmix", torch.eye(3))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.pixels, self.codes = nn.Conv2d(2 * pixels, C, 3, padding=1), nn.Conv2d(cfg.code_dim, C, 3, padding=1)
            self.time = nn.Sequential(nn.Linear(1, C), nn.SiLU(), nn.Linear(C, C), nn.SiLU())
            self.layers = nn.ModuleList([Layer(C) for _ in range(cfg.layers)])
            self.velocity = nn.Conv2d(C, pixels, 3, padding=1)
            nn.init.zeros_(self.velocity.weight)

    def measure(self, residuals: Tensor) -> None:                     # (n, 3, H, W)
        """Take the residuals' mean square along their own three colour axes as the unit of each; ranks bring equally many."""
        x = residuals.movedim(1, -1).flatten(0, -2).double()          # (nHW, 3)
        power, axes = torch.linalg.eigh(all_reduce_sum(x.T @ x / len(x)) / world_size())
        scale = power.clamp_min(1e-8).sqrt()
        self.mix.copy_(axes * scale)
        self.unmix.copy_((axes / scale).T)

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:  # (B, 3, H, W), (B,), (B, C, H/p, W/p)
        """d x / d t at time t in [0, 1], in the units of `measure`."""
        p, time = self.cfg.patch, self.time(t[:, None])
        y = context + F.conv2d(F.pixel_unshuffle(x, p), self.pixels.weight[:, : 3 * p * p], padding=1)
        for layer in self.layers:
            y = layer(y, time)
        return F.pixel_shuffle(self.velocity(F.relu(y)), p)

    def context(self, e: Tensor, faithful: Tensor) -> Tensor:         # (B, D, h, w), (B, 3, H, W) normalised -> (B, C, H/p, W/p)
        """What does not change along the flow, once per image."""
        p, weight = self.cfg.patch, self.pixels.weight
        seen = F.conv2d(F.pixel_unshuffle(faithful, p), weight[:, 3 * p * p :], self.pixels.bias, padding=1)
        return seen + F.interpolate(self.codes(e), seen.shape[-2:])

    def loss(self, e: Tensor, faithful: Tensor, residual: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of the velocity at times t (B,) along straight lines from noise to residual (B, 3, H, W)."""
        target = torch.einsum("ij,bjhw->bihw", self.unmix, residual)
        x = torch.lerp(noise, target, t[:, None, None, None])
        return F.mse_loss(self(x, t, self.context(e, faithful)), target - noise)


def noise_of(codes: Tensor, shape: tuple, seed=0) -> Tensor:         # (B, h, w) -> (B, *shape)
    """Noise that depends on seed and an image's own codes only: the same codes give the same picture, alone or in a batch."""
    digests = [hashlib.sha256(bytes(str(seed), "ascii") + c.cpu().long().numpy().tobytes()).digest() for c in codes]
    rng = [torch.Generator().manual_seed(int.from_bytes(d[:7], "big")) for d in digests]
    return torch.stack([torch.randn(shape, generator=g) for g in rng]).to(codes.device)


@dataclass
class StochasticDecoder:
    """Decodes like a VQ-VAE, sharply. The faithful picture is part of it: what is added has been drawn, not seen."""

    vqvae: nn.Module
    sharp: FlowDecoder
    seed: int = 0              # another seed draws other details of the same codes

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:                        # (B, h, w) -> (B, 3, H, W) in [0, 1]
        e = self.vqvae.quantizer.lookup(codes)
        faithful = self.vqvae.decoder(e)                              # normalised
        context, x = self.sharp.context(e, faithful), noise_of(codes, faithful.shape[1:], self.seed)
        for i in range(n := self.sharp.cfg.steps):
            x = x + self.sharp(x, torch.full((len(x),), i / n, device=x.device), context) / n
        return (self.vqvae.denormalise(faithful) + torch.einsum("ij,bjhw->bihw", self.sharp.mix, x)).clamp(0, 1)
