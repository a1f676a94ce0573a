"""Where the bits of a code go: the principal axes of a VQ-VAE's encoder outputs.

Letters: n images, h w grid cells, D code width, A axes.
"""
from typing import NamedTuple

import torch
from torch import Tensor


class PrincipalAxes(NamedTuple):
    """Measured along the principal axes of encoder outputs, the widest first; all (A,)."""

    variance: Tensor    # of encoder outputs
    error: Tensor       # mean squared difference between encoder outputs and their codes
    explained: Tensor   # share of the variance that the mean of the four cells beside explains

    @property
    def bits(self) -> Tensor:
        """Of a cell: the rate of a Gaussian with this variance and this error.

        Half the logarithm of their ratio (Cover & Thomas 2006, theorem 10.3.2). Bits of several
        axes add up only if the axes are independent.
        """
        return 0.5 * (self.variance / self.error).log2().clamp_min(0)


@torch.no_grad()
def measure(vqvae, images: Tensor, n_axes: int = 6) -> PrincipalAxes:           # (n, 3, H, W)
    """Images are in [0, 1]. `explained` leaves out cells at the edge: they lack a neighbour."""
    z = torch.cat([vqvae.encoder(vqvae.normalise(some)) for some in images.split(64)])
    e = vqvae.quantizer.eval()(z).e                              # (n, D, h, w), as z
    mean = z.mean((0, 2, 3), keepdim=True)
    scatter = torch.einsum("ndhw,nchw->dc", z - mean, z - mean)  # (D, D)
    axes = torch.linalg.eigh(scatter).eigenvectors.flip(1)[:, :n_axes]          # (D, A)
    y = torch.einsum("ndhw,da->anhw", z - mean, axes)
    error = torch.einsum("ndhw,da->anhw", z - e, axes)
    middle = y[..., 1:-1, 1:-1].flatten(1)                       # (A, n(h-2)(w-2))
    beside = (y[..., :-2, 1:-1] + y[..., 2:, 1:-1]
              + y[..., 1:-1, :-2] + y[..., 1:-1, 2:]).flatten(1)
    explained = [torch.corrcoef(torch.stack(pair))[0, 1].square() for pair in zip(middle, beside)]
    return PrincipalAxes(y.square().mean((1, 2, 3)), error.square().mean((1, 2, 3)),
                         torch.stack(explained))


def draw(ax, axes: PrincipalAxes):
    """Variance and error of each axis; above the bars, the share that neighbours explain."""
    variances, errors, shares = (values.tolist() for values in axes)
    numbers = range(1, len(variances) + 1)
    ax.bar(numbers, variances, color="0.75", label="variance of encoder outputs")
    ax.bar(numbers, errors, width=0.5, color="tab:red", label="error of their codes")
    for x, variance, share in zip(numbers, variances, shares):
        ax.annotate(f"{share:.0%}", (x, variance), ha="center", va="bottom", fontsize=8)
    ax.set(yscale="log", xlabel="principal axis (above: share that four neighbours explain)")
    ax.legend()
    return ax
