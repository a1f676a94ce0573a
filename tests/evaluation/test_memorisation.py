"""Laws of the search for memorised training images."""
import pytest
import torch

from vqlib.data.augment import dihedral
from vqlib.evaluation.memorisation import (
    augmented_thumbnails,
    memorisation,
    nearest,
    thumbnail_bank,
)


def pictures(n, seed, side=8):
    """(n, 3, 32, 32) smooth random images."""
    cells = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(cells, (32, 32), mode="bicubic").clamp(0, 1)


TRAIN, HELD_OUT = pictures(100, 0), pictures(200, 1)


def share(samples):
    bank = TRAIN.flatten(1)
    return memorisation(augmented_thumbnails(samples), augmented_thumbnails(HELD_OUT), bank)


@pytest.mark.parametrize("k", range(8))
def test_training_images_are_memorised_in_all_eight_augmentations(k):
    assert share(dihedral(TRAIN[:20], k))["share"] == 1


def test_a_copy_is_found_where_it_came_from():
    turned = dihedral(TRAIN[[57, 3]], 5)
    distance, row = nearest(augmented_thumbnails(turned), TRAIN.flatten(1), batch=10)
    assert row.tolist() == [57, 3]
    assert distance.max() < 1e-3


def test_one_in_a_hundred_held_out_images_counts_as_memorised():
    assert share(HELD_OUT)["share"] == pytest.approx(0.01, abs=0.005)
    assert share(pictures(400, 2))["share"] < 0.04


def test_the_reference_is_about_one_in_a_hundred():
    assert share(HELD_OUT)["reference"] < 0.05


def test_a_single_held_out_image_has_no_reference():
    samples, held_out = augmented_thumbnails(TRAIN[:2]), augmented_thumbnails(HELD_OUT[:1])
    assert memorisation(samples, held_out, TRAIN.flatten(1))["reference"] is None


def test_the_nearest_training_image_is_that_of_brute_force(dataset):
    x, rows = dataset[dataset.splits["test"]], dataset.splits["train"]
    bank = thumbnail_bank(dataset, rows)
    augmented = augmented_thumbnails(x)
    each = [(one[:, None] - bank).pow(2).mean(-1).sqrt() for one in augmented]
    expected = torch.stack(each).amin(0)                             # (m, N)
    distance, row = nearest(augmented, bank, batch=16)
    assert torch.allclose(distance, expected.amin(1), atol=1e-4)
    assert row.tolist() == expected.argmin(1).tolist()
