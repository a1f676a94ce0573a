"""Where images come from: what people have -> records with a name, a class and a lesion.

data/README.md describes what is read. Nothing is decoded here, and nothing is guessed: a table
beside images is used, or the reader is told which one was not understood.
"""
import filecmp
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import dropwhile, takewhile
from pathlib import Path

import numpy as np

from vqlib.backend.paths import home
from vqlib.data import synthetic
from vqlib.data.arrays import has_images, read_medmnist
from vqlib.data.classes import name_classes
from vqlib.data.decode import is_mask_file
from vqlib.data.folders import COPY, Tree, image_key, last_part, list_files, without_suffix
from vqlib.data.records import DataError, Record, Source, listing, printable
from vqlib.data.tables import LABELS, LESIONS, TEXT_SUFFIXES, Table, find_tables

PUBLISHED = (  # kind, name of a table or ids in it, title
    ("ham10000", r"HAM_?10000|HAM_\d{7}", "HAM10000"),
    ("isic2018", r"ISIC_?2018", "ISIC 2018 task 3"),
    ("isic2019", r"ISIC_?2019", "ISIC 2019"),
)
NO_CLASS = re.compile(  # folders that hold images of any class
    r"(train|test|e?val|dev|hold[_ -]?out)(ing|id|idation|uation)?([_ -]?(set|data|images|\d+))*"
    r"|images?|imgs?|pictures|photos|data(set)?|jpe?g|png|(fold|split|set)[_ -]?\d+"
    r"|(raw|originals?|augmented|resized|cropped|unlabell?ed)([_ -]?(data|images))?"
    r"|(ham.*_|imgs?_|images?_)?(images_)?(part_?\d+)?|ham.*_images|isic.*_input", re.IGNORECASE)
ADVICE = ("Read are HAM10000, ISIC 2018 and 2019, tables with a column that names images and one "
          "of classes (dx, diagnosis, label, ...), and a folder for each class")
PACKED = (".zip", ".part", ".gz", ".tar", ".tgz", ".bz2", ".xz", ".7z", ".rar")
NO_LESIONS = ("no lesion ids (ISIC has them in *LesionGroupings.csv or *Metadata.csv): split by "
              "image and near-duplicate, images of one lesion may stand on both sides")


def open_source(path=None, n_synthetic=3000, side=64, seed=0,
                image_column=None, label_column=None) -> Source:
    """Find out what lies at `path` and list its images.

    Without a path: `$VQLIB_DATA`, then data/ham10000, then synthetic images (`n_synthetic` of
    `side` px). image_column, label_column: of a table whose columns are not found. Raises
    DataError if the path does not exist or what lies there cannot be read.
    """
    path = locate(path)
    if path == "synthetic":
        return read_synthetic(n_synthetic, side, seed)
    if path.is_dir():
        return read_folder(path, image_column, label_column)
    if path.suffix.lower() == ".npz":
        return read_medmnist(path)
    if path.suffix.lower() in (".csv", ".tsv", ".tab"):
        raise DataError(f"{path.name} is a table: give the folder that holds it and the images")
    if path.suffix.lower() in PACKED:
        raise DataError(f"{printable(path.name)} is packed: unpack it and give the folder")
    raise DataError(f"{printable(path.name)} is neither a folder nor an .npz. {ADVICE}")


def locate(path=None) -> Path | str:
    """The absolute path that is meant, or "synthetic"; relative ones are resolved here only.

    They start at the current folder, and if nothing lies there, at the project's.
    """
    if path is None:
        path = os.environ.get("VQLIB_DATA") or None
    if path is None:
        standard = home() / "data" / "ham10000"
        return standard if standard.is_dir() else "synthetic"
    if str(path) == "synthetic":
        return "synthetic"
    if not str(path).strip():
        raise DataError("the path of the data is empty: name a folder, an .npz, or synthetic")
    path = Path(os.path.expanduser(path))                          # Path's raises for no such user
    for place in (path.absolute(), home() / path):
        if os.path.exists(place):                                  # Path's raises for a long name
            return place
    raise DataError(f"no such file or folder: {printable(path)}. Fetch a data set with `python -m "
                    "vqlib download`, or give `synthetic`")


