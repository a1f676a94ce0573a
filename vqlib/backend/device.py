"""Which device a process computes on."""
import torch


def default_device() -> str:
    """A GPU if there is one, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
