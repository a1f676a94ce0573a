"""Products of rows with a matrix of weights. Letters: N rows, i o their widths before and after."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
MANY = 1024  # rows; fewer are multiplied before a convolution has begun


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # (..., i), (o, i), (o,) -> (..., o)
    """F.linear, of many rows on a CPU with AVX-512 as a 1 x 1 convolution: MKL, which multiplies for PyTorch, leaves half of an
    AMD processor's width unused; oneDNN, which convolves, does not (README, "Speed")."""
    if not AVX512 or x.device.type != "cpu" or x.numel() < MANY * x.shape[-1]:
        return F.linear(x, weight, bias)
    pixels = x.reshape(1, 1, -1, x.shape[-1]).permute(0, 3, 1, 2)     # (1, i, 1, N) channels-last
    return F.conv2d(pixels, weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(*x.shape[:-1], -1)


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:                           # (..., i) -> (..., o)
        return linear(x, self.weight, self.bias)
