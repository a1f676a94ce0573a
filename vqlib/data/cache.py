"""Decodes a whole source once, on all cores, into a folder of two files.

images.npy holds (N, 3, S, S) uint8; index.json names each usable image, its class, its lesion and
its group of near-duplicates, says why other images could not be used, and how the files looked:
a file that was changed since is decoded again, and so is everything if a bit of images.npy flipped.
An image that an error of the machine left out is tried again at each opening.
"""
import hashlib
import json
import math
import os
import shutil
import tempfile
import zlib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vqlib.backend.files import try_lock
from vqlib.data.decode import Geometry, decode
from vqlib.data.folders import COPY, JPEG, image_key
from vqlib.data.near_duplicates import near_groups
from vqlib.data.records import DataError, Record, Source, printable

CACHE_VERSION = 1  # part of every fingerprint: runs are found by it
INDEX_VERSION = 3  # of index.json and of how groups are made: older caches are built again
SCRATCH = ".build-"  # in the name of a folder in which a cache is built
LOCK = "lock"        # in that folder: the file that its builder has locked
ROOM = "make room, or name another place with $VQLIB_HOME"
CHUNK = 64       # images per task: one task per image would cost a tenth more


def fingerprint(source: Source, geometry: Geometry) -> str:
    """16 hex digits that identify a cache.

    They change with any name, class, lesion, file size or array of the source, and the geometry.
    Files of the same size may differ: see `content`.
    """
    h = hashlib.sha256(repr((CACHE_VERSION, source.kind, asdict(geometry))).encode())
    for r in source.records:
        size = file_state(r.place)[0] if isinstance(r.place, Path) else r.place
        h.update(f"{r.name}\t{r.label}\t{r.lesion}\t{size}\n".encode())
    if source.array is not None:
        h.update(np.ascontiguousarray(source.array))
    return h.hexdigest()[:16]


def file_state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns; (-1, 0) of a file that is gone."""
    try:
        state = path.stat()
        return state.st_size, state.st_mtime_ns
    except OSError:
        return -1, 0


def states(source: Source) -> list[int]:
    """When each file was changed last; [] of a source without files."""
    return [file_state(r.place)[1] for r in source.records if isinstance(r.place, Path)]


def read_index(folder: Path, source: Source, geometry: Geometry) -> dict | None:
    """The index of a cache; None if there is none, or if it is to be built again.

    That is so if it is damaged or older than its files, and if an image that an error of the
    machine left out can be decoded now.
    """
    try:
        index = json.loads((folder / "index.json").read_text())
        whole = index["version"] == INDEX_VERSION and index["changed"] == states(source)
        size = (folder / "images.npy").stat().st_size
        if not whole or size != index["bytes"]:
            return None
        images = np.load(folder / "images.npy", mmap_mode="r")
        in_it = all(0 <= place < len(images) for place, _, _, _ in index["rows"])
        fit = len(index["rows"]) == len(index["groups"]) > 0 and images.dtype == np.uint8
        told = fit and in_it and {"failed", "content"} <= index.keys()
        passed = any(has_passed(source.records[i].place, source, geometry)
                     for i in index.get("retry", []))              # not in older caches
        return index if told and not passed and index["checksums"] == checksums(images) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def has_passed(place: Path | int, source: Source, geometry: Geometry) -> bool:
    """Whether no error of the machine hinders an image from being decoded now."""
    try:
        decode(place, source.array, geometry)
    except Exception as e:
        return not is_of_machine(e)
    return True


def is_of_machine(e: Exception) -> bool:
    """Whether the system failed (too many open files, no memory), and not the image.

    Pillow's own errors are OSErrors without a number.
    """
    return isinstance(e, MemoryError) or (isinstance(e, OSError) and e.errno is not None)


def checksums(images: np.ndarray) -> list[int]:                     # (N, 3, S, S)
    """CRC-32 of every `CHUNK` images. It takes about a second per GB."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda start: zlib.crc32(images[start : start + CHUNK]),
                             range(0, len(images), CHUNK)))


