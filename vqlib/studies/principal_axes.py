"""Where the bits of a code go: along which axes encoder outputs vary, what quantization leaves of that, what neighbours know.

Letters: n images, h w grid cells, D code width, A axes.
"""
from typing import NamedTuple

import torch
from torch import Tensor


class Axes(NamedTuple):
    """Along the principal axes of what the encoder says, the widest first; all (A,)."""

    variance: Tensor    # of encoder outputs
    error: Tensor       # mean squared difference to their codes
    known: Tensor       # share of the variance that the mean of the four cells beside tells, in [0, 1]

    @property
    def bits(self) -> Tensor:
        """Of a cell: half the logarithm of variance over error, the rate of a Gaussian (Cover & Thomas 2006, theorem 10.3.2).

        They add up only as far as axes do not depend on each other.
        """
        return 0.5 * (self.variance / self.error).log2().clamp_min(0)


@torch.no_grad()
def measure(vqvae, images: Tensor, n_axes: int = 6) -> Axes:         # (n, 3, H, W) in [0, 1]
    """Cells at the edge are left out of `known`: they have no four neighbours."""
    z = torch.cat([vqvae.encoder(vqvae.normalise(part)) for part in images.split(64)])                  # (n, D, h, w)
    e = vqvae.quantizer.eval()(z).e
    mean = z.mean((0, 2, 3), keepdim=True)
    axes = torch.linalg.eigh(torch.einsum("ndhw,nchw->dc", z - mean, z - mean)).eigenvectors.flip(1)[:, :n_axes]  # (D, A)
    y, error = (torch.einsum("ndhw,da->anhw", x, axes) for x in (z - mean, z - e))
    middle = y[..., 1:-1, 1:-1].flatten(1)                           # (A, n(h-2)(w-2))
    beside = (y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + y[..., 1:-1, :-2] + y[..., 1:-1, 2:]).flatten(1)
    known = [torch.corrcoef(torch.stack(pair))[0, 1].square() for pair in zip(middle, beside)]
    return Axes(y.square().mean((1, 2, 3)), error.square().mean((1, 2, 3)), torch.stack(known))


def draw(ax, axes: Axes):
    """Variance and error of each axis, and above it what neighbours tell."""
    at, (variances, errors, shares) = range(1, len(axes.variance) + 1), (x.tolist() for x in axes)
    ax.bar(at, variances, color="0.75", label="variance of encoder outputs")
    ax.bar(at, errors, width=0.5, color="tab:red", label="error of their codes")
    for x, variance, known in zip(at, variances, shares):
        ax.annotate(f"{known:.0%}", (x, variance), ha="center", va="bottom", fontsize=8)
    ax.set(yscale="log", xlabel="axis (above: share that the four neighbours tell)")
    ax.legend()
    return ax
