"""Where images come from: five layouts -> records with a name, a class and a lesion.

data/README.md describes the layouts. Nothing is decoded here.
"""
import csv
import os
import zipfile
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vqlib.backend.paths import home
from vqlib.data import synthetic

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
HAM_COLUMNS = {"lesion_id", "image_id", "dx"}
ISIC_CLASSES = {
    "MEL": "mel",
    "NV": "nv",
    "BCC": "bcc",
    "AKIEC": "akiec",
    "BKL": "bkl",
    "DF": "df",
    "VASC": "vasc",
}


class DataError(ValueError):
    """The data cannot be used as it is; the message names the file, the value and what to do."""


@dataclass(frozen=True)
class Record:
    """One image before decoding."""

    name: str            # unique in its source
    label: str
    lesion: str          # images of one lesion stay on one side of a split
    place: Path | int    # a file, or a row of the source's array


@dataclass
class Source:
    """Everything that is known of a data set without decoding it."""

    kind: str
    title: str                                # printed on top of notebooks and on figures
    records: list[Record]
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (name, reason), never replaced
    notes: list[str] = field(default_factory=list)                # what a reader should know
    array: np.ndarray | None = None           # (N, S, S, 3) uint8 of sources that are not files


def open_source(path=None, n_synthetic=3000, side=64, seed=0) -> Source:
    """Find out which layout `path` has and list its images.

    Without a path: `$VQLIB_DATA`, then data/ham10000, then synthetic images (`n_synthetic` of
    `side` px). Raises DataError if the path does not exist or has none of the layouts.
    """
    path = path or os.environ.get("VQLIB_DATA")
    if not path:
        standard = home() / "data" / "ham10000"
        path = standard if standard.is_dir() else "synthetic"
    if str(path) == "synthetic":
        return read_synthetic(n_synthetic, side, seed)

    root = Path(path).expanduser()
    if not root.exists():
        root = home() / root                                       # notebooks run in their folder
    if not root.exists():
        raise DataError(
            f"no such file or folder: {path}. "
            "Give one of README's layouts, or unset VQLIB_DATA for synthetic data"
        )
    if root.is_dir():
        return read_folder(root)
    if root.suffix != ".npz":
        raise DataError(f"{root.name} is neither a folder nor a MedMNIST .npz")
    return read_medmnist(root)


def read_folder(root: Path) -> Source:
    """Read whichever layout a folder has: tables first, then one archive, then class folders."""
    for pattern, read in (
        ("HAM10000_metadata*", read_ham10000),
        ("ISIC2018_Task3_*GroundTruth.csv", read_isic2018),
    ):
        tables = sorted(root.glob(pattern)) or sorted(root.glob("*/" + pattern))
        if tables:
            return read(root, tables[0])
    archives = sorted(root.glob("*.npz"))
    if len(archives) == 1:
        return read_medmnist(archives[0])
    return read_class_folders(root)