def build_cache(source: Source, geometry: Geometry, folder: Path) -> None:
    """Write the cache of a source; `folder` appears whole or not at all.

    Raises DataError if no image can be used, OSError that says what to do if there is no room.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep_scratch(folder.parent)
        scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}{SCRATCH}", dir=folder.parent))
        lock = (scratch / LOCK).open("xb")
    except OSError as e:
        raise no_room(e) from e
    try_lock(lock)                                                 # until it is closed
    try:
        write_cache(source, geometry, scratch / "new")
        if read_index(folder, source, geometry) is None:           # else another process was first
            if folder.exists():
                os.replace(folder, scratch / "old")
            os.replace(scratch / "new", folder)
    except OSError as e:
        if read_index(folder, source, geometry) is None:
            raise no_room(e) from e
    finally:
        lock.close()                                               # NFS keeps open files
        shutil.rmtree(scratch, ignore_errors=True)


def no_room(e: OSError) -> OSError:
    """The same error with what to do about it."""
    text = f"{e.strerror}: pictures are decoded into data/cache, {ROOM}"
    return OSError(e.errno, text, e.filename)


def sweep_scratch(folder: Path) -> None:
    """Remove what killed processes left of the caches that they built."""
    for scratch in folder.glob(f"*{SCRATCH}*"):
        with suppress(OSError):                                    # another sweeps it, too
            with (scratch / LOCK).open("r+b") as lock:
                dead = try_lock(lock, unknown=False)
            if dead:                                               # closed: NFS keeps open files
                shutil.rmtree(scratch, ignore_errors=True)


def write_cache(source: Source, geometry: Geometry, folder: Path) -> None:
    n, changed = len(source.records), states(source)
    shape = (n, 3, geometry.side, geometry.side)
    folder.mkdir()
    free = shutil.disk_usage(folder).free                          # a full disk would end Python
    if free < math.prod(shape):
        raise DataError(f"decoding {n} images takes {math.prod(shape) / 1e9:.3g} GB in "
                        f"{folder.parent.parent.name}/, {free / 1e9:.3g} GB are free: {ROOM}")
    images = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, shape)
    reserve(folder / "images.npy")

    def decode_chunk(start: int) -> list[Outcome]:
        places = range(start, min(start + CHUNK, n))
        return [decode_into(images, i, source, geometry) for i in places]

    with ThreadPoolExecutor(os.cpu_count()) as pool:               # Pillow decodes without the GIL
        chunks = pool.map(decode_chunk, range(0, n, CHUNK))
        outcomes = [outcome for chunk in chunks for outcome in chunk]        # (N,)
        flushed = pool.submit(images.flush)                        # while hashes are compared
        index = index_of(source, images, outcomes)
        flushed.result()
    size = (folder / "images.npy").stat().st_size
    index |= {"version": INDEX_VERSION, "changed": changed, "bytes": size,
              "checksums": checksums(images),
              "retry": [i for i, outcome in enumerate(outcomes) if outcome.may_pass]}
    (folder / "index.json").write_text(json.dumps(index))


def reserve(path: Path) -> None:
    """Take a file's room on the disk now: a write into the map of a full disk would end Python."""
    if hasattr(os, "posix_fallocate"):                             # not on macOS
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


@dataclass(frozen=True)
class Outcome:
    """What came of one image."""

    failure: str | None = None    # why it cannot be used, without its folder
    may_pass: bool = False        # whether that is an error of the machine
    digest: str | None = None     # of the file's bytes, where they are looked at


def decode_into(images: np.ndarray, i: int, source: Source, geometry: Geometry) -> Outcome:
    """Fill images[i] (3, S, S)."""
    record = source.records[i]
    place = record.place
    try:
        images[i] = decode(place, source.array, geometry)
        return Outcome(digest=digest_of(place) if must_be_digested(record) else None)
    except Exception as e:       # whatever one file does to Pillow (EXIF and all), others are used
        reason = str(e).replace(repr(str(place)), "").replace(str(place), "")
        reason = printable(f"{type(e).__name__}: {reason}").strip().replace("\n", " ")
        return Outcome(reason, is_of_machine(e))


def index_of(source: Source, images: np.ndarray, outcomes: list[Outcome]) -> dict:
    """What index.json holds, for images (N, 3, S, S) uint8 and what came of each.

    rows: [place in images.npy, name, class, lesion] of usable images; groups: of the same images;
    failed: [file or name, reason] of the others. Raises DataError if no image is usable.
    """
    rows, failed = [], []
    digests = {i: outcome.digest for i, outcome in enumerate(outcomes) if outcome.digest}
    copies, lesions = find_copies(source.records, digests)
    for i, record in enumerate(source.records):
        if failure := outcomes[i].failure or copies.get(i):
            name = record.name if "/" in record.name else getattr(record.place, "name", record.name)
            failed.append((printable(name), failure))
        else:
            rows.append((i, record.name, record.label, lesions.get(i, record.lesion)))
    if not rows:
        name, failure = failed[0]
        raise DataError(f"none of {len(failed)} images could be used; the first, {name}: {failure}")
    if failed:
        images = images[[i for i, *_ in rows]]                     # a copy only where there must be
    groups = near_groups(images, [lesion for *_, lesion in rows])
    return {"rows": rows, "failed": failed, "groups": groups,
            "content": content(source.records, digests)}


def must_be_digested(record: Record) -> bool:
    """Whether a file without a lesion id may be a copy, or may change and keep its size."""
    return isinstance(record.place, Path) and (
        record.lesion == record.name or record.place.suffix.lower() not in JPEG)


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def find_copies(records: list[Record], digests: dict[int, str]):
    """-> ({row: why it is left out}, {row: lesion}), for images without lesion ids.

    The same bytes under the same file name are one picture: one is used, none if they have
    different classes. Under other names they are used, as images of one lesion.
    """
    same, copies, lesions = defaultdict(lambda: defaultdict(list)), {}, {}
    for i, digest in digests.items():
        if records[i].lesion == records[i].name:
            same[digest][image_key(records[i].name)].append(i)
    for of_name in same.values():
        first = records[min(min(rows) for rows in of_name.values())].lesion
        for rows in of_name.values():
            lesions[rows[0]] = first
            labels = sorted({records[i].label for i in rows})
            if len(labels) > 1:
                copies |= dict.fromkeys(rows, f"one picture, labelled {' and '.join(labels)}")
            copies |= dict.fromkeys(rows[1:], COPY) if len(labels) == 1 else {}
    return copies, lesions


def content(records: list[Record], digests: dict[int, str]) -> str:
    """A digest of all files whose size does not tell when their pixels change; "" without any.

    JPEG is left out: its size tells, and fingerprints of published runs are of JPEG sets.
    """
    kept = [digest for i, digest in digests.items()
            if records[i].place.suffix.lower() not in JPEG]
    return hashlib.sha256("".join(kept).encode()).hexdigest() if kept else ""
