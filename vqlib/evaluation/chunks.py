"""Passes over more images than fit into memory at once.

Letters: N images of a data set, n images, codes or labels in memory.
"""
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from vqlib.data.dataset import in_chunks


def over_rows(function: Callable, dataset, rows: np.ndarray, size: int = 512) -> list:   # (N,)
    """Results of `function(images)` for chunks of at most `size` rows of a data set, in order.

    512 images of 128 px take 100 MB; HAM10000's training images would take 1.4 GB. No rows make
    one empty chunk.
    """
    return [function(dataset[chunk]) for chunk in in_chunks(rows, size)]


def in_batches(function: Callable, x: Tensor, size: int = 64) -> Tensor:                 # (n, ...)
    """Results of `function` for batches of at most `size` rows of x, joined on the CPU."""
    return torch.cat([function(batch).cpu() for batch in x.split(size)])
