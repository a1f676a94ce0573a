"""VQ-VAE: image -> grid of codes -> image, with the nets of the course report.

Letters: B images, H W pixels, h w grid cells, D code width, K codes,
f = 2**n_down pixels per cell side.
"""
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vqlib import settings
from vqlib.quantizer import Quantized, Quantizer


@dataclass(frozen=True)
class VQVAEConfig:
    """Sizes of the nets and of the bottleneck; the defaults are the report's."""

    image_size: int = 128          # pixels per side, a multiple of f
    n_down: int = 2                # halvings: 128 px -> 32 x 32 codes; 3 gives 16 x 16
    hidden: int = 64               # channels of the encoder
    residual_hidden: int = 32      # channels inside a residual layer of the encoder
    decoder_hidden: int | None = None  # channels of the decoder; None: as the encoder's
    decoder_residual_hidden: int | None = None
    residual_layers: int = 2
    n_codes: int = 512             # K: widens the bottleneck
    code_dim: int = 128            # D: does not change the bit budget
    beta: float = 0.25             # pulls encoder outputs to their codes; raise it if they drift
    decay: float = 0.99            # of the codebook's moving averages; higher: steadier, slower
    data_init: bool = True         # codes start on encoder outputs of the first batch
    reset_threshold: float = 0.02  # share of N/K under which a code is dead; 0: never reset

    def __post_init__(self):
        settings.check(self)
        if self.image_size % 2**self.n_down:
            raise ValueError(f"image_size {self.image_size} is no multiple of {2**self.n_down} "
                             f"(n_down {self.n_down})")

    @property
    def grid(self) -> int:
        """Cells per side."""
        return self.image_size // 2**self.n_down


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), without biases."""

    def __init__(self, hidden, inner):
        super().__init__()
        self.wide = nn.Conv2d(hidden, inner, 3, padding=1, bias=False)
        self.back = nn.Conv2d(inner, hidden, 1, bias=False)

    def forward(self, x):                                        # (B, hidden, h, w)
        return x + self.back(F.relu(self.wide(F.relu(x))))


def residual_stack(hidden: int, inner: int, layers: int) -> nn.Sequential:
    return nn.Sequential(*[Residual(hidden, inner) for _ in range(layers)], nn.ReLU())


def build_encoder(cfg: VQVAEConfig) -> nn.Sequential:
    """(B, 3, H, W) -> (B, D, h, w): strided convolutions, then residual layers on the grid."""
    widths = [3, cfg.hidden // 2] + [cfg.hidden] * (cfg.n_down - 1)
    down = []
    for narrow, wide in pairwise(widths):                        # each halves both sides
        down += [nn.Conv2d(narrow, wide, kernel_size=4, stride=2, padding=1), nn.ReLU()]
    middle = nn.Conv2d(widths[-1], cfg.hidden, 3, padding=1)
    residual = residual_stack(cfg.hidden, cfg.residual_hidden, cfg.residual_layers)
    return nn.Sequential(*down, middle, residual, nn.Conv2d(cfg.hidden, cfg.code_dim, 1))


def build_decoder(cfg: VQVAEConfig) -> nn.Sequential:
    """(B, D, h, w) -> (B, 3, H, W): residual layers, then transposed convolutions."""
    hidden = cfg.decoder_hidden or cfg.hidden
    inner = cfg.decoder_residual_hidden or cfg.residual_hidden
    last = hidden if cfg.n_down == 1 else hidden // 2
    widths = [hidden] * (cfg.n_down - 1) + [last, 3]
    up = []
    for wide, narrow in pairwise(widths):                        # each doubles both sides
        up += [nn.ConvTranspose2d(wide, narrow, kernel_size=4, stride=2, padding=1), nn.ReLU()]
    first = nn.Conv2d(cfg.code_dim, hidden, 3, padding=1)
    residual = residual_stack(hidden, inner, cfg.residual_layers)
    return nn.Sequential(first, residual, *up[:-1])              # no ReLU on pixels


class VQVAE(nn.Module):
    """Encoder, quantizer, decoder.

    `encode` and `decode` take and give images in [0, 1]; `forward` works on normalised ones.
    mean, std: of each colour channel over the training split.
    """

    def __init__(self, cfg: VQVAEConfig, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), seed=0):
        super().__init__()
        self.cfg = cfg
        self.register_buffer("mean", torch.as_tensor(mean).float().view(1, 3, 1, 1))
        self.register_buffer("std", torch.as_tensor(std).float().view(1, 3, 1, 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder, self.decoder = build_encoder(cfg), build_decoder(cfg)
        self.quantizer = Quantizer(cfg.n_codes, cfg.code_dim, cfg.decay, cfg.reset_threshold, seed)

    def normalise(self, images: Tensor) -> Tensor:               # (B, 3, H, W) in [0, 1]
        """Mean 0 and variance 1 per channel over the training split.

        From here on the channels of a pixel lie side by side in memory: convolutions are faster,
        and the quantizer gets its rows without a copy.
        """
        x = (images - self.mean) / self.std
        return x.contiguous(memory_format=torch.channels_last)

    def denormalise(self, x: Tensor) -> Tensor:                  # (B, 3, H, W)
        """The inverse of `normalise`: each channel with its own mean and standard deviation."""
        return x * self.std + self.mean

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:    # (B, 3, H, W) normalised
        """The reconstruction in normalised units, and what the quantizer returned."""
        quantized = self.quantizer(self.encoder(x))              # e: (B, D, h, w)
        return self.decoder(quantized.e), quantized

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:            # (B, 3, H, W) in [0, 1] -> (B, h, w)
        """Codes of images. H and W may differ from the training size.

        Raises ValueError unless they are multiples of f.
        """
        f = 2**self.cfg.n_down
        if images.shape[-1] % f or images.shape[-2] % f:
            raise ValueError(f"image sides must be multiples of {f}, got {tuple(images.shape)}")
        return self.quantizer.encode(self.encoder(self.normalise(images)))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:             # (B, h, w) -> (B, 3, H, W) in [0, 1]
        """Images of codes, clipped to [0, 1]. Codes are int64 in 0..K-1; others are an error."""
        return self.denormalise(self.decoder(self.quantizer.lookup(codes))).clamp(0, 1)
