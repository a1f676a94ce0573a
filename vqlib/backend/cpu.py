"""Faster CPU paths: large matrix products as 1 x 1 convolutions, and freed memory kept for reuse.

Letters: N rows, i o their widths before and after.
"""
import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AVX512 = (torch.backends.cpu.get_cpu_capability() == "AVX512"
          and torch.backends.mkldnn.is_available())
MANY = 1024  # rows; fewer are multiplied before a convolution has begun
MIN_SPEEDUP = 1.4  # known processors have about 1 and about 2, so no noise decides
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # names in glibc's mallopt(3)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (..., i), (o, i), (o,) -> (..., o).

    Many rows on a CPU are multiplied as a 1 x 1 convolution where that pays. What is compiled is
    left to the compiler.
    """
    if (x.device.type != "cpu" or x.numel() < MANY * x.shape[-1] or torch.compiler.is_compiling()
            or not convolutions_pay()):
        return F.linear(x, weight, bias)
    return convolve(x, weight, bias)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`linear` as a 1 x 1 convolution."""
    pixels = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)     # (1, i, 1, N) channels last
    y = F.conv2d(pixels, weight[:, :, None, None], bias)              # (1, o, 1, N)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


@cache
def convolutions_pay() -> bool:
    """Whether products with many rows are convolutions in this process.

    PyTorch multiplies by MKL, which leaves half of some AMD processors' width unused, and convolves
    by oneDNN, which does not (tests/bench). So a CPU with AVX-512 is measured, once; others
    multiply. Both ways differ in the last bits: `$VQLIB_PRODUCTS`, linear or convolution, decides
    instead. Raises ValueError for another value.
    """
    choice = os.environ.get("VQLIB_PRODUCTS", "")
    if choice not in ("", "linear", "convolution"):
        raise ValueError(f"VQLIB_PRODUCTS is {choice!r}; it may be linear or convolution")
    if choice or not AVX512:
        return choice == "convolution"
    with ThreadPoolExecutor(1) as apart:                  # no autocast, tracing or counting there
        return apart.submit(gain).result() >= MIN_SPEEDUP


def gain(turns=9) -> float:
    """How many times as fast as a product the same convolution is; some 30 ms.

    Both take turns on one thread, and its CPU time is what counts: on a busy machine their ratio
    in wall-clock time is anything between 0.8 and 6.
    """
    x, weight, ratios = torch.ones(MANY, 128), torch.ones(512, 128), []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(turns + 1):
        times = [time.thread_time()]
        for product in (F.linear, convolve):
            product(x, weight)
            times.append(time.thread_time())
        ratios.append((times[1] - times[0]) / (times[2] - times[1]))
    torch.set_num_threads(threads)
    return median(ratios[1:])                                         # the first prepares


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