def read_folder(root: Path, image_column=None, label_column=None) -> Source:
    """Read what a folder holds: images with tables, else one archive, else class folders."""
    tree = list_files(root)
    tables = find_tables(tree, image_column, label_column)
    labelled = [table for table in tables if table.labelled]
    if any(table.matches for table in labelled):
        labelled = [table for table in labelled if table.matches]
    archives = archives_of(tree)
    if labelled and (tree.images or not archives):
        return read_labelled(tree, labelled, [t for t in tables if t not in labelled])
    if len(archives) > 1 or tree.images:
        archives = [path for path in archives if has_images(path)]
    ways = [*map(tree.name, archives), *["folders of images"] * any(class_folders(tree).values())]
    if archives and len(ways) > 1:
        raise DataError(f"{printable(root.name)}/ holds {' and '.join(ways)}: name the one that is "
                        "meant, or move the others away")
    if archives:
        source = read_medmnist(archives[0])
        source.notes += unused_notes(table.path for table in tables)
        return source
    for table in tables:                   # one of lesions may help, a list of names does no harm
        helps = table.image and table.lesion and table.matches
        if not ways or not (helps or table.path.suffix.lower() in TEXT_SUFFIXES):
            raise DataError(not_understood(table))
    return read_class_folders(tree, tables)


def archives_of(tree: Tree) -> list[Path]:
    return [path for path in tree.others if path.suffix.lower() == ".npz"]


def unused_notes(paths: Iterable[Path]) -> list[str]:
    names = ", ".join(printable(path.name) for path in paths)
    return [f"not used: {names}"] if names else []


def not_understood(table: Table) -> str:
    name = printable(table.path.name)
    if not table.columns:
        return f"{name} is no CSV: save it as CSV, or move it away from the images. {ADVICE}"
    columns = ", ".join(table.columns[:20])
    found = (f"{table.matches} images are named in {table.image!r}, no classes found"
             if table.matches else "no image that is there is named in it")
    return (f"{name} lies beside the images and is not understood: columns {columns}; {found}. "
            f"{ADVICE}. Name the columns with --image-column and --label-column, or move the "
            "table away if it says nothing of these images")


class Matcher:
    """Finds the file that a table means, and keeps account of what was used."""

    def __init__(self, tree: Tree):
        self.tree, self.used, self.copies = tree, set(), set()
        self.known = {}                                            # (name, table) -> file or reason
        self.files = defaultdict(list)                             # key -> files
        for path in tree.images:
            self.files[image_key(path.name)].append(path)

    def find(self, name: str, table: Path) -> Path | str:
        """The file that a name in a table means, or why there is none."""
        if (name, table) not in self.known:
            found = self.files.get(image_key(name), [])
            if len(found) > 1:
                found = nearest(name, table, found)
            if any(not same_bytes(found[0], path) for path in found[1:]):
                found = [path for path in found if not is_mask_file(path)] or found
            self.used.update(found)
            self.known[name, table] = self.choose(found)
        return self.known[name, table]

    def choose(self, found: list[Path]) -> Path | str:
        if not found:
            return "no such image file"
        first, *others = found
        for path in others:
            if not same_bytes(first, path):
                both = " and ".join(map(self.tree.name, (first, path)))
                return f"different image files have this name, such as {both}: keep one of each"
        for path in (path for path in others if path not in self.copies):
            self.tree.skip(path, COPY)
        self.copies.update(others)
        return first


def same_bytes(a: Path, b: Path) -> bool:
    return filecmp.cmp(a, b, shallow=False)


def nearest(name: str, table: Path, found: list[Path]) -> list[Path]:
    """Those files that agree best with what a table says: their folders as it writes them, a
    folder of its name (train.csv, train/), the table's own folder, and then their names.
    """
    *folders, wanted = re.split(r"[/\\]", name.casefold())
    written = without_suffix(last_part(name))

    def agreeing(path: Path) -> tuple:
        *own, file = str(path).casefold().split(os.sep)
        exact = without_suffix(file) == without_suffix(wanted)     # not but for _downsampled
        return (shared_parts([folders[::-1], own[::-1]]), table.stem.casefold() in own,
                shared_parts([table.parent.parts, path.parent.parts]), exact, file == wanted,
                without_suffix(path.name) == written)              # in its case

    most = max(map(agreeing, found))
    return [path for path in found if agreeing(path) == most]


def shared_parts(paths: Iterable[Sequence[str]]) -> int:
    """How many parts all paths have in common from their start on."""
    return sum(1 for _ in takewhile(lambda parts: len({*parts}) == 1, zip(*paths)))


