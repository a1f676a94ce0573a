"""Laws of the cache: its fingerprint knows every change, and it is whole or not there."""
import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import ImageOps
from small_data import array_source, noise

import vqlib.data.cache
from vqlib.backend.files import try_lock
from vqlib.data.cache import LOCK, SCRATCH, build_cache, fingerprint, reserve
from vqlib.data.dataset import Dataset
from vqlib.data.decode import Geometry
from vqlib.data.sources import DataError, open_source, read_synthetic


def test_the_fingerprint_changes_with_a_label_a_lesion_a_name_a_pixel_and_the_geometry():
    x, lesions = noise(6), list("abcdef")
    other = x.copy()
    other[3, 0, 0, 0] ^= 1
    source = array_source(x, lesions)
    variants = [
        (source, Geometry(16, 16)),
        (source, Geometry(16, None)),
        (source, Geometry(24, 24)),
        (array_source(x, lesions, ["nv"] * 5 + ["mel"]), Geometry(16, 16)),
        (array_source(x, [*"abcde", "a"]), Geometry(16, 16)),
        (array_source(other, lesions), Geometry(16, 16)),
        (array_source(x[:5], lesions[:5]), Geometry(16, 16)),
    ]
    prints = [fingerprint(*variant) for variant in variants]
    assert len(set(prints)) == len(prints)
    assert fingerprint(array_source(x.copy(), lesions), Geometry(16, 16)) == prints[0]


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(ham, tmp_path):
    before = fingerprint(open_source(ham[0]), Geometry(32, 32))
    moved = ham[0].rename(tmp_path / "elsewhere")
    assert fingerprint(open_source(moved), Geometry(32, 32)) == before


def test_the_second_opening_decodes_nothing_and_gives_the_same(ham, tmp_path, monkeypatch):
    first = Dataset(open_source(ham[0]), Geometry(32, 32), cache=tmp_path / "cache")
    monkeypatch.setattr(vqlib.data.cache, "decode", lambda *a: pytest.fail("decoded again"))
    second = Dataset(open_source(ham[0]), Geometry(32, 32), cache=tmp_path / "cache")
    assert torch.equal(first[np.arange(40)], second[np.arange(40)])
    assert first.names == second.names
    assert first.lesions == second.lesions
    assert first.fingerprint == second.fingerprint


