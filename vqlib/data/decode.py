"""Images of whatever kind -> a folder of RGB squares, and which of them look alike.

Letters: N images, S side of a cached square, C crop side.
"""
import json
import math
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from vqlib.data.sources import DataError, Source

NEAR = 16        # of 256 hash bits: HAM10000 has 1 pair of images with different lesion ids at or under it, 3 at 20


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
            ImageOps.exif_transpose(image := opened, in_place=True)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{image.mode} pixels of more than 8 bits are not supported")
            if "A" in image.getbands() or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            if image.mode != "RGB":                                   # grayscale, palette, CMYK
                image = image.convert("RGB")
            image.load()                                              # before the file is closed
    else:
        image = Image.fromarray(array[place])
    if min(image.size) < geometry.crop and not (geometry.resize and isinstance(place, int)):  # arrays may be enlarged, and say so
        raise ValueError(f"{image.width} x {image.height} px is smaller than the crop of {geometry.crop}")
    if geometry.resize:                                               # of the shorter side; only the square is computed
        whole = [max(geometry.resize, round(s * geometry.resize / min(image.size))) for s in image.size]
        first = [(w - geometry.side) // 2 for w in whole]
        box = [s * (a + end) / w for end in (0, geometry.side) for s, w, a in zip(image.size, whole, first)]
        image = image.resize((geometry.side,) * 2, Image.Resampling.LANCZOS, box)
    pixels = np.asarray(image)                                        # (height, width, 3)
    top, left = [max(0, s - geometry.side) // 2 for s in pixels.shape[:2]]
    pixels = pixels[top : top + geometry.side, left : left + geometry.side]
    missing = [geometry.side - s for s in pixels.shape[:2]]
    if any(missing):                                                  # a margin that the file does not have
        pixels = np.pad(pixels, [(m // 2, m - m // 2) for m in missing] + [(0, 0)], mode="reflect")
    return pixels.transpose(2, 0, 1)


def dhash(images: np.ndarray) -> torch.Tensor:                       # (N, 3, S, S) uint8 -> (N, 256) of +-1
    """Difference hash: is each of 16 x 17 grey cells brighter than its left neighbour?"""
    unit, parts = torch.eye(images.shape[-1])[None, None], []
    down = F.interpolate(unit, (16, images.shape[-1]), mode="bilinear", antialias=True)[0, 0]  # (16, S) rows -> cells
    across = F.interpolate(unit, (images.shape[-1], 17), mode="bilinear", antialias=True)[0, 0]  # (S, 17)
    for i in range(0, len(images), 64):                               # few enough to stay in the cache
        grey = torch.from_numpy(images[i : i + 64].sum(1, dtype=np.uint16).astype(np.float32))  # (64, S, S)
        cells = down @ (grey @ across)                                                          # (64, 16, 17)
        parts.append((cells[:, :, 1:] > cells[:, :, :-1]).flatten(1))
    return torch.cat(parts).float() * 2 - 1


def near_groups(images: np.ndarray, lesions: list[str]) -> list[str]:
    """For each image the least lesion id among all that are joined to its own by near-duplicate images."""
    names, node = np.unique(lesions, return_inverse=True)             # sorted: the least id has the least number
    bits = dhash(images)
    starts = range(0, len(bits), 1024)
    links = [(bits[i : i + 1024] @ bits[i:].T >= 256 - 2 * NEAR).nonzero().numpy() + i for i in starts]  # each pair once
    a, b = node[np.concatenate(links)].T                              # (links,) distance = (256 - dot) / 2 <= NEAR
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(names),) * 2)
    group = connected_components(graph, directed=False)[1]            # (lesions,)
    return names[np.unique(group, return_index=True)[1][group[node]]].tolist()


def index_of(source: Source, images: np.ndarray, reasons: list[str | None]) -> dict:      # (N, 3, S, S) uint8, (N,)
    """What lies beside the images of a cache: rows of good ones, their groups, and why others failed; DataError without any."""
    good = [i for i, reason in enumerate(reasons) if reason is None]
    failed = [(getattr(record.place, "name", record.name), r) for record, r in zip(source.records, reasons) if r is not None]
    if not good:
        raise DataError(f"none of {len(reasons)} images could be used; the first, {failed[0][0]}: {failed[0][1]}")
    rows = [(i, *[getattr(source.records[i], k) for k in ("name", "label", "lesion")]) for i in good]
    kept = images if len(good) == len(images) else images[good]       # a copy in memory only where it must be
    return {"rows": rows, "failed": failed, "groups": near_groups(kept, [r[3] for r in rows])}


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

        def fill_some(start):                                         # 64 at a time: a task each would cost a tenth more
            return [fill(i) for i in range(start, min(start + 64, len(out)))]

        with ThreadPoolExecutor(os.cpu_count()) as pool:              # Pillow releases the GIL while it decodes
            reasons = [reason for some in pool.map(fill_some, range(0, len(out), 64)) for reason in some]
            flushed = pool.submit(out.flush)                          # the disk writes while duplicates are looked for
            index = index_of(source, out, reasons)
            flushed.result()
        (scratch / "index.json").write_text(json.dumps(index))
        os.replace(scratch, folder)
    except OSError:
        if not (folder / "index.json").exists():                      # else another process was first: use its cache
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