def read_labelled(tree: Tree, tables: list[Table], others: list[Table]) -> Source:
    """Images whose classes stand in tables; their lesion ids may stand in others."""
    matcher, where = Matcher(tree), ", ".join(printable(t.path.name) for t in tables)
    labels, names = read_labels(tables, matcher)
    what = f"the {len({name for name, _ in matcher.known})} images of {where}"
    for path in tree.images:
        if path not in matcher.used:
            name = printable(without_suffix(path.name))
            tree.skipped.append((name, f"image file not in {where}"))
    lesions, joined = read_lesions([*tables, *others], matcher)
    spelt, notes = name_classes(label for path in labels for label in labels[path])
    often, records = Counter(names.values()), []
    names = {path: name if often[name] == 1 else tree.name(path) for path, name in names.items()}
    for path, name in sorted(names.items(), key=lambda item: item[1]):
        classes, ids = {spelt[label] for label in labels[path]}, lesions[path]
        if len(classes) == 1 and len(ids) < 2:
            records.append(Record(name, *classes, *(ids or [name]), path))
        else:
            told = classes if len(classes) != 1 else ids
            told = " and ".join(sorted(told)) or "without a diagnosis"
            tree.skipped.append((name, f"{where} has it as {told}"))
    if len({table.label for table in tables}) > 1:                 # they may contradict each other
        what += " (--label-column names the column of classes that is meant)"
    require_records(records, tree, what)
    notes += unused_notes([*(t.path for t in others if t not in joined), *archives_of(tree)])
    kind, title = published(tables, records) or ("table", f"{printable(tree.root.name)} ({where})")
    notes += [note for table in tables for note in column_notes(table)]
    return Source(kind, title, records, tree.skipped, notes + lesion_notes(records, joined))


def read_labels(tables: list[Table], matcher: Matcher):
    """-> ({file: classes as written}, {file: its name}); what names no file is skipped, once."""
    labels, names, absent = defaultdict(set), {}, {}
    for table in tables:
        where = printable(table.path.name)
        absent |= {f"{where}, line {line}": reason for line, reason in table.broken}
        for line, row in table.rows:
            name = row[table.image]
            path = matcher.find(name, table.path) if name else "names no image"
            if isinstance(path, str):
                absent.setdefault(name or f"{where}, line {line}", f"in {where}, {path}")
            else:
                labels[path].update(table.labels_of(row))
                names.setdefault(path, printable(without_suffix(last_part(name))))
    matcher.tree.skipped += sorted(absent.items())
    return labels, names


def read_lesions(tables: list[Table], matcher: Matcher):
    """-> ({file: lesion ids}, tables that have them); ids of patients only where no others are."""
    tables = [table for table in tables if table.image and table.lesion]
    best = min((LESIONS.index(table.lesion) for table in tables), default=0)
    tables, lesions = [t for t in tables if t.lesion == LESIONS[best]], defaultdict(set)
    for table in tables:
        for _, row in table.rows:
            known = row[table.lesion].casefold() not in ("", "unknown", "unk", "-")
            path = matcher.find(row[table.image], table.path) if known else ""
            if isinstance(path, Path):
                lesions[path].add(row[table.lesion])
    return lesions, tables


def require_records(records: list[Record], tree: Tree, what: str) -> None:
    """Raises DataError with the first reasons if nothing is left."""
    if records:
        return
    reasons = "; ".join(listing(tree.skipped, 1)[:3]) or "there is no image file"
    packed = [printable(path.name) for path in tree.others if path.suffix.lower() in PACKED]
    hint = f". Fetch and unpack {', '.join(packed[:3])} first" if packed else ""
    above = [printable(path.name) for path in sorted(tree.root.parent.glob("*.[ct]sv"))]
    hint += f". Is {above[0]} its table? Then give the folder above as the data" if above else ""
    hint = hint or f". {ADVICE}"
    raise DataError(f"none of {what} lies below {printable(tree.root.name)}/ in a form that can be "
                    f"used: {reasons}{hint}")


def published(tables: list[Table], records: list[Record]) -> tuple[str, str] | None:
    """Kind and title of a known data set, if all tables are of one."""
    kinds = {}
    for table in tables:
        texts = [table.path.name, *(r.lesion for r in records[:1] if table.lesion)]
        kind = next((k for k in PUBLISHED if any(re.search(k[1], t, re.I) for t in texts)), None)
        if kind is None:
            return None
        kinds[kind[0]] = kind[2]
    return "+".join(kinds), f"{' and '.join(kinds.values())} (CC BY-NC 4.0)"


