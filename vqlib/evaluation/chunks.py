"""Passes over more images than fit into memory at once, and results that are kept.

Letters: N images of a data set, n images, codes or labels in memory, d numbers per image.
"""
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqlib.backend.files import write_atomically
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


def once_per_image(
    function: Callable, dataset, rows: np.ndarray, name: str, size=512, progress=None
) -> Tensor:
    """float32 results (n, d) of `function(images)` for rows (n,), each image computed only once.

    function: images (b, 3, H, W) -> (b, d), for each image by itself. name: of the file beside the
    decoded images that keeps the results; another function needs another name. A file that is no
    such array is computed again. progress(done, n) is called after each chunk of new images.
    """
    path = dataset.folder / f"{name}.npz"
    kept, places = read_kept(path, len(dataset.images)), dataset.places[rows]
    if kept is None:
        missing = np.arange(len(rows))
    else:
        missing = np.flatnonzero(np.isnan(kept[places, 0]))
    done = 0
    for chunk in in_chunks(missing, size) if len(missing) or kept is None else []:
        found = np.asarray(function(dataset[rows[chunk]]), np.float32)
        if kept is None:
            kept = np.full((len(dataset.images), found.shape[1]), np.nan, np.float32)
        kept[places[chunk]] = found
        done += len(chunk)
        if len(chunk):
            keep(path, kept)
        if len(chunk) and progress:
            progress(done, len(missing))
    return torch.from_numpy(kept[places])


def read_kept(path: Path, n: int) -> np.ndarray | None:
    """The array (n, d) in a file, None if there is no such array or a bit of it flipped."""
    try:
        with np.load(path) as file:
            kept = file["kept"]                                      # checked by its CRC-32
    except Exception:                                              # zip raises what it likes
        return None
    fits = kept.ndim == 2 and len(kept) == n and kept.shape[1] and kept.dtype == np.float32
    return kept if fits else None


def keep(path: Path, array: np.ndarray) -> None:
    """Write an array; where the folder cannot be written it is computed again the next time."""
    buffer = io.BytesIO()
    np.savez(buffer, kept=array)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        print(f"{path.name} cannot be kept ({error.strerror}): the next evaluation computes it "
              "again")
