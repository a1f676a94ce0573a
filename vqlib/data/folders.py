"""What lies below a folder: images, other files, and what is left out, each with its reason."""
import os
import re
import unicodedata
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from PIL import Image

from vqlib.data.decode import FORMATS
from vqlib.data.records import printable

SUFFIXES = {s for s, name in Image.registered_extensions().items() if name in FORMATS}
SURE = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "AVIF")  # known by their first bytes
TEXTS = {f".{suffix}" for suffix in (  # no images, which need not be listed as left out
    "csv tsv tab txt xlsx xls ods parquet feather jsonl json xml md html pdf npz npy zip gz tar "
    "tgz bz2 xz 7z rar part bad py ipynb sh yml yaml log ini db").split()}
NO_PICTURES = re.compile(
    r"\..*|__macosx|__pycache__|[$@#]?recycle[dr]?([. ]bin)?|trash.*|@eadir|[~@#]snapshots?"
    r"|_?thumb(nail)?s?([_-]?(small|\d+(x\d+)?))?|(ipynb_)?checkpoints?|lost\+found"
    r"|system volume information", re.IGNORECASE)
MASKS = re.compile(
    r"(?:.*[^a-z])?((png|jpe?g)?masks?|segmentations?|superpixels?|ground_?truths?)(?:[^a-z].*)?"
    r"|(?:.*[^a-z])?(seg|gts?|overlays?|contours?|annotations?)\d*|segmentation(class|object)"
    r"|.*\d_(lesion|labels?)\d*", re.IGNORECASE)    # "vascular lesion" is a diagnosis
LOSSLESS_MASKS = re.compile(r"lesions?|labels?(tr|ts)?", re.IGNORECASE)  # or photographs as JPEG
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
HIDDEN = "hidden, trash, thumbnails or checkpoints by its name"
MASK = "a mask by its name"
LOSSLESS = "a mask by its name, unless it is a JPEG"
COPY = "a second copy, byte for byte, of an image"


@dataclass
class Tree:
    """The files below a folder, in an order that is the same everywhere."""

    root: Path
    images: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)              # tables, archives, texts
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (path below root, reason)

    def name(self, path: Path) -> str:
        """A path below the root, the same for every form of Unicode."""
        return unicodedata.normalize("NFC", printable(path.relative_to(self.root).as_posix()))

    def skip(self, path: Path, reason: str) -> None:
        self.skipped.append((self.name(path), reason))


def left_out(stem: str, folder: bool) -> str | None:
    """Why a folder, or a file, is left out by its name; None if it is not."""
    if stem.startswith((".", "~$")) or (folder and NO_PICTURES.fullmatch(stem)):
        return HIDDEN
    if MASKS.fullmatch(stem):
        return MASK
    return LOSSLESS if LOSSLESS_MASKS.fullmatch(stem) else None


def list_files(root: Path) -> Tree:
    """List what lies below `root`. Linked folders are entered once, after those that are there."""
    tree, seen, above = Tree(root), set(), {*root.resolve().parents}
    folders, links = deque([(root, None)]), deque()
    while folders or links:
        folder, reason = (folders or links).popleft()
        real = folder.resolve()
        if real in seen or real in above:
            tree.skip(folder, "a link to a folder that is read already, or to one above")
            continue
        seen.add(real)
        try:
            paths = sorted(folder.iterdir())
        except OSError as e:
            tree.skip(folder, f"folder cannot be opened: {e.strerror}")
            continue
        for path in paths:
            if os.path.isdir(path):                                # Path.is_dir may raise
                queue = links if path.is_symlink() else folders
                queue.append((path, reason or left_out(path.name, folder=True)))
            else:
                sort_in(tree, path, reason or left_out(path.stem, folder=False))
    return tree


def sort_in(tree: Tree, path: Path, reason: str | None) -> None:
    """Put a file where it belongs."""
    suffix = path.suffix.strip().lower()
    if reason == LOSSLESS:
        reason = None if suffix in JPEG else MASK
    if reason == HIDDEN and suffix not in SUFFIXES:
        return                                                     # tables may lie beside masks
    if not os.path.isfile(path):
        tree.skip(path, "no regular file" if os.path.exists(path) else "a broken link")
    elif suffix in SUFFIXES:
        tree.skip(path, reason) if reason else tree.images.append(path)
    elif suffix not in TEXTS and is_image_within(path):
        tree.images.append(path)
    elif suffix and suffix not in TEXTS:
        tree.skip(path, f"no image: Pillow reads no {suffix}")
    else:
        tree.others.append(path)


def is_image_within(path: Path) -> bool:
    """Whether a file without the name of an image begins like one."""
    try:
        with Image.open(path, formats=SURE):
            return True
    except Exception:                                              # whatever Pillow says of it
        return False


def without_suffix(name: str) -> str:
    """The name of an image without the suffix of one; other dots belong to the name."""
    stem, _, suffix = name.strip().rpartition(".")
    return stem if stem and f".{suffix.lower()}" in SUFFIXES else name.strip()


def last_part(path: str) -> str:
    """The name of the file, of a path of any system or of a URL."""
    if "://" in path:
        path = unquote(re.split(r"[?#]", path)[0])
    return re.split(r"[/\\]", path)[-1]


def image_key(name: str) -> str:
    """What a file and the name that a table has for it agree in.

    Folder, suffix, case and Unicode form may differ; ISIC 2019 marks images as scaled down, and
    spreadsheets make 0007 a 7 or a 7.0.
    """
    stem = without_suffix(last_part(name))
    stem = unicodedata.normalize("NFC", stem).casefold().removesuffix("_downsampled")
    number = re.fullmatch(r"0*(\d+)(\.0)?", stem)
    return number[1] if number else stem
