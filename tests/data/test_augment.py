"""Laws of random views and of the order of batches."""
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vqlib.data.augment import Augment, augment, centre_crop, dihedral, turn
from vqlib.data.batches import batches, order
from vqlib.data.dataset import Geometry

OFF = Augment(flip=0.0, rotate=0.0)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def squares(n, side, seed=0):
    return torch.rand(n, 3, side, side, generator=rng(seed))


@pytest.mark.parametrize("side", [16, 20])
def test_all_off_is_the_centre_crop(side):
    x = squares(4, side)
    assert torch.equal(augment(x, OFF, 16, rng()), centre_crop(x, 16))


def test_the_centre_crop_takes_equally_much_off_each_edge():
    x = torch.arange(20.0).expand(1, 3, 20, 20)
    assert centre_crop(x, 16)[0, 0, 0].tolist() == list(range(2, 18))
    assert centre_crop(x.mT, 16)[0, 0, :, 0].tolist() == list(range(2, 18))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_flips_come_at_the_asked_share_and_are_exact(share):
    x = squares(1, 8).expand(3000, 3, 8, 8)
    y = augment(x, Augment(flip=share, rotate=0.0), 8, rng())
    same, flipped = (y == x).all((1, 2, 3)), (y == x.flip(-1)).all((1, 2, 3))
    assert (same | flipped).all()
    assert float(flipped.float().mean()) == pytest.approx(share, abs=0.03)


def test_a_rotation_by_nothing_is_the_identity():
    x = squares(4, 20)
    assert (augment(x, Augment(flip=0.0, rotate=1e-9), 16, rng()) - centre_crop(x, 16)).abs().max() < 1e-4


def ramp(side):                                                       # (2, 3, S, S): brightness = x, brightness = y
    line = (torch.arange(side) - (side - 1) / 2).expand(side, side)
    return torch.stack([line, line.T])[:, None].expand(2, 3, side, side)


def turned(cfg, side, crop, n=200):
    """Angles (n,) and the largest deviation of the turned ramps from a plane."""
    y = augment(ramp(side)[:1].expand(n, 3, side, side), cfg, crop, rng())[:, 0].double()
    plane = ramp(crop)[:, 0].flatten(1).T.double()                   # (C*C, 2)
    slopes = torch.linalg.lstsq(plane.expand(n, -1, -1), y.flatten(1)[..., None]).solution   # (n, 2, 1)
    return torch.atan2(slopes[:, 1, 0], slopes[:, 0, 0]), (plane @ slopes - y.flatten(1)[..., None]).abs().max()


@pytest.mark.parametrize("crop", [32, 64, 128])
def test_raw_crops_have_a_margin_that_gives_every_rotation_real_corners(crop):
    _, error = turned(Augment(flip=0.0), Geometry(crop, None).side, crop, n=50)
    assert error < 1e-2                                               # a reflected corner would fold the plane
    assert turned(Augment(flip=0.0), crop, crop, n=50)[1] > 1         # as it does without the margin


def test_a_rotated_square_without_a_margin_has_no_black_corners():
    assert augment(torch.ones(50, 3, 16, 16), Augment(), 16, rng()).min() > 0.999


def test_rotations_fill_the_asked_range_and_do_not_leave_it():
    angles = turned(Augment(flip=0.0, rotate=10.0), Geometry(32, None).side, 32)[0].abs() * 180 / math.pi
    assert 9 < angles.max() < 10.001
    assert angles.mean() == pytest.approx(5, abs=0.5)


def test_the_same_dice_give_the_same_views():
    x = squares(8, 20)
    a, b, c = (augment(x, Augment(), 16, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_eight_views_are_distinct_and_each_is_undone_by_one_of_them():
    x = squares(1, 6)[0]
    views = [dihedral(x, k) for k in range(8)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(views, 2))
    assert all(sum(torch.equal(dihedral(v, k), x) for k in range(8)) == 1 for v in views)
    assert torch.equal(views[0], x)
    assert torch.equal(views[4], x.flip(-1))


def test_dihedral_views_are_drawn_equally_often():
    x = squares(1, 6).expand(4000, 3, 6, 6)
    y = augment(x, Augment(rotate=0.0, dihedral=True), 6, rng())
    shares = [float((y == dihedral(x[0], k)).all((1, 2, 3)).float().mean()) for k in range(8)]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([1 / 8] * 8, abs=0.02)


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (10, 10), (7, 3), (5, 8)])
def test_every_image_is_seen_once_per_epoch(n, batch):
    picks = np.concatenate([p for _, p in itertools.islice(order(n, batch, seed=0), 3 * n)])
    epochs = picks[: len(picks) // n * n].reshape(-1, n)
    assert (np.sort(epochs, 1) == np.arange(n)).all()
    assert len(np.unique(epochs, axis=0)) > 1                         # and each epoch is shuffled anew


def test_weights_decide_how_often_an_image_is_drawn_and_a_step_is_the_same_wherever_one_starts():
    weights = np.array([1.0, 1.0, 2.0, 0.0])
    picks = [p for _, p in itertools.islice(order(4, 50, 0, weights=weights), 400)]
    assert np.bincount(np.concatenate(picks), minlength=4) / 20_000 == pytest.approx(weights / 4, abs=0.02)
    assert (next(order(4, 50, 0, 7, weights))[1] == picks[7]).all()


def test_another_seed_gives_another_order():
    a, b = (next(order(50, 50, seed))[1] for seed in (0, 1))
    assert (a != b).any()


@pytest.mark.parametrize("start", [1, 7, 23])
def test_a_batch_is_the_same_wherever_one_starts(dataset, start):
    run = dict(batch=32, seed=5, cfg=Augment())
    whole = list(itertools.islice(batches(dataset, "train", **run), start + 3))[start:]
    later = list(itertools.islice(batches(dataset, "train", **run, start=start), 3))
    assert all(torch.equal(a, b) for a, b in zip(whole, later, strict=True))


def test_an_image_is_seen_in_another_view_each_time():
    one = SimpleNamespace(splits={"train": np.array([0])}, geometry=Geometry(16, None), squares=lambda rows: squares(1, 20))
    seen = torch.cat(list(itertools.islice(batches(one, "train", 1, 0, Augment()), 20)))
    assert len(torch.unique(seen, dim=0)) == 20


def test_batches_come_from_their_split_only(dataset):
    rows = dataset.splits["validation"]
    seen = torch.cat(list(itertools.islice(batches(dataset, "validation", len(rows), 0, OFF), 3)))
    assert torch.equal(torch.unique(seen, dim=0), torch.unique(dataset[rows], dim=0))


def test_turning_and_mirroring_in_one_sampling_is_rotating_then_cropping_then_flipping():
    x = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    angle, flips = torch.tensor([0.1, -0.2, 0.3, 0.0]), torch.tensor([True, False, True, False])
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(4)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, x.shape, align_corners=False)
    plain = centre_crop(F.grid_sample(x, grid, padding_mode="reflection", align_corners=False), 8)
    plain = torch.where(flips[:, None, None, None], plain.flip(-1), plain)
    assert torch.allclose(turn(x, angle, flips, 8), plain, atol=1e-5)
