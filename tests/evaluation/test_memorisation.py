"""Laws of the search for memorised training images."""
import numpy as np
import pytest
import torch

from vqlib.data.augment import dihedral
from vqlib.evaluation.memorisation import (
    augmented_thumbnails,
    memorisation,
    nearest,
    thumbnail_bank,
)
from vqlib.evaluation.memorisation import share as memorised_share


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


def test_new_pictures_count_as_memorised_as_often_as_new_photographs():
    found = share(pictures(400, 2))
    low, high = found["ratio_95"]
    assert found["ratio"] == pytest.approx(found["share"] / 0.01)
    assert low < 1 < high
    assert low <= found["ratio"] <= high


def test_the_ratio_is_1_in_the_mean_over_sets_of_held_out_images():
    """As it must be for uniform distances, whatever the number of held-out images."""
    rng = np.random.default_rng(0)
    shares = [memorised_share(rng.random(2000), rng.random(150)) for _ in range(400)]
    assert np.mean(shares) == pytest.approx(0.01, abs=0.001)


def test_the_interval_excludes_1_where_half_of_the_samples_are_copies():
    samples = torch.cat([TRAIN[:50], pictures(50, 2)])
    assert share(samples)["ratio"] == pytest.approx(50, rel=0.1)
    assert share(samples)["ratio_95"][0] > 30


def test_the_interval_repeats_with_its_seed():
    assert share(pictures(100, 2)) == share(pictures(100, 2))


def test_fewer_than_a_hundred_held_out_images_have_no_first_percentile():
    samples, held_out = augmented_thumbnails(TRAIN[:2]), augmented_thumbnails(HELD_OUT[:99])
    found = memorisation(samples, held_out, TRAIN.flatten(1))
    assert [found[name] for name in ("share", "ratio", "ratio_95")] == [None] * 3
    assert found["median"] == pytest.approx(0, abs=1e-3)


def test_the_nearest_training_image_is_that_of_brute_force(dataset):
    x, rows = dataset[dataset.splits["test"]], dataset.splits["train"]
    bank = thumbnail_bank(dataset, rows)
    augmented = augmented_thumbnails(x)
    each = [(one[:, None] - bank).pow(2).mean(-1).sqrt() for one in augmented]
    expected = torch.stack(each).amin(0)                             # (m, N)
    distance, row = nearest(augmented, bank, batch=16)
    assert torch.allclose(distance, expected.amin(1), atol=1e-4)
    assert row.tolist() == expected.argmin(1).tolist()
