"""Laws of the cache: its fingerprint knows every change, and it is whole or not there."""
import json

import numpy as np
import pytest
import torch
from small_data import array_source, noise

import vqlib.data.cache
from vqlib.data.cache import build_cache, fingerprint
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
