"""Laws of the search for copies."""
import pytest
import torch

from vqlib.data.augment import dihedral
from vqlib.evaluation.memorisation import memorisation, nearest, pixel_views, thumbnail_bank


def pictures(n, seed, side=8):
    """(n, 3, 32, 32) smooth random images."""
    cells = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(cells, (32, 32), mode="bicubic").clamp(0, 1)


TRAIN, HELD_OUT = pictures(100, 0), pictures(200, 1)


def share(samples):
    return memorisation(pixel_views(samples), pixel_views(HELD_OUT), TRAIN.flatten(1))


@pytest.mark.parametrize("k", range(8))
def test_training_images_are_copies_in_all_eight_views(k):
    assert share(dihedral(TRAIN[:20], k))["share"] == 1


def test_a_copy_is_found_where_it_came_from():
    distance, row = nearest(pixel_views(dihedral(TRAIN[[57, 3]], 5)), TRAIN.flatten(1), batch=10)
    assert row.tolist() == [57, 3]
    assert distance.max() < 1e-3


def test_one_in_a_hundred_held_out_images_counts_as_a_copy():
    assert share(HELD_OUT)["share"] == pytest.approx(0.01, abs=0.005)
    assert share(pictures(400, 2))["share"] < 0.04


def test_the_floor_is_about_one_in_a_hundred():
    assert share(HELD_OUT)["floor"] < 0.05


def test_a_single_held_out_image_has_no_floor():
    assert memorisation(pixel_views(TRAIN[:2]), pixel_views(HELD_OUT[:1]), TRAIN.flatten(1))["floor"] is None


def test_the_nearest_training_image_is_that_of_brute_force(dataset):
    x, rows = dataset[dataset.splits["test"]], dataset.splits["train"]
    bank = thumbnail_bank(dataset, rows)
    expected = torch.stack([(v[:, None] - bank).pow(2).mean(-1).sqrt() for v in pixel_views(x)]).amin(0)      # (m, n)
    distance, row = nearest(pixel_views(x), bank, batch=16)
    assert torch.allclose(distance, expected.amin(1), atol=1e-4)
    assert row.tolist() == expected.argmin(1).tolist()