def test_an_interrupted_build_leaves_nothing_and_the_next_one_succeeds(ham, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(vqlib.data.cache, "near_groups", interrupted)    # pixels are written, no index
        with pytest.raises(KeyboardInterrupt):
            Dataset(open_source(ham[0]), Geometry(32, 32), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(Dataset(open_source(ham[0]), Geometry(32, 32), cache=tmp_path / "cache")) == 40


def test_only_unusable_files_are_an_error_that_names_the_first(tmp_path):
    (tmp_path / "nv").mkdir()
    (tmp_path / "nv" / "zero.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"zero\.jpg"):
        Dataset(open_source(tmp_path), Geometry(32, 32), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_build_that_comes_second_uses_the_cache_of_the_first(tmp_path):
    geometry, source = Geometry(24, 24), array_source(noise(20), [f"a{i}" for i in range(20)])
    folder = tmp_path / Dataset(source, geometry, cache=tmp_path).fingerprint
    before = (folder / "index.json").stat().st_mtime_ns
    build_cache(source, geometry, folder)                          # as if it had not seen the first
    assert (folder / "index.json").stat().st_mtime_ns == before
    assert list(tmp_path.iterdir()) == [folder]


def test_the_index_on_disk_is_plain_json(tmp_path):
    dataset = Dataset(read_synthetic(20, 16, 1), Geometry(16, 16), cache=tmp_path)
    index = json.loads((tmp_path / dataset.fingerprint / "index.json").read_text())
    assert [name for _, name, *_ in index["rows"]] == dataset.names


def test_a_file_that_changed_in_place_is_decoded_again(tmp_path):
    folder, geometry, cache = tmp_path / "set", Geometry(32, 32), tmp_path / "cache"
    (folder / "nv").mkdir(parents=True)
    for i in range(3):
        picture(i).save(folder / "nv" / f"{i}.bmp")
    before = Dataset(open_source(folder), geometry, cache=cache)
    pixels = before[np.arange(3)]
    ImageOps.invert(picture(1)).save(folder / "nv" / "1.bmp")      # as many bytes
    os.utime(folder / "nv" / "1.bmp", ns=(1, 1))
    after = Dataset(open_source(folder), geometry, cache=cache)
    changed = (after[np.arange(3)] != pixels).flatten(1).any(1)
    assert changed.tolist() == [False, True, False]
    assert after.fingerprint != before.fingerprint
    assert after.folder == before.folder


def change(folder, **parts):
    """Another value of the index, or none."""
    index = json.loads((folder / "index.json").read_text()) | parts
    kept = {name: value for name, value in index.items() if value is not None}
    (folder / "index.json").write_text(json.dumps(kept))


def flip(path, place):
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [
    lambda folder: (folder / "index.json").write_text("{"),
    lambda folder: (folder / "index.json").write_text("[]"),
    lambda folder: (folder / "images.npy").unlink(),
    lambda folder: (folder / "images.npy").write_bytes(b"cut"),
    lambda folder: (folder / "index.json").unlink(),
    lambda folder: change(folder, rows=[[10**6, "a", "nv", "a"]] * 20),
    lambda folder: change(folder, groups=["a"]),
    lambda folder: change(folder, content=None, failed=None),
    lambda folder: change(folder, retry=[10**6]),
    lambda folder: change(folder, retry=3),
    lambda folder: (folder / "images.npy").write_bytes(
        bytes((folder / "images.npy").stat().st_size)),
    lambda folder: flip(folder / "images.npy", -1),
    lambda folder: flip(folder / "images.npy", 2000),
], ids=["index cut", "another index", "no images", "images cut", "no index", "rows of no image",
        "groups of others", "parts are missing",
        "no such image", "no list", "images filled", "last bit", "a pixel's bit"])
def test_a_damaged_cache_is_built_again(tmp_path, damage):
    source = array_source(noise(20), [f"a{i}" for i in range(20)])
    before = Dataset(source, Geometry(24, 24), cache=tmp_path)
    pixels = before[np.arange(20)].clone()
    damage(before.folder)
    assert torch.equal(Dataset(source, Geometry(24, 24), cache=tmp_path)[np.arange(20)], pixels)
    assert len([*tmp_path.iterdir()]) == 1


def test_a_name_with_the_same_bytes_is_one_picture_and_none_if_its_classes_differ(tmp_path):
    for place, i in (("Train/nv/a", 0), ("Test/nv/a", 0), ("nv/c", 1), ("mel/c", 1),
                     ("mel/e", 2), ("nv/e", 3)):
        (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
        picture(i).save(tmp_path / f"{place}.png")
    dataset = Dataset(open_source(tmp_path), Geometry(32, 32), cache=tmp_path / "cache")
    assert dataset.names == ["Test/nv/a.png", "mel/e.png", "nv/e.png"]
    assert sorted(dataset.skipped) == [
        ("Train/nv/a.png", "a second copy, byte for byte, of an image"),
        ("mel/c.png", "one picture, labelled mel and nv"),
        ("nv/c.png", "one picture, labelled mel and nv")]


def test_the_same_bytes_under_other_names_are_images_of_one_lesion(tmp_path):
    for place, i in (("nv/a", 0), ("nv/b", 0), ("mel/d", 0), ("mel/e", 1)):
        (tmp_path / place).parent.mkdir(exist_ok=True, parents=True)
        picture(i, (40, 40)).resize((1, 1)).resize((40, 40)).save(tmp_path / f"{place}.png")
    dataset = Dataset(open_source(tmp_path), Geometry(32, 32), cache=tmp_path / "cache")
    assert dict(zip(dataset.names, dataset.lesions)) == {
        "mel/d.png": "mel/d.png", "nv/a.png": "mel/d.png", "nv/b.png": "mel/d.png",
        "mel/e.png": "mel/e.png"}


def failing_at(monkeypatch, *errors):
    """Have the decoding of a class folder's first images fail; -> names of images decoded."""
    decode, decoded = vqlib.data.cache.decode, []
    places = dict(zip("abcd", errors))

    def failing(place, *args):
        decoded.append(place.stem)
        if place.stem in places:
            raise places[place.stem]
        return decode(place, *args)

    monkeypatch.setattr(vqlib.data.cache, "decode", failing)
    return decoded


@pytest.fixture
def four(tmp_path):
    """A class folder of images a, b, c and d."""
    (tmp_path / "set" / "nv").mkdir(parents=True)
    for i, name in enumerate("abcd"):
        picture(i).save(tmp_path / "set" / "nv" / f"{name}.png")
    return tmp_path / "set"


@pytest.mark.parametrize("error", [
    OSError(errno.EMFILE, "Too many open files"), OSError(errno.EIO, "Input/output error"),
    PermissionError(errno.EACCES, "Permission denied"), MemoryError()], ids=repr)
def test_an_error_of_the_machine_leaves_an_image_out_until_it_has_passed(
        four, tmp_path, monkeypatch, error):
    with monkeypatch.context() as m:
        failing_at(m, error)
        dataset = Dataset(open_source(four), Geometry(32, 32), cache=tmp_path / "cache")
        assert [Path(name).stem for name in dataset.names] == ["b", "c", "d"]
        [(name, reason)] = dataset.skipped
        assert name == "nv/a.png"
        assert reason.startswith(type(error).__name__)
        decoded = failing_at(m, error)                           # it is there still: nothing is new
        again = Dataset(open_source(four), Geometry(32, 32), cache=tmp_path / "cache")
        assert (again.names, again.skipped) == (dataset.names, dataset.skipped)
        assert decoded == ["a"]
    whole = Dataset(open_source(four), Geometry(32, 32), cache=tmp_path / "cache")
    assert [Path(name).stem for name in whole.names] == ["a", "b", "c", "d"]
    assert whole.skipped == []
    monkeypatch.setattr(vqlib.data.cache, "decode", lambda *a: pytest.fail("decoded again"))
    assert len(Dataset(open_source(four), Geometry(32, 32), cache=tmp_path / "cache")) == 4


def test_an_error_of_the_image_leaves_it_out_for_good(four, tmp_path, monkeypatch):
    (four / "nv" / "a.png").write_bytes((four / "nv" / "a.png").read_bytes()[:200])
    (four / "nv" / "b.png").write_bytes(b"no picture")
    dataset = Dataset(open_source(four), Geometry(32, 32), cache=tmp_path / "cache")
    assert [Path(name).stem for name in dataset.names] == ["c", "d"]
    assert json.loads((dataset.folder / "index.json").read_text())["retry"] == []
    monkeypatch.setattr(vqlib.data.cache, "decode", lambda *a: pytest.fail("decoded again"))
    again = Dataset(open_source(four), Geometry(32, 32), cache=tmp_path / "cache")
    assert again.skipped == dataset.skipped


def test_a_file_that_goes_while_it_is_read_is_left_out_by_name(four, tmp_path, monkeypatch):
    digest_of = vqlib.data.cache.digest_of

    def gone(path):
        if path.stem == "a":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return digest_of(path)

    with monkeypatch.context() as m:
        m.setattr(vqlib.data.cache, "digest_of", gone)
        dataset = Dataset(open_source(four), Geometry(32, 32), cache=tmp_path / "cache")
    assert [name for name, _ in dataset.skipped] == ["nv/a.png"]
    assert len(dataset) == 3
    assert len(Dataset(open_source(four), Geometry(32, 32), cache=tmp_path / "cache")) == 4


def test_an_image_that_turns_out_to_be_broken_is_not_tried_for_ever(four, tmp_path, monkeypatch):
    for errors in ([OSError(errno.EMFILE, "Too many open files")], [ValueError("too small")]):
        with monkeypatch.context() as m:
            failing_at(m, *errors)
            dataset = Dataset(open_source(four), Geometry(32, 32), cache=tmp_path / "cache")
    assert dataset.skipped == [("nv/a.png", "ValueError: too small")]
    assert json.loads((dataset.folder / "index.json").read_text())["retry"] == []


def test_a_disk_without_room_is_told_before_it_is_full(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"decoding 20 images takes .* GB"):
        Dataset(array_source(noise(20), [*"abcdefghijklmnopqrst"]), Geometry(24, 24),
                cache=tmp_path / "cache")
    assert [*(tmp_path / "cache").iterdir()] == []


def test_what_a_killed_build_left_is_swept_by_the_next_and_one_that_goes_on_is_not(tmp_path):
    source = array_source(noise(20), [f"a{i}" for i in range(20)])
    for name in ("killed", "going on"):
        (tmp_path / f"{name}{SCRATCH}x" / "new").mkdir(parents=True)
        (tmp_path / f"{name}{SCRATCH}x" / LOCK).touch()
    with (tmp_path / f"going on{SCRATCH}x" / LOCK).open("r+b") as lock:
        try_lock(lock)
        folder = Dataset(source, Geometry(24, 24), cache=tmp_path).folder
    assert {*tmp_path.iterdir()} == {folder, tmp_path / f"going on{SCRATCH}x"}


def test_a_build_that_goes_on_is_not_swept(tmp_path, monkeypatch):
    first, second = (array_source(noise(20, seed=seed), [f"a{i}" for i in range(20)])
                     for seed in (1, 2))
    near_groups = vqlib.data.cache.near_groups

    def another_builds_too(*args):
        monkeypatch.setattr(vqlib.data.cache, "near_groups", near_groups)
        Dataset(second, Geometry(24, 24), cache=tmp_path)
        return near_groups(*args)

    monkeypatch.setattr(vqlib.data.cache, "near_groups", another_builds_too)
    assert len(Dataset(first, Geometry(24, 24), cache=tmp_path)) == 20
    assert len([*tmp_path.iterdir()]) == 2
    assert not [*tmp_path.glob(f"*{SCRATCH}*")]


def test_where_a_file_system_has_no_locks_no_build_is_swept(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    (tmp_path / f"a{SCRATCH}x").mkdir()
    (tmp_path / f"a{SCRATCH}x" / LOCK).touch()
    folder = Dataset(array_source(noise(20), [*"abcdefghijklmnopqrst"]), Geometry(24, 24),
                     cache=tmp_path).folder
    assert {*tmp_path.iterdir()} == {folder, tmp_path / f"a{SCRATCH}x"}


def test_a_disk_that_is_full_in_the_end_is_told_and_nothing_is_left(tmp_path, monkeypatch):
    """Others may fill it after it was asked: a write into a map would be a bus error."""
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vqlib.data.cache, "reserve", full)
    with pytest.raises(OSError, match=r"No space left on device: .* \$VQLIB_HOME"):
        Dataset(array_source(noise(20), [*"abcdefghijklmnopqrst"]), Geometry(24, 24),
                cache=tmp_path / "cache")
    assert [*(tmp_path / "cache").iterdir()] == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system has none")
def test_the_room_of_the_images_is_taken_before_they_are_there(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(10**6)
    assert (tmp_path / "a").stat().st_blocks * 512 < 10**6
    reserve(tmp_path / "a")
    assert (tmp_path / "a").stat().st_blocks * 512 >= 10**6


def test_a_place_that_cannot_be_written_is_told_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"\$VQLIB_HOME"):
        Dataset(array_source(noise(20), [*"abcdefghijklmnopqrst"]), Geometry(24, 24),
                cache=tmp_path / "file" / "cache")
