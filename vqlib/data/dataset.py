"""Decoded images with labels, lesions and a split that no lesion crosses.

Letters: N images, B images in a batch, S side of a cached square, C side of the crop.
"""
import hashlib
import json
import mmap
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vqlib.backend.paths import home
from vqlib.data.augment import centre_crop, to_unit
from vqlib.data.cache import build_cache, fingerprint, read_index
from vqlib.data.decode import Geometry
from vqlib.data.records import DataError, Source

SPLITS = {"train": 0.8, "validation": 0.9, "test": 1.0}  # upper ends on the unit interval
CONSTANT = 1e-3  # a quarter of a step of 8 bits: smaller standard deviations are none
OFF = 5         # points of percent that a share may be off before a note says so
LARGEST = 0.02  # of all images that one group may hold without a note
FEW = 6         # images that a group may always hold: HAM10000's largest lesion has as many
HELD_BYTES = 2**22  # read before memory is given back; each read maps up to five times as much


class Dataset:
    """Decoded images of a source, cached on disk, with labels, lesions and splits.

    title, notes, skipped     what to tell a reader; skipped: (name, reason) of unusable images
    fingerprint               16 hex digits that change with the data, the geometry and the limit
    names, label_names, lesions    (N,) lists of strings
    classes, labels           sorted names of the classes, and (N,) indices into them
    splits                    name -> indices of its images: train, validation, test, and all
    images                    (., 3, S, S) uint8, a file mapped into memory, or moved to a GPU
    places                    (N,) where each image lies in `images`
    folder                    the cache; what is computed of the images may be kept there, too
    """

    def __init__(self, source: Source, geometry: Geometry, limit=None, cache: Path | None = None):
        """Open a source; decode it first if `cache` (default: data/cache) does not hold it yet.

        limit: take so many images only, the same ones each time. Raises DataError if no image is
        usable, or if a lesion stands in two splits.
        """
        self.title, self.geometry, self.notes = source.title, geometry, list(source.notes)
        if source.array is not None and source.array.shape[1] < geometry.crop:
            size = source.array.shape[1]
            self.notes.append(f"images of {size} px are enlarged to {geometry.crop}")
        self.fingerprint = fingerprint(source, geometry)
        folder = Path(cache or home() / "data" / "cache") / self.fingerprint
        self.folder = folder
        if (index := read_index(folder, source, geometry)) is None:
            build_cache(source, geometry, folder)
            index = json.loads((folder / "index.json").read_text())
        if index["content"]:
            self.fingerprint = _digest(self.fingerprint + index["content"]).hex()[:16]
        self.skipped = source.skipped + [tuple(failed) for failed in index["failed"]]
        rows = [(*row, group) for row, group in zip(index["rows"], index["groups"])]
        if limit:
            rows = first_by_hash(rows, limit)
            self.fingerprint = _digest(f"{self.fingerprint} {limit}").hex()[:16]
        places, self.names, self.label_names, self.lesions, groups = map(list, zip(*rows))
        self.classes = sorted(set(self.label_names))
        self.labels = torch.tensor([self.classes.index(name) for name in self.label_names])  # (N,)

        mapped = np.load(folder / "images.npy", mmap_mode="c")
        self.images = torch.from_numpy(mapped)
        self.places = np.array(places)
        self._file, self._bytes_read = mapped.base, 0

        sides = np.array([split_of(group) for group in groups])    # (N,)
        self.splits = {name: np.flatnonzero(sides == name) for name in SPLITS}
        self.splits["all"] = np.arange(len(sides))
        assert_disjoint(self.splits, self.lesions)
        self.notes += split_notes(self.splits, groups)
        if len(self.classes) == len(self) > 1:
            self.notes.append(f"each of the {len(self)} images has a class of its own, such as "
                              f"{self.classes[0]}: are these names?")

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, indices) -> Tensor:                      # (B,) -> (B, 3, C, C) in [0, 1]
        """Centre crops, without augmentation."""
        return to_unit(centre_crop(self.squares(indices), self.geometry.crop))

    def squares(self, indices) -> Tensor:                          # (B,) -> (B, 3, S, S) uint8
        """Cached squares, with the margin that raw crops have."""
        places = torch.as_tensor(self.places[indices]).to(self.images.device, non_blocking=True)
        squares = self.images.index_select(0, places)
        self._bytes_read += squares.nbytes
        if self._bytes_read > HELD_BYTES:                          # else a pass would map all of it
            self._file.madvise(mmap.MADV_DONTNEED)
            self._bytes_read = 0
        return squares


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def first_by_hash(rows: list[tuple], limit: int) -> list[tuple]:
    """The first rows when groups, their last entry, are put in an order that no label decides."""
    return sorted(rows, key=lambda row: _digest(f"limit {row[-1]}"))[:limit]


