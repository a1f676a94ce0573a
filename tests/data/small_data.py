"""Small images, folders and sources that several tests of the data need."""
from pathlib import Path

import numpy as np
from conftest import picture

from vqlib.data.dataset import SPLITS, Dataset
from vqlib.data.sources import Record, Source, open_source


def class_folder(path, **files):
    """Class folder `nv` with a good picture and the given files.

    Each file is (suffix, PIL image, options of its `save`) or (suffix, bytes, {}).
    """
    (path / "nv").mkdir(parents=True)
    picture(0).save(path / "nv" / "good.png")
    for name, (suffix, content, options) in files.items():
        place = path / "nv" / f"{name}{suffix}"
        if isinstance(content, bytes):
            place.write_bytes(content)
        else:
            content.save(place, **options)
    return path


def pixels(path, name, geometry):                                  # -> (3, S, S)
    """The cached square of one image of a class folder."""
    dataset = Dataset(open_source(path), geometry, cache=path / "cache")
    row = next(i for i, path in enumerate(dataset.names) if Path(path).stem == name)
    return dataset.squares([row])[0].int()


def noise(n, side=24, seed=0):                                     # -> (n, S, S, 3) uint8
    """Images of random cells of 2 x 2 pixels; no two are near-duplicates."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (n, side // 2, side // 2, 3), dtype=np.uint8)
    return cells.repeat(2, 1).repeat(2, 2)


def array_source(array, lesions, labels=None):                     # (N, S, S, 3) uint8, (N,), (N,)
    """A source of images i000, i001, ...; without labels all are nv."""
    records = []
    for i, (lesion, label) in enumerate(zip(lesions, labels or ["nv"] * len(array), strict=True)):
        records.append(Record(f"i{i:03d}", label, lesion, i))
    return Source("test", "test", records, array=array)


def sides(dataset):
    """Name of each image -> its split."""
    return {dataset.names[i]: split for split in SPLITS for i in dataset.splits[split]}
