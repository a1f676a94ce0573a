"""Which device a process computes on, and what it takes not to keep a GPU waiting."""
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def default_device() -> str:
    """A GPU if there is one, else the CPU.

    On a GPU convolutions in float32 are in float32 from then on. By default cuDNN rounds their
    inputs to 10 bits (TF32), and codes and metrics would not be those of a CPU.
    """
    if not torch.cuda.is_available():
        return "cpu"
    torch.backends.cudnn.allow_tf32 = False
    return "cuda"


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """x on the device. From a CPU to a GPU it goes by pinned memory: other copies would wait."""
    if device.type == "cuda" and x.device.type == "cpu":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def ahead(items: Iterator) -> Iterator:
    """The same items for ever; a thread makes the next one while the caller works on this one."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items)
        while True:
            item, coming = coming.result(), thread.submit(next, items)
            yield item
