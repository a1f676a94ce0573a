"""Where images come from: five layouts (data/README.md) -> a list of records, each with a name, a class and a lesion."""
import csv
import os
import zipfile
import zlib
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from vqlib.backend.paths import home
from vqlib.data import synthetic

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
ISIC_CLASSES = {"MEL": "mel", "NV": "nv", "BCC": "bcc", "AKIEC": "akiec", "BKL": "bkl", "DF": "df", "VASC": "vasc"}
HAM_COLUMNS = {"lesion_id", "image_id", "dx"}


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
    title: str                                     # printed on top of notebooks and on figures
    records: list[Record]
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (name, reason), counted and shown, never swapped
    notes: list[str] = field(default_factory=list)                # what a reader should know
    array: np.ndarray | None = None                # (N, S, S, 3) uint8 for sources that are no files


def open_source(path=None, n_synthetic=3000, side=64, seed=0) -> Source:
    """Find out which layout `path` has and list its images. No path: `$VQLIB_DATA`, then data/ham10000, then synthetic.

    Raises DataError if the path does not exist or has none of the layouts above.
    """
    path = path or os.environ.get("VQLIB_DATA") or next((p for p in [home() / "data" / "ham10000"] if p.is_dir()), None)
    if path is None or str(path) == "synthetic":
        return read_synthetic(n_synthetic, side, seed)
    root = Path(path).expanduser()
    if not root.exists():
        root = home() / root                                            # notebooks run in their own folder
    if not root.exists():
        raise DataError(f"no such file or folder: {path}. Give one of README's layouts, or unset VQLIB_DATA for synthetic data")
    if root.is_file():
        if root.suffix != ".npz":
            raise DataError(f"{root.name} is neither a folder nor a MedMNIST .npz")
        return read_medmnist(root)
    for pattern, read in (("HAM10000_metadata*", read_ham10000), ("ISIC2018_Task3_*GroundTruth.csv", read_isic2018)):
        tables = sorted(root.glob(pattern)) or sorted(root.glob("*/" + pattern))
        if tables:
            return read(root, tables[0])
    archives = sorted(root.glob("*.npz"))
    if len(archives) == 1:
        return read_medmnist(archives[0])
    return read_folders(root)


