"""A data set in a small file: `python -m tests.bench.pack DIR FILE.tar.gz`, then `tar xzf`.

Tables are kept as they are. Images whose shorter side is above 150 px are scaled to that, as JPEGs
of quality 85: enough for 128 px with a margin for rotations. The 9,025 files of HAM10000 at 200 x
150 px stay as they are and take 30 MB. A lesion keeps its side of the split.
"""
import argparse
import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from vqlib.data.decode import Geometry, read_rgb
from vqlib.data.folders import list_files

KEPT = Geometry(crop=128, resize=None)
SHORTER = KEPT.side            # 150 px: with a margin for rotations
LARGEST_TABLE = 5_000_000      # bytes; what is larger is no table


def small(path: Path) -> bytes:
    """The bytes of an image, a JPEG scaled down if it is larger than is needed."""
    with Image.open(path) as image:
        shorter = min(image.size)
    if shorter <= SHORTER:
        return path.read_bytes()
    image = read_rgb(path, KEPT)
    size = [round(length * SHORTER / shorter) for length in image.size]
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def pack(folder: Path, out: Path) -> int:
    """Write tables and images of a folder, in its layout; the size of the file in bytes."""
    tree = list_files(folder)
    images = tree.images
    with tarfile.open(out, "w:gz", compresslevel=1) as tar, ThreadPoolExecutor() as pool:
        for path in tree.others:
            if path.stat().st_size <= LARGEST_TABLE:
                tar.add(path, path.relative_to(folder))
        for path, data in zip(images, pool.map(small, images)):
            entry = tarfile.TarInfo(str(path.relative_to(folder)))  # splits go by the name
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.stat().st_size


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pack", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    print(f"{pack(args.folder, args.out) / 1e6:.1f} MB in {args.out.name}")


if __name__ == "__main__":
    main()
