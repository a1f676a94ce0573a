"""Laws of the segmenter and of what is measured on its masks."""
import numpy as np
import pytest
import torch

from vqlib.evaluation.layout_stats import (
    S,
    compare,
    contrast,
    describe,
    segment,
    wasserstein,
    whole,
)

SKIN, LESION = (torch.tensor(v).view(3, 1, 1) for v in ((0.8, 0.6, 0.55), (0.35, 0.2, 0.15)))


def disc(radius=0.2, row=0.0, column=0.0, side=128):
    """(1, 3, side, side) dark disc on noisy skin; radius and centre in sides, from the middle."""
    r, c = (np.mgrid[:side, :side] + 0.5) / side - 0.5
    inside = torch.from_numpy(np.hypot(r - row, c - column) < radius).float()
    image = SKIN * (1 - inside) + LESION * inside
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return (image + 0.02 * noise).clamp(0, 1)[None]


@pytest.mark.parametrize("radius", [0.1, 0.2, 0.35])
def test_a_discs_area_is_found(radius):
    assert describe(disc(radius))["area"][0] == pytest.approx(np.pi * radius**2, rel=0.2)


def test_a_discs_centroid_offset_is_found():
    offset = describe(disc(0.15, row=0.2, column=-0.1))["centroid_offset"][0]
    assert offset == pytest.approx(np.hypot(0.2, 0.1), abs=0.02)


def test_a_mask_lies_on_the_disc():
    r, c = (np.mgrid[:S, :S] + 0.5) / S - 0.5
    truth = np.hypot(r + 0.1, c - 0.1) < 0.2
    found = segment(disc(0.2, -0.1, 0.1))[0]
    assert (truth & found).sum() / (truth | found).sum() > 0.85


def test_hairs_do_not_stand_out():
    x = disc(0.15)
    x[..., 24:28], x[..., 100:104, :] = 0.1, 0.1
    d = contrast(x)[0]
    assert d[12:14].max() < 10 < 30 < d[31, 31]
    assert d[:, 50:52].max() < 10


def test_a_ring_is_filled():
    x = disc(0.25)
    hole = disc(0.14)[0, 0] < 0.6
    x[0, :, hole] = torch.tensor([[0.8], [0.6], [0.55]])
    assert describe(x)["area"][0] == pytest.approx(np.pi * 0.25**2, rel=0.2)


def test_only_a_lesion_at_the_edge_touches_it():
    assert describe(disc(0.2))["border_contact"][0] == 0
    assert 0.05 < describe(disc(0.25, column=0.4))["border_contact"][0] < 0.4


def test_a_lesion_is_whole_if_it_lies_in_the_middle_with_skin_around():
    assert whole(describe(torch.cat([disc(0.1), disc(0.2), disc(0.3, 0.1)]))) == 1
    off, cut, bare = disc(0.1, 0.3), disc(0.35, column=0.24), disc(0.0)
    assert whole(describe(torch.cat([off, cut, bare]))) == 0
    assert whole(describe(torch.cat([disc(), bare]))) == 0.5


def test_darkness_falls_from_the_centre_of_a_disc():
    darkness = describe(disc(0.2))["radial_darkness"][0]
    assert darkness[0] > 0.7 > 0.4 > darkness[-1]
    assert (np.diff(darkness) < 0.02).all()


def test_a_mirror_image_correlates_with_itself_only():
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    even = (x + x.flip(-1)) / 2
    d = describe(even)
    assert d["left_right"][0] == pytest.approx(1, abs=1e-4)
    assert abs(d["up_down"][0]) < 0.1


def test_a_flat_image_has_no_lesion():
    d = describe(torch.full((2, 3, 32, 32), 0.5))
    for name in ("area", "centroid_offset", "left_right"):
        assert d[name].tolist() == [0, 0]


def test_a_set_is_0_from_itself_in_any_order():
    d = describe(torch.cat([disc(r) for r in (0.1, 0.2, 0.3)]))
    assert set(wasserstein(d, {k: v[::-1] for k, v in d.items()}).values()) == {0.0}


def test_distances_are_in_the_statistics_own_units():
    near, far = (
        {"centroid_offset": np.full(4, v), "radial_darkness": np.full((4, 8), v)}
        for v in (0.1, 0.3)
    )
    assert wasserstein(near, far) == {
        "centroid_offset": pytest.approx(0.2),
        "radial_darkness": pytest.approx(0.2),
    }


def test_training_images_as_samples_are_as_far_as_the_reference():
    train = describe(torch.cat([disc(0.1), disc(0.2)]))
    held_out = describe(torch.cat([disc(0.2), disc(0.3, 0.1)]))
    assert compare([train], held_out, train)["ratio"]["area"] == 1
    assert "ratio" not in compare([train], held_out, None)


def test_the_reference_is_the_mean_over_many_sets_of_as_many_training_images():
    rng = np.random.default_rng(0)
    train, held_out, samples = ({"area": rng.normal(size=n)} for n in (4000, 100, 100))
    others = [{"area": rng.normal(size=100)} for _ in range(200)]
    mean = np.mean([wasserstein(other, held_out)["area"] for other in others])
    found = compare([samples], held_out, train)
    assert found["reference"]["area"] == pytest.approx(mean, rel=0.15)
    least, largest = found["reference_spread"]["area"]
    assert least < 0.8 * mean < 1.2 * mean < largest
    assert found == compare([samples], held_out, train)


def test_several_sets_of_samples_are_as_far_as_their_mean_says():
    rng = np.random.default_rng(0)
    held_out, near, far = ({"area": rng.normal(loc, size=200)} for loc in (0, 0.5, 2))
    found = compare([near, far], held_out, held_out)
    apart = [wasserstein(part, held_out)["area"] for part in (near, far)]
    assert found["distance"]["area"] == pytest.approx(np.mean(apart))
    assert found["distance_spread"]["area"] == apart
    assert found["sets"] == 2
