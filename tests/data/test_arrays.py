"""Laws of archives: bytes and floats in [0, 1] are read, and each fault has words of its own."""
from dataclasses import replace

import numpy as np
import pytest

from vqlib.data import arrays, catalogue
from vqlib.data.records import DataError
from vqlib.data.sources import open_source

pytestmark = pytest.mark.usefixtures("home")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 28, 28, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 1, 0, 2, 1])


def save(tmp_path, name="own.npz", **parts):
    np.savez(tmp_path / name, **parts)
    return tmp_path / name


def read(tmp_path, images=PIXELS, labels=LABELS, **more):
    return open_source(save(tmp_path, images=images, labels=labels, **more))


def test_medmnist_keeps_every_image_with_its_class(npz):
    source = open_source(npz)
    with np.load(npz) as z:
        expected = np.concatenate([z[f"{s}_images"] for s in ("train", "val", "test")])
        labels = np.concatenate([z[f"{s}_labels"][:, 0] for s in ("train", "val", "test")])
    assert source.kind == "medmnist"
    assert len({r.name for r in source.records}) == 30
    assert (source.array[[r.place for r in source.records]] == expected).all()
    assert [r.label for r in source.records] == [f"class {k}" for k in labels]


def test_grey_medmnist_becomes_three_equal_channels(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = grey, np.zeros((4, 1), int)
    np.savez(tmp_path / "pneumonia.npz", **arrays)
    array = open_source(tmp_path / "pneumonia.npz").array
    assert array.shape[-1] == 3
    assert all((array[:4, ..., c] == grey).all() for c in range(3))


def test_a_folder_with_one_archive_is_that_archive(npz):
    assert open_source(npz.parent).records == open_source(npz).records


@pytest.mark.parametrize("damage", [
    pytest.param(lambda b: b[: len(b) // 2], id="cut"),
    pytest.param(lambda b: b[:5000] + bytes([b[5000] ^ 1]) + b[5001:], id="one bit"),
    pytest.param(lambda b: b"<html>not found</html>", id="a web page"),
    pytest.param(lambda b: b"", id="empty"),
])
def test_a_damaged_archive_is_refused_by_name(npz, damage):
    npz.write_bytes(damage(npz.read_bytes()))
    with pytest.raises(DataError, match=r"dermamnist\.npz"):
        open_source(npz)


def test_an_archive_of_something_else_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    with pytest.raises(DataError, match=r"weights\.npz.*train_images"):
        open_source(tmp_path / "weights.npz")


def test_names_and_licence_come_from_the_digest_of_a_published_file(npz, monkeypatch):
    file = replace(catalogue.CATALOGUE["dermamnist-28"].ways[0][0],
                   digest=catalogue.digest_of(npz, "md5:"))
    entry = replace(catalogue.CATALOGUE["dermamnist-28"], images=30, ways=((file,),))
    monkeypatch.setitem(catalogue.CATALOGUE, "dermamnist-28", entry)
    source = open_source(npz.rename(npz.with_name("renamed.npz")))
    assert source.title == "renamed (CC BY-NC 4.0)"
    assert {r.label for r in source.records} == {*catalogue.CLASSES}


def test_a_name_like_a_published_file_gives_neither_classes_nor_a_licence(npz):
    source = open_source(npz)
    assert source.title == "dermamnist"
    assert {r.label for r in source.records} == {f"class {k}" for k in range(7)}
    assert any("numbered" in note for note in source.notes)


def test_names_and_licence_may_stand_in_the_archive(tmp_path):
    source = read(tmp_path, class_names=["nv", "mel", "bcc"], licence="CC0")
    assert source.title == "own (CC0)"
    assert [r.label for r in source.records] == ["nv", "mel", "mel", "nv", "bcc", "mel"]


@pytest.mark.parametrize("names", [
    np.array([b"nv", b"mel", b"bcc"]), np.array([["nv"], ["mel"], ["bcc"]])],
    ids=["bytes", "a column"])
def test_names_of_classes_may_be_bytes_or_a_column(tmp_path, names):
    source = read(tmp_path, class_names=names, licence=np.array(b"CC0"))
    assert source.title == "own (CC0)"
    assert [r.label for r in source.records] == ["nv", "mel", "mel", "nv", "bcc", "mel"]


def test_floats_that_rounding_put_beside_0_and_1_are_those(tmp_path):
    images = PIXELS.astype(np.float32) / 255
    images[0, 0, 0], images[1, 0, 0] = 1.0000001, -1e-8
    array = read(tmp_path, images).array
    assert (array[0, 0, 0] == 255).all()
    assert (array[1, 0, 0] == 0).all()
    assert (array[2:] == PIXELS[2:]).all()


def test_spellings_are_joined_and_an_image_without_a_label_is_listed(tmp_path):
    source = read(tmp_path, labels=np.array(["nv", "NV ", "nan", "", "mel", "Mel"]))
    assert [r.label for r in source.records] == ["nv", "nv", "mel", "mel"]
    assert [r.place for r in source.records] == [0, 1, 4, 5]
    assert source.skipped == [(f"image_{i:05d}", "without a diagnosis") for i in (2, 3)]


def test_labels_may_be_texts_floats_or_a_column(tmp_path):
    for kind in ("U", "S"):
        texts = read(tmp_path, labels=np.array(["a", "b", "b", "a", "c", "b"], kind))
        assert [r.label for r in texts.records] == ["a", "b", "b", "a", "c", "b"]
    for labels in (LABELS.astype(float), LABELS[:, None], LABELS.astype(np.uint8)):
        assert [r.label for r in read(tmp_path, labels=labels).records][4] == "class 2"


@pytest.mark.parametrize("images", [
    pytest.param(PIXELS.astype(np.float32) / 255, id="floats"),
    pytest.param(PIXELS.astype(np.float64) / 255, id="doubles"),
    pytest.param(np.moveaxis(PIXELS, -1, 1), id="channels first"),
])
def test_images_are_the_same_pixels_however_they_are_kept(tmp_path, images):
    assert (read(tmp_path, images).array == PIXELS).all()


@pytest.mark.parametrize("axis", [(), -1, 1], ids=["none", "last", "first"])
def test_grey_images_become_rgb(tmp_path, axis):
    grey = PIXELS[..., 0]
    array = read(tmp_path, np.expand_dims(grey, axis)).array
    assert (array == grey[..., None]).all()
    assert array.shape == (6, 28, 28, 3)


def test_an_archive_may_lack_a_part(tmp_path):
    path = save(tmp_path, train_images=PIXELS, train_labels=LABELS, test_images=PIXELS[:2],
                test_labels=LABELS[:2])
    assert len(open_source(path).records) == 8


@pytest.mark.parametrize(("change", "message"), [
    ({"images": PIXELS.astype(np.uint16)}, "images are uint16, .* to .*: only uint8"),
    ({"images": PIXELS.astype(np.int64)}, "images are int64"),
    ({"images": PIXELS > 9}, "images are bool"),
    ({"images": PIXELS.astype(float)}, r"floats from 0 to 255: only \[0, 1\]"),
    ({"images": PIXELS / 127.5 - 1}, "floats from -1 to 1: only"),
    ({"images": PIXELS / 250}, "floats from 0 to 1.02: only"),
    ({"images": np.full((6, 8, 8, 3), np.nan)}, "floats from nan to nan"),
    ({"images": PIXELS[:, :, :, :2]}, r"shape \(6, 28, 28, 2\)"),
    ({"images": np.zeros((6, 28, 28, 28), np.uint8)}, "volumes"),
    ({"images": np.zeros((6, 28, 28, 28, 1), np.uint8)}, "volumes"),
    ({"images": np.zeros((6, 784), np.uint8)}, r"shape \(6, 784\)"),
    ({"images": np.zeros((6, 0, 28, 3), np.uint8)}, "no pixels"),
    ({"images": PIXELS[:0], "labels": LABELS[:0]}, "holds no image"),
    ({"labels": LABELS[:5]}, "6 images, but 5 labels"),
    ({"labels": np.zeros((6, 14), int)}, "14 columns.*multi-label"),
    ({"labels": np.zeros((6, 1, 1), int)}, r"shape \(6, 1, 1\)"),
    ({"labels": LABELS - 1}, "go down to -1"),
    ({"labels": LABELS + 0.5}, "labels are float64"),
    ({"labels": LABELS + 1e300}, "labels are float64"),
    ({"labels": np.array([0, 1, np.inf, 1, 0, 1])}, "labels are float64"),
    ({"labels": np.array([0, 1, np.nan, 1, 0, 1], np.float16)}, "labels are float16"),
    ({"labels": np.array([*"abcde", None], object)}, "Python objects"),
    ({"class_names": ["nv", "mel"]}, "a label is 2, but only 2 classes have names"),
])
def test_each_fault_has_a_message_of_its_own(tmp_path, change, message):
    with pytest.raises(DataError, match=rf"own\.npz.*{message}"):
        read(tmp_path, **change)


def test_what_is_missing_is_named(tmp_path):
    path = save(tmp_path, train_images=PIXELS, train_labels=LABELS, val_images=PIXELS)
    with pytest.raises(DataError, match="val_labels is missing"):
        open_source(path)


@pytest.mark.parametrize("part", ["valid_", "validation_"])
def test_the_validation_part_may_be_called_otherwise_and_other_arrays_are_named(tmp_path, part):
    more = {f"{part}images": PIXELS, f"{part}labels": LABELS, "patients": LABELS, "x": PIXELS}
    source = open_source(save(tmp_path, train_images=PIXELS, train_labels=LABELS, **more))
    assert len(source.records) == 12
    assert "arrays that are not used: patients, x" in source.notes


def test_parts_of_different_sizes_are_refused(tmp_path):
    path = save(tmp_path, train_images=PIXELS, train_labels=LABELS,
                test_images=PIXELS[:, :9, :9], test_labels=LABELS)
    with pytest.raises(DataError, match="different sizes"):
        open_source(path)


def test_an_archive_that_would_fill_the_memory_is_not_unpacked(npz, monkeypatch):
    monkeypatch.setattr(arrays.os, "sysconf", lambda name: 300)    # 300 pages of 300 bytes
    monkeypatch.setattr(arrays.np, "load", lambda path: pytest.fail("unpacked"))
    with pytest.raises(DataError, match=r"dermamnist\.npz unpacks to .* GB"):
        open_source(npz)
