"""Decodes a whole source once, on all cores, into a folder of two files.

images.npy holds (N, 3, S, S) uint8; index.json names each usable image, its class, its lesion and
its group of near-duplicates, and says why other images could not be used.
"""
import hashlib
import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from vqlib.data.decode import Geometry, decode
from vqlib.data.near_duplicates import near_groups
from vqlib.data.sources import DataError, Source

CACHE_VERSION = 1
CHUNK = 64       # images per task: one task per image would cost a tenth more


def fingerprint(source: Source, geometry: Geometry) -> str:
    """16 hex digits that identify a cache.

    They change with any name, class, lesion, file size or array of the source, and the geometry.
    """
    h = hashlib.sha256(repr((CACHE_VERSION, source.kind, asdict(geometry))).encode())
    for r in source.records:
        size = r.place.stat().st_size if isinstance(r.place, Path) else r.place
        h.update(f"{r.name}\t{r.label}\t{r.lesion}\t{size}\n".encode())
    if source.array is not None:
        h.update(np.ascontiguousarray(source.array))
    return h.hexdigest()[:16]


def build_cache(source: Source, geometry: Geometry, folder: Path) -> None:
    """Write the cache of a source; `folder` appears whole or not at all.

    Raises DataError if no image can be used.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=folder.name, dir=folder.parent))
    try:
        write_cache(source, geometry, scratch)
        os.replace(scratch, folder)
    except OSError:
        if not (folder / "index.json").exists():                   # else another process was first
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_cache(source: Source, geometry: Geometry, folder: Path) -> None:
    n = len(source.records)
    shape = (n, 3, geometry.side, geometry.side)
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)

    def decode_chunk(start: int) -> list[str | None]:
        places = range(start, min(start + CHUNK, n))
        return [decode_into(images, i, source, geometry) for i in places]

    with ThreadPoolExecutor(os.cpu_count()) as pool:               # Pillow decodes without the GIL
        chunks = pool.map(decode_chunk, range(0, n, CHUNK))
        failures = [failure for chunk in chunks for failure in chunk]        # (N,)
        flushed = pool.submit(images.flush)                        # while hashes are compared
        index = index_of(source, images, failures)
        flushed.result()
    (folder / "index.json").write_text(json.dumps(index))


def decode_into(images: np.ndarray, i: int, source: Source, geometry: Geometry) -> str | None:
    """Fill images[i] (3, S, S); the reason if the image cannot be used, without its folder."""
    place = source.records[i].place
    try:
        images[i] = decode(place, source.array, geometry)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        # Pillow raises SyntaxError for a broken PNG
        return f"{type(e).__name__}: {str(e).replace(str(place), '')}".strip()
    return None


def index_of(source: Source, images: np.ndarray, failures: list[str | None]) -> dict:
    """What index.json holds, for images (N, 3, S, S) uint8 and a failure or None for each.

    rows: [place in images.npy, name, class, lesion] of usable images; groups: of the same images;
    failed: [file or name, reason] of the others. Raises DataError if no image is usable.
    """
    rows, failed = [], []
    for i, (record, failure) in enumerate(zip(source.records, failures)):
        if failure is None:
            rows.append((i, record.name, record.label, record.lesion))
        else:
            failed.append((getattr(record.place, "name", record.name), failure))
    if not rows:
        name, failure = failed[0]
        raise DataError(f"none of {len(failed)} images could be used; the first, {name}: {failure}")
    if failed:
        images = images[[i for i, *_ in rows]]                     # a copy only where there must be
    groups = near_groups(images, [lesion for *_, lesion in rows])
    return {"rows": rows, "failed": failed, "groups": groups}
