"""What a CPU does faster when it is asked in another way: wide products, and memory that is kept.

Letters: N rows, i o their widths before and after.
"""
import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AVX512 = (torch.backends.cpu.get_cpu_capability() == "AVX512"
          and torch.backends.mkldnn.is_available())
MANY = 1024  # rows; fewer are multiplied before a convolution has begun
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names in glibc's mallopt(3)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (..., i), (o, i), (o,) -> (..., o).

    Many rows on a CPU with AVX-512 are multiplied as a 1 x 1 convolution. PyTorch multiplies by
    MKL, which leaves half of an AMD processor's width unused, and convolves by oneDNN, which does
    not (tests/bench).
    """
    if not AVX512 or x.device.type != "cpu" or x.numel() < MANY * x.shape[-1]:
        return F.linear(x, weight, bias)
    pixels = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)     # (1, i, 1, N) channels last
    y = F.conv2d(pixels, weight[:, :, None, None], bias)              # (1, o, 1, N)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`nn.Linear` by `linear`; weights have the same names and the same start."""

    def forward(self, x: Tensor) -> Tensor:                           # (..., i) -> (..., o)
        return linear(x, self.weight, self.bias)


def keep_pages() -> bool:
    """Have glibc keep up to 2 GB of freed memory for the next update; False without a glibc.

    By default it returns large blocks to the kernel, which clears every page of them anew: an
    update of the report's VQ-VAE then takes a fifth longer. Blocks above 32 MB, glibc's limit, are
    returned all the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return bool(mallopt and mallopt(M_MMAP_THRESHOLD, 2**25)
                and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
