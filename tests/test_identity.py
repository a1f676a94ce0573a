"""Laws of origins: a digest is of the weights, and a filter knows the pictures that it has seen."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY, picture

from vqlib.backend.files import FileError
from vqlib.checkpoint import load_model, save_model
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import open_source, read_synthetic
from vqlib.identity import (
    assert_learnt_from,
    difference,
    known_pictures,
    known_records,
    picture_filter,
    plain,
    unpacked,
    weights_digest,
)
from vqlib.vqvae import VQVAE


def test_a_digest_is_of_the_weights_wherever_they_are(vqvae, tmp_path):
    save_model(tmp_path / "a.safetensors", vqvae, note="another file")
    assert weights_digest(load_model(tmp_path / "a.safetensors")[0]) == weights_digest(vqvae)
    other = VQVAE(TINY)
    other.load_state_dict(vqvae.state_dict())
    assert weights_digest(other) == weights_digest(vqvae)
    other.quantizer.codebook[3, 2] += 1e-6
    assert weights_digest(other) != weights_digest(vqvae)


@pytest.mark.parametrize(("was", "now", "said"), [
    ({"a": 1}, {"a": 1}, ""), ({"a": (1, 2)}, {"a": (1, 2)}, ""), ({"a": None}, {}, ""),
    ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, "a.c was 2, now 3"),
    ({}, {"a": 1}, "a was not said, now 1"), ({"a": 1}, {}, "a was 1, now not said"),
    ({"a": 64 * "0"}, {"a": 64 * "f"}, "a was 00000000, now ffffffff"),
    (dict.fromkeys("abcde", 1), dict.fromkeys("abcde", 2),
     "a was 1, now 2; b was 1, now 2; c was 1, now 2 and 2 more")])
def test_a_difference_is_said_in_one_line(was, now, said):
    assert difference(was, now) == said


def test_a_model_belongs_to_the_vqvae_that_it_learnt_from(vqvae, gpt):
    gpt.origin = {"identity": {"vqvae": weights_digest(vqvae)}}
    assert_learnt_from(gpt, vqvae)
    with pytest.raises(ValueError, match=r"the GPT learnt from another VQ-VAE \(weights"):
        assert_learnt_from(gpt, VQVAE(TINY))
    del gpt.origin                                               # an older file does not say
    assert_learnt_from(gpt, VQVAE(TINY))


def test_a_filter_knows_its_pictures_and_no_others(dataset):
    train, held_out = dataset.splits["train"], dataset.splits["validation"]
    pictures = json.loads(json.dumps(picture_filter(dataset, train)))
    assert pictures["images"] == len(train)
    assert known_pictures(pictures, dataset, train).all()
    assert not known_pictures(pictures, dataset, held_out).any()
    assert known_records(pictures, dataset, train) == 1
    assert known_records(pictures, dataset, held_out) == 0
    assert known_pictures(pictures, dataset, train[:0]).tolist() == []


def test_pictures_are_known_under_another_name(ham, tmp_path):
    root, _ = ham
    data = Dataset(open_source(root), Geometry(16, 16), cache=tmp_path / "cache")
    pictures = picture_filter(data, data.splits["all"])
    for i, path in enumerate(sorted(root.rglob("*.jpg"))[:9]):
        place = tmp_path / "mine" / ("naevus", "melanoma")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"holiday {i}.jpg").write_bytes(path.read_bytes())
    picture(99).save(tmp_path / "mine" / "naevus" / "new.jpg")
    mine = Dataset(open_source(tmp_path / "mine"), Geometry(16, 16), cache=tmp_path / "cache")
    known = known_pictures(pictures, mine, mine.splits["all"])
    assert {name for name, k in zip(mine.names, known) if not k} == {"naevus/new.jpg"}


def test_pictures_are_known_in_another_size(dataset, tmp_path):
    larger = Dataset(read_synthetic(90, 32, seed=0), Geometry(32, 32), cache=tmp_path)
    pictures, rows = picture_filter(dataset, dataset.splits["all"]), larger.splits["all"]
    assert known_pictures(pictures, larger, rows).all()


def test_a_filter_takes_8_bytes_a_picture_and_gives_none_back(dataset):
    pictures = picture_filter(dataset, dataset.splits["all"])
    assert sum(len(unpacked(pictures[name])) for name in ("records", "contents")) == 180
    assert not any(name in json.dumps(pictures) for name in dataset.names)


@pytest.mark.parametrize("text", ["???", "AAAAA", 3, "AAA="])
def test_a_damaged_filter_is_refused(dataset, text):
    pictures = picture_filter(dataset, np.arange(3)) | {"records": text}
    with pytest.raises(FileError, match="filter of training pictures"):
        known_pictures(pictures, dataset, np.arange(3))


def test_settings_are_compared_as_files_have_them():
    assert plain({"a": (1, 2), 3: torch.tensor(1).item()}) == {"a": [1, 2], "3": 1}
    assert replace(TINY) == TINY
