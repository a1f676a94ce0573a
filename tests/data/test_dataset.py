"""Laws of data sets: no lesion on two sides, labels beside their images, statistics of training."""
import numpy as np
import pytest
import torch
from PIL import Image
from small_data import array_source, noise, sides

import vqlib.data.cache
from vqlib.data.dataset import (
    SPLITS,
    Dataset,
    assert_disjoint,
    require_splits,
    split_notes,
    split_of,
    statistics,
)
from vqlib.data.decode import Geometry
from vqlib.data.sources import DataError, Source, open_source
from vqlib.metrics import REPORT_MEAN, REPORT_STD

SIDE = Geometry(24, 24)  # of the noise


def test_no_lesion_stands_in_two_splits_and_every_image_stands_in_one(dataset):
    assert sorted(i for s in SPLITS for i in dataset.splits[s]) == list(range(len(dataset)))
    where = {}
    for s in SPLITS:
        for i in dataset.splits[s]:
            assert where.setdefault(dataset.lesions[i], s) == s
    assert len(where) < len(dataset)                               # some have several images


def test_classes_of_one_image_each_are_doubted(tmp_path):
    array = noise(6)
    source = array_source(array, [f"l{i}" for i in range(6)], [f"report {i}" for i in range(6)])
    doubt = "each of the 6 images has a class of its own, such as report 0: are these names?"
    assert doubt in Dataset(source, SIDE, cache=tmp_path).notes
    source = array_source(array, [f"l{i}" for i in range(6)], [*"aabcde"])
    assert not any("of its own" in note for note in Dataset(source, SIDE, cache=tmp_path).notes)


def test_a_planted_leak_is_found_and_named():
    lesions = ["a", "b", "c", "b"]
    with pytest.raises(DataError, match="lesion b is in train and in test"):
        assert_disjoint({"train": [0, 1], "validation": [2], "test": [3]}, lesions)


def test_a_dataset_that_would_leak_cannot_be_opened(tmp_path, monkeypatch):
    def each_alone(images, lesions):
        return [f"g{i}" for i in range(len(lesions))]

    monkeypatch.setattr(vqlib.data.cache, "near_groups", each_alone)
    with pytest.raises(DataError, match="the split leaks"):
        Dataset(array_source(noise(60), ["same"] * 60), SIDE, cache=tmp_path)


def test_a_lesion_keeps_its_side_when_images_are_removed(tmp_path):
    whole = array_source(noise(80), [f"a{i // 2}" for i in range(80)])
    part = Source("test", "test", whole.records[::3], array=whole.array)
    before, after = (sides(Dataset(s, SIDE, cache=tmp_path)) for s in (whole, part))
    assert after == {name: before[name] for name in after}
    assert len(set(after.values())) == 3


def test_the_split_is_80_10_10_over_many_lesions():
    n = 20_000
    found = [split_of(f"HAM_{i:07d}") for i in range(n)]
    shares = {name: found.count(name) / n for name in SPLITS}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.01)


def test_labels_follow_their_images_past_a_skip(tmp_path):
    for i, label in enumerate(("mel", "nv", "bcc", "nv")):
        (tmp_path / label).mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (50 * i, 50 * i, 50 * i)).save(tmp_path / label / f"{i}.png")
    (tmp_path / "nv" / "1.png").write_bytes(b"")
    dataset = Dataset(open_source(tmp_path), Geometry(32, 32), cache=tmp_path / "cache")
    brightness = dataset[np.arange(3)].mean((1, 2, 3)).mul(255).round().tolist()
    found = sorted(zip(brightness, dataset.label_names))
    assert found == [(0, "mel"), (100, "bcc"), (150, "nv")]
    assert [dataset.classes[i] for i in dataset.labels] == dataset.label_names


def test_a_limit_takes_the_same_images_each_time_and_has_a_fingerprint_of_its_own(tmp_path):
    source = array_source(noise(60), [f"a{i // 2}" for i in range(60)])
    a, b, whole = (Dataset(source, SIDE, limit, cache=tmp_path) for limit in (25, 25, None))
    assert len(a) == 25
    assert a.names == b.names
    assert a.fingerprint == b.fingerprint != whole.fingerprint
    everything = sides(whole)
    assert sides(a) == {name: everything[name] for name in a.names}
    assert torch.equal(a[[3]], whole[[whole.names.index(a.names[3])]])


def test_a_larger_limit_keeps_the_images_of_a_smaller_one(tmp_path):
    source = array_source(noise(60), [f"a{i // 2}" for i in range(60)])
    small, large = (set(Dataset(source, SIDE, limit, cache=tmp_path).names) for limit in (20, 40))
    assert small < large


def test_the_total_variance_is_the_mean_variance_plus_the_variance_of_the_means(dataset):
    s = statistics(dataset)
    expected = np.square(s["std"]).mean() + np.var(s["mean"])
    assert s["variance"] == pytest.approx(expected, rel=1e-9)


def test_the_identity_gives_the_variance_that_the_report_published():
    mean, std = REPORT_MEAN, REPORT_STD
    assert round(np.square(std).mean() + np.var(mean), 4) == 0.0487


def test_statistics_are_those_of_all_training_pixels_and_of_no_others(dataset):
    x = dataset[dataset.splits["train"]].double()
    s = statistics(dataset)
    assert s["mean"] == pytest.approx(x.mean((0, 2, 3)).tolist(), rel=1e-9)
    assert s["std"] == pytest.approx(x.std((0, 2, 3), correction=0).tolist(), rel=1e-9)
    assert s["variance"] == pytest.approx(float(x.var(correction=0)), rel=1e-9)


def test_a_channel_that_never_changes_can_be_divided_by_and_one_colour_is_refused(tmp_path):
    x = noise(60)
    x[..., 1:] = 77
    lesions = [f"a{i}" for i in range(60)]
    s = statistics(Dataset(array_source(x, lesions), SIDE, cache=tmp_path))
    assert s["std"][1] == s["std"][2] == 1e-3
    assert s["std"][0] > 0.1
    flat = Dataset(array_source(np.full_like(x, 77), lesions), SIDE, cache=tmp_path)
    with pytest.raises(DataError, match="all pixels of the train split have the same colour"):
        statistics(flat)


def test_a_split_that_is_off_and_a_group_that_is_large_are_noted():
    groups = [f"g{i}" for i in range(400)]
    splits = {"train": np.arange(320), "validation": np.arange(40), "test": np.arange(40)}
    assert split_notes(splits, groups) == []
    assert split_notes(splits, [*groups[8:], *["g0"] * 8]) == []   # 2 %
    [note] = split_notes(splits, [*groups[9:], *["g0"] * 9])
    assert "g0 and what is near to it, holds 9 of 400 images (2%)" in note
    splits = {"train": np.arange(290), "validation": np.arange(70), "test": np.arange(40)}
    [note] = split_notes(splits, groups)
    assert "72 / 18 / 10 % of the images, not 80 / 10 / 10" in note


def test_too_few_images_are_refused_before_anything_is_trained(tmp_path):
    dataset = Dataset(array_source(noise(5), list("abcde")), SIDE, cache=tmp_path)
    empty = next(name for name in SPLITS if not len(dataset.splits[name]))
    with pytest.raises(DataError, match=f"no image falls into the {empty} split; 5 images are too"):
        require_splits(dataset, "all", *SPLITS)
    require_splits(dataset, "all")
