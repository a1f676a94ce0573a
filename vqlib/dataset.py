"""Records -> a uint8 memmap on disk -> lesion-disjoint splits.

Letters: N images, B batch, S side of a cached square, C crop side.
"""
import hashlib
import json
import math
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from vqdata.layouts import HOME, DataError, Source
from vqlib.augment import centre_crop

SPLITS = {"train": 0.8, "validation": 0.9, "test": 1.0}  # upper ends on the hash's unit interval
NEAR = 16        # of 256 hash bits: HAM10000 has 1 pair of images with different lesion ids at or under it, 3 at 20
CACHE_VERSION = 1


@dataclass(frozen=True)
class Geometry:
    """Shorter side to `resize` (antialiased), then the centre; `resize=None` keeps the pixels, as the report did."""

    crop: int = 128            # side of what the models see
    resize: int | None = 128

    @property
    def side(self) -> int:
        """Side of the cached square: raw crops keep a margin, so that a rotation by 10 degrees has real corners."""
        return self.crop if self.resize else 2 * math.ceil(self.crop * 1.17 / 2)


def decode(place, array, geometry: Geometry) -> np.ndarray:
    """One image as (3, S, S) uint8 RGB; raises ValueError or OSError with the reason if it cannot."""
    if isinstance(place, Path):
        with Image.open(place) as opened:
            if geometry.resize:
                opened.draft("RGB", (2 * geometry.resize,) * 2)       # let JPEG shrink large photographs while decoding
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{image.mode} pixels of more than 8 bits are not supported")
            if "A" in image.getbands() or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            image = image.convert("RGB")                              # grayscale, palette, CMYK
    else:
        image = Image.fromarray(array[place])
    if min(image.size) < geometry.crop and not (geometry.resize and isinstance(place, int)):  # arrays may be enlarged, and say so
        raise ValueError(f"{image.width} x {image.height} px is smaller than the crop of {geometry.crop}")
    if geometry.resize:
        scale = geometry.resize / min(image.size)
        image = image.resize([max(geometry.resize, round(s * scale)) for s in image.size], Image.Resampling.LANCZOS)
    pixels = np.asarray(image)                                        # (height, width, 3)
    top, left = [max(0, s - geometry.side) // 2 for s in pixels.shape[:2]]
    pixels = pixels[top : top + geometry.side, left : left + geometry.side]
    missing = [geometry.side - s for s in pixels.shape[:2]]
    if any(missing):                                                  # a margin that the file does not have
        pixels = np.pad(pixels, [(m // 2, m - m // 2) for m in missing] + [(0, 0)], mode="reflect")
    return pixels.transpose(2, 0, 1)


def fingerprint(source: Source, geometry: Geometry) -> str:
    """16 hex digits that change with any name, class, lesion, file size or array of the source, and with the geometry."""
    h = hashlib.sha256(repr((CACHE_VERSION, source.kind, asdict(geometry))).encode())
    for r in source.records:
        size = r.place.stat().st_size if isinstance(r.place, Path) else r.place
        h.update(f"{r.name}\t{r.label}\t{r.lesion}\t{size}\n".encode())
    if source.array is not None:
        h.update(np.ascontiguousarray(source.array))
    return h.hexdigest()[:16]


def build_cache(source: Source, geometry: Geometry, folder: Path) -> None:
    """Decode everything on all cores into folder/images.npy + index.json; the folder appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        shape = (len(source.records), 3, geometry.side, geometry.side)
        out = np.lib.format.open_memmap(scratch / "images.npy", "w+", np.uint8, shape)

        def fill(i):
            try:
                out[i] = decode(source.records[i].place, source.array, geometry)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:  # SyntaxError: a broken PNG
                return f"{type(e).__name__}: {str(e).replace(str(source.records[i].place), '')}".strip()

        with ThreadPoolExecutor(os.cpu_count()) as pool:              # Pillow releases the GIL while it decodes
            reasons = list(pool.map(fill, range(len(out)), chunksize=16))
        out.flush()
        good = [i for i, reason in enumerate(reasons) if reason is None]
        failed = [(getattr(record.place, "name", record.name), r) for record, r in zip(source.records, reasons) if r is not None]
        if not good:
            raise DataError(f"none of {len(reasons)} images could be used; the first, {failed[0][0]}: {failed[0][1]}")
        rows = [(i, *[getattr(source.records[i], k) for k in ("name", "label", "lesion")]) for i in good]
        kept = out if len(good) == len(out) else out[good]            # a copy in memory only where it must be
        index = {"rows": rows, "failed": failed, "groups": near_groups(kept, [r[3] for r in rows])}
        (scratch / "index.json").write_text(json.dumps(index))
        os.replace(scratch, folder)
    except OSError:
        if not (folder / "index.json").exists():                      # else another process was first: use its cache
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def dhash(images: np.ndarray) -> torch.Tensor:                       # (N, 3, S, S) uint8 -> (N, 256) of +-1
    """Difference hash: is each of 16 x 17 grey cells brighter than its left neighbour?"""
    parts = []
    for i in range(0, len(images), 512):
        grey = torch.from_numpy(images[i : i + 512]).float().mean(1, keepdim=True)
        cells = F.interpolate(grey, (16, 17), mode="bilinear", antialias=True)[:, 0]
        parts.append((cells[:, :, 1:] > cells[:, :, :-1]).flatten(1))
    return torch.cat(parts).float() * 2 - 1


def near_groups(images: np.ndarray, lesions: list[str]) -> list[str]:
    """For each image the least lesion id among all that are joined to its own by near-duplicate images."""
    names, node = np.unique(lesions, return_inverse=True)             # sorted: the least id has the least number
    bits = dhash(images)
    starts = range(0, len(bits), 1024)
    links = [(bits[i : i + 1024] @ bits.T >= 256 - 2 * NEAR).nonzero().numpy() + np.array([i, 0]) for i in starts]
    a, b = node[np.concatenate(links)].T                              # (links,) distance = (256 - dot) / 2 <= NEAR
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(names),) * 2)
    group = connected_components(graph, directed=False)[1]            # (lesions,)
    return names[np.unique(group, return_index=True)[1][group[node]]].tolist()


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
        folder = Path(cache or HOME / "data" / "cache") / self.fingerprint
        if not (folder / "index.json").exists():
            build_cache(source, geometry, folder)
        index = json.loads((folder / "index.json").read_text())
        self.skipped = [*source.skipped, *map(tuple, index["failed"])]
        rows = [(*row, group) for row, group in zip(index["rows"], index["groups"])]
        if limit:                                                     # groups in an order that no label decides
            rows = sorted(rows, key=lambda r: hashlib.sha256(f"limit {r[4]}".encode()).digest())[:limit]
            self.fingerprint = hashlib.sha256(f"{self.fingerprint} {limit}".encode()).hexdigest()[:16]
        self.rows, self.names, self.label_names, self.lesions, groups = map(list, zip(*rows))
        self.images = torch.from_numpy(np.load(folder / "images.npy", mmap_mode="c"))       # may be moved to a GPU
        self.classes = sorted(set(self.label_names))
        self.labels = torch.tensor([self.classes.index(c) for c in self.label_names])       # (N,)
        sides = [split_of(g) for g in groups]
        self.splits = {s: np.flatnonzero([side == s for side in sides]) for s in SPLITS} | {"all": np.arange(len(sides))}
        assert_disjoint(self.splits, self.lesions)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i) -> torch.Tensor:                        # indices (B,) -> (B, 3, C, C) in [0, 1]
        """Centre crops, no augmentation."""
        return centre_crop(self.squares(i), self.geometry.crop)

    def squares(self, i) -> torch.Tensor:                            # indices (B,) -> (B, 3, S, S) in [0, 1]
        """Cached squares, with the margin that raw crops have."""
        i = torch.as_tensor(np.asarray(self.rows)[i]).to(self.images.device, non_blocking=True)
        return self.images[i].float().div_(255)


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
