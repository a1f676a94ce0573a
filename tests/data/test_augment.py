"""Laws of random augmentation: exact flips and quarter turns, rotations without black corners."""
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from vqlib.data.augment import (
    Augment,
    augment,
    centre_crop,
    dihedral,
    dihedral_of_each,
    gathered,
    rotate_crop_flip,
    to_unit,
)
from vqlib.data.decode import Geometry

OFF = Augment(flip=0.0, rotate=0.0)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def squares(n, side, seed=0):                                      # -> (n, 3, S, S) in [0, 1]
    return torch.rand(n, 3, side, side, generator=rng(seed))


@pytest.mark.parametrize("side", [16, 20])
def test_all_off_is_the_centre_crop(side):
    x = squares(4, side)
    assert torch.equal(augment(x, OFF, 16, rng()), centre_crop(x, 16))


def test_the_centre_crop_takes_equally_much_off_each_edge():
    x = torch.arange(20.0).expand(1, 3, 20, 20)
    assert centre_crop(x, 16)[0, 0, 0].tolist() == list(range(2, 18))
    assert centre_crop(x.mT, 16)[0, 0, :, 0].tolist() == list(range(2, 18))


@pytest.mark.parametrize("config", [OFF, Augment(), Augment(dihedral=True, rotate=0.0)])
def test_bytes_and_floats_in_0_to_1_give_the_same(config):
    x = (squares(8, 20) * 255).byte()
    from_bytes = augment(x, config, 16, rng())
    from_floats = augment(x.float() / 255, config, 16, rng())
    assert torch.allclose(from_bytes, from_floats, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_flips_come_at_the_asked_share_and_are_exact(share):
    x = squares(1, 8).expand(3000, 3, 8, 8)
    y = augment(x, Augment(flip=share, rotate=0.0), 8, rng())
    same, flipped = (y == x).all((1, 2, 3)), (y == x.flip(-1)).all((1, 2, 3))
    assert (same | flipped).all()
    assert float(flipped.float().mean()) == pytest.approx(share, abs=0.03)


def test_a_rotation_by_nothing_is_the_identity():
    x = squares(4, 20)
    y = augment(x, Augment(flip=0.0, rotate=1e-9), 16, rng())
    assert (y - centre_crop(x, 16)).abs().max() < 1e-4


def ramp(side):                                                    # -> (2, 3, S, S)
    """Two images: brightness = x, brightness = y, from the centre."""
    line = (torch.arange(side) - (side - 1) / 2).expand(side, side)
    return torch.stack([line, line.T])[:, None].expand(2, 3, side, side)


def rotated_ramps(config, side, crop, n=200):
    """Angles (n,) of ramps after augmentation, and how far they are from a plane at most."""
    x = ramp(side)[:1].expand(n, 3, side, side)
    y = augment(x, config, crop, rng())[:, 0].double().flatten(1)[..., None]      # (n, C*C, 1)
    plane = ramp(crop)[:, 0].flatten(1).T.double()                                # (C*C, 2)
    slopes = torch.linalg.lstsq(plane.expand(n, -1, -1), y).solution              # (n, 2, 1)
    angles = torch.atan2(slopes[:, 1, 0], slopes[:, 0, 0])
    return angles, (plane @ slopes - y).abs().max()


@pytest.mark.parametrize("crop", [32, 64, 128])
def test_raw_crops_have_a_margin_that_gives_every_rotation_real_corners(crop):
    side = Geometry(crop, None).side
    _, error = rotated_ramps(Augment(flip=0.0), side, crop, n=50)
    assert error < 1e-2                                            # reflection would fold the plane
    _, error = rotated_ramps(Augment(flip=0.0), crop, crop, n=50)
    assert error > 1                                               # as it does without the margin


def test_a_rotated_square_without_a_margin_has_no_black_corners():
    assert augment(torch.ones(50, 3, 16, 16), Augment(), 16, rng()).min() > 0.999


def test_rotations_fill_the_asked_range_and_do_not_leave_it():
    side = Geometry(32, None).side
    angles, _ = rotated_ramps(Augment(flip=0.0, rotate=10.0), side, 32)
    degrees = angles.abs() * 180 / math.pi
    assert 9 < degrees.max() < 10.001
    assert degrees.mean() == pytest.approx(5, abs=0.5)


def test_the_same_rng_gives_the_same_augmentation():
    x = squares(8, 20)
    a, b, c = (augment(x, Augment(), 16, rng(seed)) for seed in (3, 3, 4))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_the_eight_flips_and_turns_are_distinct_and_one_of_them_inverts_each():
    x = squares(1, 6)[0]
    eight = [dihedral(x, k) for k in range(8)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(eight, 2))
    assert all(sum(torch.equal(dihedral(y, k), x) for k in range(8)) == 1 for y in eight)
    assert torch.equal(eight[0], x)
    assert torch.equal(eight[4], x.flip(-1))


def test_a_gpu_turns_all_images_at_once_to_what_a_cpu_turns_one_by_one():
    x, which = (squares(16, 6) * 255).byte(), torch.arange(16) % 8
    assert torch.equal(to_unit(gathered(x, which)), dihedral_of_each(x, which))


def test_the_eight_flips_and_turns_are_drawn_equally_often():
    x = squares(1, 6).expand(4000, 3, 6, 6)
    y = augment(x, Augment(rotate=0.0, dihedral=True), 6, rng())
    shares = [float((y == dihedral(x[0], k)).all((1, 2, 3)).float().mean()) for k in range(8)]
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([1 / 8] * 8, abs=0.02)


def test_one_sampling_is_rotating_then_cropping_then_flipping():
    x = squares(4, 12)
    angles, flips = torch.tensor([0.1, -0.2, 0.3, 0.0]), torch.tensor([True, False, True, False])
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros(4)
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(matrix, x.shape, align_corners=False)
    rotated = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    cropped = centre_crop(rotated, 8)
    expected = torch.where(flips[:, None, None, None], cropped.flip(-1), cropped)
    assert torch.allclose(rotate_crop_flip(x, angles, flips, 8), expected, atol=1e-5)
