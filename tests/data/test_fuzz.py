"""Whatever a folder, a table or an archive holds: records, or one clear error of one line.

A short seeded run. The long one: VQLIB_FUZZ=20000 pytest tests/data/test_fuzz.py (an hour).
"""
import os
import unicodedata
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from conftest import picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vqlib.data.dataset import Dataset
from vqlib.data.decode import Geometry
from vqlib.data.records import DataError, printable
from vqlib.data.sources import open_source

EXAMPLES = int(os.environ.get("VQLIB_FUZZ", 40))
short = settings(max_examples=EXAMPLES, derandomize="VQLIB_FUZZ" not in os.environ, deadline=None,
                 database=None, suppress_health_check=[*HealthCheck])
pytestmark = pytest.mark.usefixtures("home")

STEMS = st.sampled_from(["a", "A", "1", "ISIC_0000001", "ISIC_0000001_mask", ".x", "nä", "na\u0308",
                         "a b", "$x$", "café\u200b", "b_lesion", "c" * 80])
SUFFIXES = st.sampled_from([".jpg", ".PNG", ".bmp", ".jfif", ".heic", "", ".txt", ".csv", ".npz"])
FOLDERS = st.sampled_from(["nv", "NV", "nv ", "mel", "Train", "test", "masks", "images", ".git",
                           "vascular lesion", "__MACOSX", "part_1", "n\u00e4", "na\u0308"])
CELLS = st.one_of(
    STEMS, st.sampled_from(["nv", "NV ", "nan", "", "1", "0", "1.0", "HAM_1", '"', "a.jpg",
                            "x/a.jpg", "-3", "\\a", "=1+1"]),
    st.text(max_size=6))
HEADERS = st.sampled_from(["image_id", "image", "dx", "label", "lesion_id", "MEL", "NV", "age", "",
                           "Image_ID", "path", "patient_id"])


def check(path: Path, **columns) -> None:
    """The law: all of it is accounted for, or one line says what is wrong."""
    try:
        source = open_source(path, **columns)
        names = [record.name for record in source.records]
        assert len(names) == len({*names}) > 0
        for text in (*names, *(r.label for r in source.records), *source.notes,
                     *(part for pair in source.skipped for part in pair)):
            text.encode()                                          # any terminal can show it
        assert all(record.label and record.lesion for record in source.records)
        files = [record.place for record in source.records if isinstance(record.place, Path)]
        assert len(files) == len({*files})
        Dataset(source, Geometry(16, 16), cache=path.parent / "cache")
    except DataError as error:
        message = str(error)
        clear = message and "\n" not in message and str(path) not in message
        if not clear:
            raise


@st.composite
def tables(draw):
    delimiter = draw(st.sampled_from([",", ";", "\t", "|"]))
    header = draw(st.lists(HEADERS, min_size=1, max_size=5))
    rows = draw(st.lists(st.lists(CELLS, max_size=6), max_size=8))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    text = newline.join(delimiter.join(row) for row in [header, *rows])
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"])), "ignore")


def write(root: Path, files: dict) -> None:
    for place, content in files.items():
        path = root / unicodedata.normalize("NFC", place)
        if any(parent.is_file() for parent in path.parents) or path.is_dir():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            picture(content, (20, 20)).save(path, "PNG")
        else:
            path.write_bytes(content)


PLACES = st.builds(lambda folders, stem, suffix: "/".join([*folders, stem + suffix]),
                   st.lists(FOLDERS, max_size=3), STEMS, SUFFIXES)
CONTENTS = st.one_of(st.integers(0, 5), st.integers(0, 5), st.binary(max_size=40))


@short
@given(st.dictionaries(PLACES, CONTENTS, max_size=10))
def test_any_folder(files):
    with TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        root.mkdir()
        write(root, files)
        check(root)


@short
@given(st.dictionaries(st.sampled_from(["t.csv", "HAM10000_metadata", "x/ISIC2018_Task3_GT.csv"]),
                       tables(), min_size=1, max_size=2),
       st.dictionaries(PLACES, st.integers(0, 5), max_size=8),
       st.sampled_from([{}, {}, {"label_column": "dx"},
                        {"image_column": "image", "label_column": "age"}]))
def test_any_table_beside_any_folder(texts, files, columns):
    with TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        root.mkdir()
        write(root, files | texts)
        check(root, **columns)


ANY = arrays.arrays(
    st.sampled_from([np.uint8, np.uint16, np.int64, np.float32, np.bool_, "U2"]),
    arrays.array_shapes(min_dims=0, max_dims=5, max_side=4, min_side=0))
LIKELY = arrays.arrays(np.uint8, st.tuples(st.integers(0, 5), *[st.integers(1, 20)] * 2,
                                           st.integers(1, 4)))
LABELS = arrays.arrays(st.sampled_from([np.int64, np.uint8, np.float64, "U2"]), st.integers(0, 5))


@short
@given(st.dictionaries(
    st.sampled_from(["images", "train_images", "test_images"]), LIKELY | ANY, max_size=2),
    st.dictionaries(st.sampled_from(["labels", "train_labels", "test_labels", "class_names"]),
                    LABELS | ANY, max_size=3), st.integers(0, 60))
def test_any_archive(images, labels, cut):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "own.npz"
        np.savez(path, **images, **labels)
        if cut < 10:
            data = bytearray(path.read_bytes())
            data[cut * len(data) // 10] ^= 255
            path.write_bytes(data)
        check(path)


@short
@given(st.binary(max_size=12))
def test_any_name_can_be_printed(name):
    printable(os.fsdecode(name)).encode()