def read_table(path: Path, needed: set[str]) -> list[dict]:
    """Rows of a CSV or TSV, with or without BOM, quotes and CRLF, columns in any order."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as e:
        raise DataError(f"{path.name} is not UTF-8 text ({e.reason}): save it as UTF-8") from e
    table = csv.DictReader(lines, delimiter="\t" if lines and "\t" in lines[0] else ",")
    found, rows = set(table.fieldnames or ()), list(table)
    if not needed <= found:
        raise DataError(f"{path.name} lacks the columns {sorted(needed - found)}; it has {sorted(found)}")
    if not rows:
        raise DataError(f"{path.name} has a header but no rows")
    for i, row in enumerate(rows):
        if empty := [c for c in sorted(needed) if not row[c]]:
            raise DataError(f"{path.name}, row {i + 2}: no {' and no '.join(empty)}")
    return rows


def match(kind, title, root, rows: list[tuple[str, str, str]], table: Path) -> Source:
    """Join rows (image, label, lesion) of a table with the files below `root`; what lacks its partner is listed as skipped."""
    files = {p.stem: p for p in sorted(root.rglob("*")) if p.suffix.lower() in IMAGE_SUFFIXES}
    labelled = {name: {r[1:] for r in same} for name, same in groupby(sorted(rows), itemgetter(0))}
    both = sorted(labelled.keys() & files.keys())
    if not both:
        raise DataError(f"none of the {len(labelled)} images of {table.name} lies below {root.name}/: unpack the images there")
    records = [Record(name, *min(labelled[name]), files[name]) for name in both if len(labelled[name]) == 1]
    skipped = [(n, f"{table.name} has it as {sorted(labelled[n])}") for n in both if len(labelled[n]) > 1]
    skipped += [(n, f"in {table.name}, no such image file") for n in sorted(labelled.keys() - files.keys())]
    skipped += [(n, f"image file not in {table.name}") for n in sorted(files.keys() - labelled.keys())]
    return Source(kind, title, records, skipped)


def read_ham10000(root: Path, table: Path) -> Source:
    rows = read_table(table, HAM_COLUMNS)
    return match("ham10000", "HAM10000 (CC BY-NC 4.0)", root, [(r["image_id"], r["dx"], r["lesion_id"]) for r in rows], table)


def read_isic2018(root: Path, table: Path) -> Source:
    rows = read_table(table, {"image", *ISIC_CLASSES})
    labelled = []
    for r in rows:
        on = [c for c in ISIC_CLASSES if float(r[c]) == 1]
        if len(on) != 1:
            raise DataError(f"{table.name}: image {r['image']} has {len(on)} classes set to 1, expected one")
        labelled.append((r["image"], ISIC_CLASSES[on[0]]))
    groupings = sorted(root.rglob("*LesionGroupings.csv"))
    lesions = {r["image"]: r["lesion_id"] for r in read_table(groupings[0], {"image", "lesion_id"})} if groupings else {}
    source = match("isic2018", "ISIC 2018 task 3 (CC BY-NC 4.0)", root,
                   [(n, label, lesions.get(n, n)) for n, label in labelled], table)
    if not groupings:
        source.notes.append("no LesionGroupings.csv: split by image, images of one lesion may stand on both sides")
    return source


def read_folders(root: Path) -> Source:
    """Class folders; a name that stands in two classes has no known label and is skipped with both named."""
    found = defaultdict(list)                                         # stem -> [(class, file)]
    for p in sorted(root.rglob("*")):
        if p.suffix.lower() in IMAGE_SUFFIXES and p.parent != root:
            found[p.stem].append((p.parent.name, p))
    if not found:
        raise DataError(f"{root.name}/ has no HAM10000 or ISIC table, no single .npz and no class folders with images")
    records, skipped = [], []
    for name, places in sorted(found.items()):
        classes = sorted({c for c, _ in places})
        if len(classes) > 1:
            skipped.append((name, "labelled both " + " and ".join(classes)))
        else:
            records.append(Record(name, classes[0], name, places[0][1]))
            skipped += [(str(p.relative_to(root)), "second copy of the same name and class") for _, p in places[1:]]
    return Source("folders", f"class folders {root.name}", records, skipped,
                  ["no lesion ids: split by image and near-duplicate, images of one lesion may stand on both sides"])


def read_medmnist(path: Path) -> Source:
    names = dict(enumerate(synthetic.CLASSES)) if "derma" in path.name else {}  # the same seven, in the same order
    try:
        with np.load(path) as z:
            pairs = [(s, z[f"{s}_images"], z[f"{s}_labels"]) for s in ("train", "val", "test")]  # each access decompresses
        parts = [(s, images, labels.reshape(len(images))) for s, images, labels in pairs]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise DataError(f"{path.name} cannot be read as MedMNIST: {e}. Fetch it again and check its digest") from e
    array = np.concatenate([a if a.ndim == 4 else np.repeat(a[..., None], 3, -1) for _, a, _ in parts])
    records = []
    for split, _, labels in parts:
        for i, label in enumerate(labels):
            name = f"{split}_{i:05d}"
            records.append(Record(name, names.get(int(label), f"class {label}"), name, len(records)))
    return Source("medmnist", f"{path.stem} (CC BY-NC 4.0)" if names else path.stem, records, array=array,
                  notes=["no lesion ids: our split replaces the official one, by image and near-duplicate"])


def read_synthetic(n: int, side: int, seed: int) -> Source:
    images, factors = synthetic.synthetic(n, side, seed)              # (N, 3, S, S)
    records = [Record(f"synthetic_{i:05d}", synthetic.CLASSES[c], f"lesion_{k:05d}", i)
               for i, (c, k) in enumerate(zip(factors.label, factors.lesion))]
    return Source("synthetic", f"synthetic, n {n}, seed {seed}", records, array=np.moveaxis(images, 1, -1))
