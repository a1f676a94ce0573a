"""A stochastic decoder for the codes of a VQ-VAE: what least squares averages away is drawn.

The VQ-VAE's decoder gives the mean of all images that fit the codes, and a mean is blurred. A
conditional flow (Lipman et al. 2023, "Flow matching for generative modeling", equation 23 with
sigma_min = 0) carries noise to the residuals of real images and adds one draw of them.

Letters: B images, H W pixels, h w grid cells, D code width, C width, p pixels per patch side.
"""
import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlib import settings
from vqlib.backend.distributed import all_reduce_mean
from vqlib.identity import assert_learnt_from


@dataclass(frozen=True)
class FlowDecoderConfig:
    """Sizes of the flow's net."""

    code_dim: int = 128        # D, the VQ-VAE's
    width: int = 64            # C
    layers: int = 6
    patch: int = 4             # p: pixels per side that the net sees as one place; divides f
    steps: int = 8             # Euler steps from noise to residual

    def __post_init__(self):
        settings.check(self)


class TimedResidual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)) + linear(time))).

    There are no norms: codes and residuals come with a known scale.
    """

    def __init__(self, width):
        super().__init__()
        self.wide = nn.Conv2d(width, width, 3, padding=1)
        self.back = nn.Conv2d(width, width, 1)
        self.time = nn.Linear(width, width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:        # (B, C, H/p, W/p), (B, C)
        shift = self.time(time)[:, :, None, None]
        return x + self.back(F.relu(self.wide(F.relu(x)) + shift))


class FlowDecoder(nn.Module):
    """Velocity of the flow, given time, code vectors and the least-squares image.

    The net predicts the residual, and the velocity follows from it (Li & He 2025, "Back to basics:
    let denoising generative models denoise"). The last Euler step then ends on a prediction, which
    has no noise left in it, however short the training was. A net that predicts the velocity itself
    leaves grain for long (LOG.md).
    """

    def __init__(self, cfg: FlowDecoderConfig, seed=0):
        super().__init__()
        self.cfg, C, values = cfg, cfg.width, 3 * cfg.patch**2       # values of a patch
        self.register_buffer("to_unit", torch.eye(3))            # residuals -> unit variance
        self.register_buffer("from_unit", torch.eye(3))          # white noise -> residuals' colours
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.noisy_pixels = nn.Conv2d(values, C, 3, padding=1, bias=False)
            self.decoded_pixels = nn.Conv2d(values, C, 3, padding=1)
            self.code_vectors = nn.Conv2d(cfg.code_dim, C, 3, padding=1)
            self.time = nn.Sequential(nn.Linear(1, C), nn.SiLU(), nn.Linear(C, C), nn.SiLU())
            self.layers = nn.ModuleList(TimedResidual(C) for _ in range(cfg.layers))
            self.residual = nn.Conv2d(C, values, 3, padding=1)
            for p in self.residual.parameters():
                nn.init.zeros_(p)

    def fit_units(self, residuals: Tensor) -> None:              # (n, 3, H, W)
        """Scale residuals to a mean square of 1 along each of their principal colour axes.

        The mean is not subtracted. Ranks bring equally many residuals.
        """
        x = residuals.movedim(1, -1).flatten(0, -2).double()     # (n*H*W, 3)
        # on the CPU: axes have a sign, and every device should choose the same
        power, axes = torch.linalg.eigh(all_reduce_mean(x.T @ x / len(x)).cpu())
        scale = power.clamp_min(1e-8).sqrt()
        self.from_unit.copy_(axes * scale)
        self.to_unit.copy_((axes / scale).T)

    def context(self, e: Tensor, x_hat: Tensor) -> Tensor:       # (B, D, h, w), (B, 3, H, W)
        """What does not change along the flow, (B, C, H/p, W/p); x_hat is normalised."""
        seen = self.decoded_pixels(F.pixel_unshuffle(x_hat, self.cfg.patch))
        return seen + F.interpolate(self.code_vectors(e), seen.shape[-2:])

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """dx/dt at time t in [0, 1]: (B, 3, H, W), (B,), (B, C, H/p, W/p) -> (B, 3, H, W)."""
        time = self.time(t[:, None])                             # (B, C)
        y = context + self.noisy_pixels(F.pixel_unshuffle(x, self.cfg.patch))
        for layer in self.layers:
            y = layer(y, time)
        residual = F.pixel_shuffle(self.residual(F.relu(y)), self.cfg.patch)
        left = (1 - t).clamp_min(1 / self.cfg.steps)             # the last step starts there
        return (residual - x) / left[:, None, None, None]

    def loss(self, e: Tensor, x_hat: Tensor, residual: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Mean squared error of the velocity at times t (B,).

        About 2 * steps for a net that knows nothing: late velocities weigh most.

        e (B, D, h, w) and x_hat as in `context`; residual (B, 3, H, W): image - denormalised x_hat;
        noise (B, 3, H, W). Paths are straight lines from noise to residual.
        """
        target = change_colours(residual, self.to_unit)
        x = torch.lerp(noise, target, t[:, None, None, None])
        return F.mse_loss(self(x, t, self.context(e, x_hat)), target - noise)


def change_colours(x: Tensor, matrix: Tensor) -> Tensor:         # (B, 3, H, W), (3, 3)
    with torch.autocast(x.device.type, enabled=False):           # a residual is a small difference
        return torch.einsum("ij,bjhw->bihw", matrix, x)


def noise_of(codes: Tensor, shape: tuple, seed=0) -> Tensor:     # (B, h, w) -> (B, *shape)
    """Normal noise that depends on the seed and an image's own codes only.

    The same codes give the same image, alone or in a batch.
    """
    noise = []
    for own in codes.cpu().long():
        text = str(seed).encode("ascii") + own.numpy().tobytes()
        digest = hashlib.sha256(text).digest()
        rng = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        noise.append(torch.randn(shape, generator=rng))
    return torch.stack(noise).to(codes.device)


def assert_decodes(flow_decoder: FlowDecoder, vqvae) -> None:
    """Raises ValueError unless the flow decoder takes the VQ-VAE's codes, and learnt from it."""
    mine, f = flow_decoder.cfg, 2**vqvae.cfg.n_down
    if mine.code_dim != vqvae.cfg.code_dim:
        raise ValueError(f"the flow decoder is for codes of width {mine.code_dim}, the VQ-VAE's "
                         f"have {vqvae.cfg.code_dim}")
    if f % mine.patch:
        raise ValueError(f"the flow decoder's patches of {mine.patch} px do not divide the "
                         f"VQ-VAE's cells of {f} px")
    assert_learnt_from(flow_decoder, vqvae)


@dataclass
class StochasticDecoder:
    """Decodes like a VQ-VAE: its least-squares image plus one draw of the residual.

    What is added was drawn, not seen. Another seed draws other details for the same codes.
    Raises ValueError for a flow decoder of codes of another width or cell size.
    """

    vqvae: nn.Module
    flow_decoder: FlowDecoder
    seed: int = 0

    def __post_init__(self):
        assert_decodes(self.flow_decoder, self.vqvae)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:             # (B, h, w) -> (B, 3, H, W) in [0, 1]
        """Images of codes, clipped to [0, 1]; Euler steps along the flow."""
        e = self.vqvae.quantizer.lookup(codes)
        x_hat = self.vqvae.decoder(e)                            # normalised
        context = self.flow_decoder.context(e, x_hat)
        x = noise_of(codes, x_hat.shape[1:], self.seed)
        n = self.flow_decoder.cfg.steps
        for i in range(n):
            t = torch.full((len(x),), i / n, device=x.device)
            x = x + self.flow_decoder(x, t, context) / n
        residual = change_colours(x, self.flow_decoder.from_unit)
        return (self.vqvae.denormalise(x_hat) + residual).clamp(0, 1)