def column_notes(table: Table) -> list[str]:
    """What a reader should know of the columns that were chosen."""
    name = printable(table.path.name)
    also = [c for c in LABELS if c in table.columns and c != table.label and table.label in LABELS]
    notes = [f"{name}: classes are those of column {table.label}, not of {', '.join(also)} "
             "(--label-column)"] if also else []
    if table.others:
        notes.append(f"{name}: images are those of column {table.image}, not of "
                     f"{', '.join(table.others)} (--image-column)")
    if "unk" in table.one_hot and any("unk" in table.labels_of(row) for _, row in table.rows):
        notes.append(f"{name}: class unk is no diagnosis, but none of the others")
    return notes


def lesion_notes(records: list[Record], tables: list[Table]) -> list[str]:
    """What is not known of lesions."""
    alone = sum(record.lesion == record.name for record in records)
    if alone == len(records):
        return [NO_LESIONS]
    notes = [f"{alone} of {len(records)} images have no lesion id: each is a lesion of its own"]
    notes = notes if alone else []
    if not tables[0].lesion.startswith("lesion"):
        notes.append(f"no lesion ids, but others: split by {tables[0].lesion}")
    return notes


def class_folders(tree: Tree) -> dict[Path, str | None]:
    """For each image the first folder below the root that can name its class, None without one.

    Folders that hold all others (as archives are unpacked), Train, Test, images and the like do
    not count.
    """
    parents = {path: path.parent.relative_to(tree.root).parts for path in tree.images}
    wrapped, deep = 0, [*parents.values()]                         # folders around all others
    while deep := [parts for parts in deep if len(parts) > wrapped]:
        if len({parts[wrapped] for parts in deep}) > 1 or wrapped + 1 in map(len, deep):
            break                                                  # images lie directly in it
        wrapped += 1
    classes = {}
    for path, parts in parents.items():
        rest = dropwhile(lambda part: NO_CLASS.fullmatch(part.strip()), parts[wrapped:])
        classes[path] = next(map(printable, rest), None)
    return classes


def read_class_folders(tree: Tree, tables: list[Table]) -> Source:
    """Images in a folder for each class, at any depth below it; tables may know the lesions."""
    root, classes = printable(tree.root.name), class_folders(tree)
    spelt, notes = name_classes(name for name in classes.values() if name)
    lesions, joined = read_lesions(tables, Matcher(tree))
    often, records = Counter(map(tree.name, classes)), []
    for path, written in classes.items():
        if written is None:
            tree.skip(path, "lies in no folder that names a class")
            continue
        name = tree.name(path)
        if often[name] > 1:                                        # two forms of Unicode
            name = printable(path.relative_to(tree.root))
        lesion = min(lesions[path], default=name)
        records.append(Record(name, spelt[written], lesion, path))
    require_records(records, tree, f"the {len(tree.images)} images")
    if len(spelt) > 1 and len({*spelt.values()}) == len(records):
        raise DataError(f"{root}/: each of its {len(records)} folders holds one image, such as "
                        f"{records[0].label}: these are no classes. {ADVICE}")
    records.sort(key=lambda record: record.name)
    notes += unused_notes([*archives_of(tree), *(t.path for t in tables if t not in joined)])
    notes += one_class_notes(records, tree) + lesion_notes(records, joined)
    return Source("folders", f"class folders {root}", records, tree.skipped, notes)


def one_class_notes(records: list[Record], tree: Tree) -> list[str]:
    """Where else classes may stand if one folder holds all images, some of them directly."""
    first, *below = sorted({tree.name(record.place.parent) for record in records})
    within = len(below) > 1 and all(folder.startswith(f"{first}/") for folder in below)
    if not within or len({record.label for record in records}) > 1:
        return []
    return [f"all images are of one class, {records[0].label}. If the folders below it are the "
            f"classes, such as {below[-1]}, give {first} as the data"]


def read_synthetic(n: int, side: int, seed: int) -> Source:
    """Procedural lesions; see vqlib.data.synthetic."""
    images, factors = synthetic.synthetic(n, side, seed)           # (N, 3, S, S)
    records = []
    for i, (label, lesion) in enumerate(zip(factors.label, factors.lesion)):
        name, class_name = f"synthetic_{i:05d}", synthetic.CLASSES[label]
        records.append(Record(name, class_name, f"lesion_{lesion:05d}", i))
    array = np.moveaxis(images, 1, -1)                             # (N, S, S, 3)
    return Source("synthetic", f"synthetic, n {n}, seed {seed}", records, array=array)
