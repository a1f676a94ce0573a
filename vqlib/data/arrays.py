"""MedMNIST archives and people's own .npz files, each fault with a message of its own.

Letters: n images of a part, N of all, H, W height and width.
"""
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from vqlib.data import catalogue
from vqlib.data.classes import MISSING, name_classes
from vqlib.data.records import DataError, Record, Source, printable

PARTS = ("train_", "val_", "test_", "", "valid_", "validation_")    # MedMNIST has the first three
ROUNDING = 1e-3   # of floats: less than half a step of 8 bits, so bytes stay bytes
LARGEST = 2.0**31   # of classes that are numbered by floats
BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError,
          NotImplementedError, RuntimeError)      # what numpy and zipfile say of a damaged archive


def has_images(path: Path) -> bool:
    """Whether an archive holds images; it may be one of features, or of weights."""
    try:
        with np.load(path) as archive:
            return any(f"{part}images" in archive.files for part in PARTS)
    except BROKEN:
        return False


def read_medmnist(path: Path) -> Source:
    """`images` and `labels`, or those of train, val and test, which are pooled; grey becomes RGB.

    Names and licence come from the digest of a published file, or from arrays `class_names` and
    `licence`. Raises DataError that says what is wrong with which array.
    """
    arrays, unused = load(path)
    names, images, labels = [], [], []
    for part in PARTS:
        if f"{part}images" in arrays or f"{part}labels" in arrays:
            pixels, classes = part_of(arrays, part, path.name)
            names += [f"{part or 'image_'}{i:05d}" for i in range(len(pixels))]
            images.append(pixels)
            labels += classes.tolist()
    sizes = sorted({pixels.shape[1:] for pixels in images})
    if len(sizes) > 1:
        raise DataError(f"{path.name}: parts of different sizes, {sizes[0]} and {sizes[1]} px")
    if not names:
        raise DataError(f"{path.name} holds no image: its arrays have no rows")
    entry = catalogue.published_file(path, len(names))
    notes = ["no lesion ids: our split replaces the official one, by image and near-duplicate"]
    own = as_text(arrays.get("class_names", np.array(())))
    class_names = entry.classes if entry else [str(name) for name in own.ravel()]
    licence = entry.licence if entry else str(as_text(arrays.get("licence", np.array(""))))
    written = [named(label, class_names, path.name) for label in labels]
    spelt, joined = name_classes(text for text in written if text)
    records = [Record(name, spelt[text], name, i)
               for i, (name, text) in enumerate(zip(names, written)) if text]
    skipped = [(name, "without a diagnosis") for name, text in zip(names, written) if not text]
    if not records:
        raise DataError(f"{path.name}: no image has a label")
    if not len(class_names) and not isinstance(labels[0], str):
        notes.append("its digest is no published one and it has no class_names: classes are "
                     "numbered")
    notes += [f"arrays that are not used: {', '.join(unused[:9])}"] if unused else []
    title = f"{printable(path.stem)} ({licence})" if licence else printable(path.stem)
    return Source("medmnist", title, records, skipped, notes + joined, np.concatenate(images))