def split_of(lesion: str) -> str:
    """80 / 10 / 10 by hash: a lesion keeps its side when images are added or missing."""
    u = int.from_bytes(_digest(lesion)[:8], "big") / 2**64         # uniform in [0, 1)
    return next(name for name, end in SPLITS.items() if u < end)


def assert_disjoint(splits: dict, lesions: list[str]) -> None:
    """No lesion may stand in two splits; raises DataError that names one that does."""
    seen = {}                                                      # lesion -> its split
    for name in SPLITS:
        for lesion in {lesions[i] for i in splits[name]}:
            if seen.setdefault(lesion, name) != name:
                raise DataError(
                    f"lesion {lesion} is in {seen[lesion]} and in {name}: the split leaks"
                )


def split_notes(splits: dict, groups: list[str]) -> list[str]:
    """What is odd about a split: shares that are off, or a group that weighs too much in one."""
    n, notes = len(groups), []
    shares = [100 * len(splits[name]) / n for name in SPLITS]
    if max(abs(share - wanted) for share, wanted in zip(shares, (80, 10, 10))) > OFF:
        notes.append("the split is " + " / ".join(f"{share:.0f}" for share in shares)
                     + " % of the images, not 80 / 10 / 10: few lesions, or large groups")
    group, size = Counter(groups).most_common(1)[0]
    if size > max(FEW, LARGEST * n):
        notes.append(f"the largest group, {group} and what is near to it, holds {size} of {n} "
                     f"images ({size / n:.0%}): one lesion, or pictures that look alike")
    return notes


def require_splits(dataset: "Dataset", *names: str) -> None:
    """Raises DataError, before anything is trained, if a split has no image."""
    for name in names:
        if not len(dataset.splits[name]):
            raise DataError(f"{dataset.title}: no image falls into the {name} split; "
                            f"{len(dataset)} images are too few, or too much alike")


def statistics(dataset: Dataset, split: str = "train") -> dict:
    """Mean and std of each channel and the variance of all values, of centre crops in [0, 1].

    variance = mean(std^2) + var(mean). A channel that never changes gets the std CONSTANT, so that
    it can be divided by. Raises DataError if the split is empty, or of one colour.
    """
    require_splits(dataset, split)
    rows = dataset.splits[split]
    n, sums, sums_of_squares = 0, np.zeros(3), np.zeros(3)
    for chunk in in_chunks(rows, 256):
        x = dataset[chunk].cpu().double().numpy()                  # a float32 sum would drift
        n += x[:, 0].size
        sums += x.sum((0, 2, 3))
        sums_of_squares += (x**2).sum((0, 2, 3))
    mean, mean_square = sums / n, sums_of_squares / n              # (3,)
    variances = mean_square - mean**2
    if variances.max() < CONSTANT**2:
        raise DataError(f"{dataset.title}: all pixels of the {split} split have the same colour")
    return {
        "mean": mean.tolist(),
        "std": np.sqrt(np.maximum(variances, CONSTANT**2)).tolist(),
        "variance": mean_square.mean() - mean.mean() ** 2,
    }


def in_chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:      # (n,)
    """The rows in parts of at most `size`, in their order; no rows make one empty part.

    Whole splits do not fit into memory as floats: all of HAM10000 at 128 px takes 1.8 GB.
    """
    return np.array_split(rows, max(1, -(-len(rows) // size)))