def read_table(path: Path, needed: set[str]) -> list[dict]:
    """Rows of a CSV or TSV, with or without BOM, quotes and CRLF, columns in any order.

    Raises DataError if it is not UTF-8, lacks a needed column or value, or has no rows.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as e:
        raise DataError(f"{path.name} is not UTF-8 text ({e.reason}): save it as UTF-8") from e
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    table = csv.DictReader(lines, delimiter=delimiter)
    found = set(table.fieldnames or ())
    if not needed <= found:
        lacking = sorted(needed - found)
        raise DataError(f"{path.name} lacks the columns {lacking}; it has {sorted(found)}")
    rows = list(table)
    if not rows:
        raise DataError(f"{path.name} has a header but no rows")
    for line, row in enumerate(rows, 2):                           # the header is line 1
        empty = [column for column in sorted(needed) if not row[column]]
        if empty:
            raise DataError(f"{path.name}, row {line}: no {' and no '.join(empty)}")
    return rows


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def join_files(rows: list[tuple[str, str, str]], table: Path, root: Path):
    """Join rows (image, class, lesion) of a table with the image files below `root`.

    -> (records, skipped): what has no partner, or two labels, is skipped. Raises DataError if
    nothing has a partner.
    """
    files = {path.stem: path for path in sorted(root.rglob("*")) if is_image(path)}
    labels = defaultdict(set)                                      # image -> {(class, lesion)}
    for name, label, lesion in rows:
        labels[name].add((label, lesion))
    found = sorted(labels.keys() & files.keys())
    if not found:
        raise DataError(
            f"none of the {len(labels)} images of {table.name} lies below {root.name}/: "
            "unpack the images there"
        )
    records, skipped = [], []
    for name in found:
        if len(labels[name]) == 1:
            [(label, lesion)] = labels[name]
            records.append(Record(name, label, lesion, files[name]))
        else:
            skipped.append((name, f"{table.name} has it as {sorted(labels[name])}"))
    for name in sorted(labels.keys() - files.keys()):
        skipped.append((name, f"in {table.name}, no such image file"))
    for name in sorted(files.keys() - labels.keys()):
        skipped.append((name, f"image file not in {table.name}"))
    return records, skipped


def read_ham10000(root: Path, table: Path) -> Source:
    """HAM10000 as distributed: a table, and images anywhere below `root`."""
    rows = [(r["image_id"], r["dx"], r["lesion_id"]) for r in read_table(table, HAM_COLUMNS)]
    records, skipped = join_files(rows, table, root)
    return Source("ham10000", "HAM10000 (CC BY-NC 4.0)", records, skipped)


def read_isic2018(root: Path, table: Path) -> Source:
    """ISIC 2018, task 3: a table with a column per class, and one of lesions where it is there."""
    groupings = sorted(root.rglob("*LesionGroupings.csv"))
    lesions, notes = {}, []
    if groupings:
        for r in read_table(groupings[0], {"image", "lesion_id"}):
            lesions[r["image"]] = r["lesion_id"]
    else:
        notes.append(
            "no LesionGroupings.csv: split by image, "
            "images of one lesion may stand on both sides"
        )
    rows = []
    for r in read_table(table, {"image", *ISIC_CLASSES}):
        name = r["image"]
        labels = [label for column, label in ISIC_CLASSES.items() if float(r[column]) == 1]
        if len(labels) != 1:
            raise DataError(
                f"{table.name}: image {name} has {len(labels)} classes set to 1, expected one"
            )
        rows.append((name, labels[0], lesions.get(name, name)))
    records, skipped = join_files(rows, table, root)
    return Source("isic2018", "ISIC 2018 task 3 (CC BY-NC 4.0)", records, skipped, notes)


def read_class_folders(root: Path) -> Source:
    """Images in folders named by class; a name that stands in two classes is skipped."""
    found = defaultdict(list)                                      # name -> its files
    for path in sorted(root.rglob("*")):
        if is_image(path) and path.parent != root:
            found[path.stem].append(path)
    if not found:
        raise DataError(
            f"{root.name}/ has no HAM10000 or ISIC table, no single .npz "
            "and no class folders with images"
        )
    records, skipped = [], []
    for name, (first, *others) in sorted(found.items()):
        classes = sorted({path.parent.name for path in (first, *others)})
        if len(classes) > 1:
            skipped.append((name, "labelled both " + " and ".join(classes)))
            continue
        records.append(Record(name, classes[0], name, first))
        for path in others:
            reason = "second copy of the same name and class"
            skipped.append((str(path.relative_to(root)), reason))
    note = (
        "no lesion ids: split by image and near-duplicate, "
        "images of one lesion may stand on both sides"
    )
    return Source("folders", f"class folders {root.name}", records, skipped, [note])


def read_medmnist(path: Path) -> Source:
    """A MedMNIST archive; its three official splits are pooled, grey images become RGB."""
    try:
        with np.load(path) as archive:
            parts = []                                             # (split, images, labels)
            for split in ("train", "val", "test"):
                images, labels = archive[f"{split}_images"], archive[f"{split}_labels"]
                parts.append((split, images, labels.reshape(len(images))))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise DataError(
            f"{path.name} cannot be read as MedMNIST: {e}. Fetch it again and check its digest"
        ) from e

    is_derma = "derma" in path.name
    classes = dict(enumerate(synthetic.CLASSES)) if is_derma else {}     # the same, in this order
    arrays, records = [], []
    for split, images, labels in parts:
        grey = images.ndim == 3
        arrays.append(np.repeat(images[..., None], 3, -1) if grey else images)
        for i, label in enumerate(labels.tolist()):
            name = f"{split}_{i:05d}"
            label_name = classes.get(label, f"class {label}")
            records.append(Record(name, label_name, name, len(records)))
    title = f"{path.stem} (CC BY-NC 4.0)" if is_derma else path.stem
    note = "no lesion ids: our split replaces the official one, by image and near-duplicate"
    return Source("medmnist", title, records, notes=[note], array=np.concatenate(arrays))


def read_synthetic(n: int, side: int, seed: int) -> Source:
    """Procedural lesions; see vqlib.data.synthetic."""
    images, factors = synthetic.synthetic(n, side, seed)           # (N, 3, S, S)
    records = []
    for i, (label, lesion) in enumerate(zip(factors.label, factors.lesion)):
        name, class_name = f"synthetic_{i:05d}", synthetic.CLASSES[label]
        records.append(Record(name, class_name, f"lesion_{lesion:05d}", i))
    array = np.moveaxis(images, 1, -1)                             # (N, S, S, 3)
    return Source("synthetic", f"synthetic, n {n}, seed {seed}", records, array=array)