def load(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Images, labels and what names them in an archive, and the names of its other arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if size > memory / 2:
            raise DataError(f"{path.name} unpacks to {size / 1e9:.1f} GB, more than half of this "
                            f"machine's memory of {memory / 1e9:.1f} GB")
        with np.load(path) as archive:
            wanted = {f"{part}{what}" for part in PARTS for what in ("images", "labels")}
            found = wanted & {*archive.files}
            if not found:
                raise DataError(f"{path.name} holds the arrays {sorted(archive.files)[:9]}; needed "
                                "are images and labels, or train_images, train_labels and so on")
            wanted |= {"class_names", "licence"}
            arrays = {name: archive[name] for name in archive.files if name in wanted}
            return arrays, [printable(name) for name in archive.files if name not in wanted]
    except DataError:
        raise
    except BROKEN as e:
        if "allow_pickle" in str(e):
            raise DataError(f"{path.name} holds Python objects: save numbers or texts, such as "
                            "np.asarray(labels, str)") from e
        raise DataError(f"{path.name} cannot be read as .npz: {e}. Fetch it again and check its "
                        "digest") from e


def part_of(arrays: dict, part: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """-> images (n, H, W, 3) uint8 and labels (n,) of one part."""
    for what in ("images", "labels"):
        if f"{part}{what}" not in arrays:
            raise DataError(f"{name}: {part}{what} is missing")
    images = rgb(arrays[f"{part}images"], f"{name}: {part}images")
    labels = one_a_row(arrays[f"{part}labels"], f"{name}: {part}labels")
    if len(images) != len(labels):
        raise DataError(f"{name}: {len(images)} {part}images, but {len(labels)} {part}labels")
    return images, labels


def rgb(images: np.ndarray, name: str) -> np.ndarray:              # -> (n, H, W, 3) uint8
    """Images with channels last or first, one or three of them; bytes, or floats in [0, 1]."""
    shape = images.shape
    if images.ndim == 4 and shape[-1] not in (1, 3) and shape[1] in (1, 3):
        images = np.moveaxis(images, 1, -1)                        # channels first
    elif images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise DataError(f"{name} have the shape {shape}: (n, H, W), (n, H, W, 1 or 3) or (n, 1 or "
                        "3, H, W) is needed; volumes (3-D sets) are not supported")
    if images.size == 0 and len(images):
        raise DataError(f"{name} have the shape {shape}: no pixels")
    if images.dtype.kind == "f":
        low, high = (images.min(), images.max()) if images.size else (0, 1)
        if not -ROUNDING <= low <= high <= 1 + ROUNDING:           # not so for nan, either
            raise DataError(f"{name} are floats from {low:.9g} to {high:.9g}: only [0, 1] is "
                            "known; scale them, or save bytes")
        images = np.rint(images * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        known = images.size and images.dtype.kind in "iu"
        reach = f", {images.min()} to {images.max()}" if known else ""
        raise DataError(f"{name} are {images.dtype}{reach}: only uint8 and floats in [0, 1] are "
                        "known; scale them to bytes")
    return np.broadcast_to(images, (*images.shape[:3], 3))


def one_a_row(labels: np.ndarray, name: str) -> np.ndarray:        # (n,) or (n, 1) -> (n,)
    """Labels as whole numbers from 0, or as texts."""
    if labels.ndim == 2 and labels.shape[1] != 1:
        raise DataError(f"{name} have {labels.shape[1]} columns: one class an image is needed; "
                        "multi-label sets are not supported, one-hot ones as labels.argmax(1)")
    if labels.ndim not in (1, 2):
        raise DataError(f"{name} have the shape {labels.shape}: (n,) or (n, 1) is needed")
    labels = labels.reshape(len(labels))
    labels = as_text(labels)
    if labels.dtype.kind == "f":
        numbers = labels.astype(np.float64)
        if (abs(numbers) < LARGEST).all() and (numbers % 1 == 0).all():      # not so for nan
            labels = numbers.astype(np.int64)
    if labels.dtype.kind not in "iubU":
        raise DataError(f"{name} are {labels.dtype}: whole numbers from 0, or texts, are needed")
    if labels.dtype.kind in "iu" and len(labels) and labels.min() < 0:
        raise DataError(f"{name} go down to {labels.min()}: classes are numbered from 0")
    return labels.astype(int) if labels.dtype.kind == "b" else labels


def as_text(array: np.ndarray) -> np.ndarray:
    """Bytes as text, other arrays as they are."""
    return np.char.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array


def named(label, class_names, name: str) -> str:
    """The name of a class, "" if missing; raises DataError for a number beyond the names."""
    if isinstance(label, str):
        return "" if label.strip().casefold() in MISSING else label.strip()
    if not len(class_names):
        return f"class {label}"
    if label >= len(class_names):
        raise DataError(f"{name}: a label is {label}, but only {len(class_names)} classes have "
                        "names")
    return class_names[label]
