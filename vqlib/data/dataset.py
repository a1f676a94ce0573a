"""Records -> a uint8 memmap on disk -> lesion-disjoint splits.

Letters: N images, B batch, S side of a cached square, C crop side.
"""
import hashlib
import json
import mmap
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from vqlib.backend.paths import home
from vqlib.data.augment import centre_crop, to_unit
from vqlib.data.decode import Geometry, build_cache
from vqlib.data.sources import DataError, Source

SPLITS = {"train": 0.8, "validation": 0.9, "test": 1.0}  # upper ends on the hash's unit interval
CACHE_VERSION = 1
READ = 2**22  # bytes between givings back: each image read maps its neighbours, too, up to five times as much


def fingerprint(source: Source, geometry: Geometry) -> str:
    """16 hex digits that change with any name, class, lesion, file size or array of the source, and with the geometry."""
    h = hashlib.sha256(repr((CACHE_VERSION, source.kind, asdict(geometry))).encode())
    for r in source.records:
        size = r.place.stat().st_size if isinstance(r.place, Path) else r.place
        h.update(f"{r.name}\t{r.label}\t{r.lesion}\t{size}\n".encode())
    if source.array is not None:
        h.update(np.ascontiguousarray(source.array))
    return h.hexdigest()[:16]


def split_of(lesion: str) -> str:
    """80 / 10 / 10 by hash: a lesion keeps its side when images are added or missing."""
    u = int.from_bytes(hashlib.sha256(lesion.encode()).digest()[:8], "big") / 2**64
    return next(name for name, end in SPLITS.items() if u < end)


class Dataset:
    """Decoded images with labels, lesions and splits. `images` (N, 3, S, S) is a memmap: read rows, not all of it."""

    def __init__(self, source: Source, geometry: Geometry, limit=None, cache=None):
        self.title, self.notes, self.geometry = source.title, list(source.notes), geometry
        if source.array is not None and source.array.shape[1] < geometry.crop:
            self.notes.append(f"images of {source.array.shape[1]} px are enlarged to {geometry.crop}")
        self.fingerprint = fingerprint(source, geometry)
        folder = Path(cache or home() / "data" / "cache") / self.fingerprint
        if not (folder / "index.json").exists():
            build_cache(source, geometry, folder)
        index = json.loads((folder / "index.json").read_text())
        self.skipped = [*source.skipped, *map(tuple, index["failed"])]
        rows = [(*row, group) for row, group in zip(index["rows"], index["groups"])]
        if limit:                                                     # groups in an order that no label decides
            rows = sorted(rows, key=lambda r: hashlib.sha256(f"limit {r[4]}".encode()).digest())[:limit]
            self.fingerprint = hashlib.sha256(f"{self.fingerprint} {limit}".encode()).hexdigest()[:16]
        rows, self.names, self.label_names, self.lesions, groups = map(list, zip(*rows))
        self.rows = np.array(rows)                                    # (N,) places in `images`
        mapped = np.load(folder / "images.npy", mmap_mode="c")
        self.file, self.read, self.images = mapped.base, 0, torch.from_numpy(mapped)         # images may be moved to a GPU
        self.classes = sorted(set(self.label_names))
        self.labels = torch.tensor([self.classes.index(c) for c in self.label_names])       # (N,)
        sides = [split_of(g) for g in groups]
        self.splits = {s: np.flatnonzero([side == s for side in sides]) for s in SPLITS} | {"all": np.arange(len(sides))}
        assert_disjoint(self.splits, self.lesions)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i) -> torch.Tensor:                        # indices (B,) -> (B, 3, C, C) in [0, 1]
        """Centre crops, no augmentation."""
        return to_unit(centre_crop(self.squares(i), self.geometry.crop))

    def squares(self, i) -> torch.Tensor:                            # indices (B,) -> (B, 3, S, S) bytes
        """Cached squares, with the margin that raw crops have."""
        x = self.images.index_select(0, torch.as_tensor(self.rows[i]).to(self.images.device, non_blocking=True))
        self.read += x.nbytes
        if self.read > READ:                                          # else an epoch later the whole file counts as ours
            self.file.madvise(mmap.MADV_DONTNEED)
            self.read = 0
        return x


def assert_disjoint(splits: dict, lesions: list[str]) -> None:
    """No lesion may stand in two splits; raises DataError that names one that does."""
    seen = {}
    for name in SPLITS:
        for lesion in {lesions[i] for i in splits[name]}:
            if seen.setdefault(lesion, name) != name:
                raise DataError(f"lesion {lesion} is in {seen[lesion]} and in {name}: the split leaks")


def statistics(dataset: Dataset, split="train") -> dict:
    """Mean and std per channel of centre crops in [0, 1], and the variance of all values: mean(std^2) + var(mean)."""
    if not len(dataset.splits[split]):
        raise DataError(f"{dataset.title}: no image falls into the {split} split; {len(dataset)} are too few")
    n, total, squares = 0, np.zeros(3), np.zeros(3)
    for chunk in np.array_split(dataset.splits[split], max(1, len(dataset.splits[split]) // 256)):
        x = dataset[chunk].double().numpy()                           # float64: a float32 sum of 10^8 pixels drifts
        n, total, squares = n + x[:, 0].size, total + x.sum((0, 2, 3)), squares + (x**2).sum((0, 2, 3))
    mean, second = total / n, squares / n
    return {"mean": mean.tolist(), "std": np.sqrt(second - mean**2).tolist(), "variance": second.mean() - mean.mean() ** 2}


def in_chunks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """The rows in parts of at most `size`: whole splits do not fit into memory as floats."""
    return np.array_split(rows, max(1, -(-len(rows) // size)))
