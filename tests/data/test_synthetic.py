"""Laws of procedural dermoscopy: reproducible bytes, true factors, classes one can tell apart."""
import numpy as np
import pytest

from vqlib.data.synthetic import CLASSES, TRAITS, draw_factors, render, synthetic

OF_THE_IMAGE = {"image_seed", "cx", "cy", "angle", "light", "hairs", "bubbles", "vignette"}


@pytest.fixture(scope="module")
def drawn():
    return synthetic(300, 32, seed=0)                             # (300, 3, 32, 32), Factors


def nearest_class_mean(train_x, train_y, x):                       # (n, d), (n,), (m, d) -> (m,)
    means = np.stack([train_x[train_y == c].mean(axis=0) for c in range(len(CLASSES))])
    return ((x[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)


def balanced_accuracy(features, labels):                           # (n, d), (n,)
    """Of the nearest class mean: the first half to learn from, the second to score."""
    features = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
    half = len(labels) // 2
    guess = nearest_class_mean(features[:half], labels[:half], features[half:])
    truth = labels[half:]
    return np.mean([(guess[truth == c] == c).mean() for c in np.unique(truth)])


def distance_from_centre(factors, side):                           # -> (n, S, S) in image sides
    line = (np.arange(side) + 0.5) / side - 0.5
    x, y = line - factors.cx[:, None, None], line[:, None] - factors.cy[:, None, None]
    return np.hypot(x, y)


def rings(images, factors):                                        # (n, 3, S, S) -> (n, 24)
    """Means and deviations of the colours in 4 rings around the true centre."""
    distance = distance_from_centre(factors, images.shape[-1])
    means, deviations = [], []
    for low, high in ((0, 0.08), (0.08, 0.16), (0.16, 0.26), (0.26, 0.5)):
        ring = ((distance >= low) & (distance < high))[:, None]    # (n, 1, S, S)
        pixels = ring.sum(axis=(2, 3))                             # (n, 1)
        mean = (images * ring).sum(axis=(2, 3)) / pixels           # (n, 3)
        squares = (images - mean[:, :, None, None]) ** 2
        means.append(mean)
        deviations.append(np.sqrt((squares * ring).sum(axis=(2, 3)) / pixels))
    return np.concatenate(means + deviations, axis=1)


def test_images_are_bytes_of_the_asked_shape_and_use_their_range():
    images, factors = synthetic(40, 48, seed=1)
    assert images.shape == (40, 3, 48, 48)
    assert images.dtype == np.uint8
    assert len(factors) == 40
    assert images.min() < 40
    assert images.max() > 220


def test_one_seed_gives_the_same_bytes_and_another_seed_others():
    a, b, c = (synthetic(20, 32, seed)[0] for seed in (5, 5, 6))
    assert a.tobytes() == b.tobytes()
    assert (a != c).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("size", [33, 64])
def test_any_subset_in_any_order_renders_to_the_bytes_of_the_whole(size):
    factors = draw_factors(90, seed=2)                            # more than one chunk of 64
    whole, rows = render(factors, size), np.array([89, 3, 64, 63, 3])
    assert (render(factors, size, rows) == whole[rows]).all()
    assert (render(factors[60:70], size) == whole[60:70]).all()
    assert (render(factors, size, slice(7, 8)) == whole[7:8]).all()


def test_a_picture_is_the_same_at_two_sizes():
    factors = draw_factors(12, seed=3)
    large, small = render(factors, 128) / 255, render(factors, 32) / 255
    shrunk = large.reshape(12, 3, 32, 4, 32, 4).mean(axis=(3, 5))
    assert np.abs(shrunk - small).mean() < 0.02                   # range [0, 1]


def test_every_class_is_drawn_and_nevi_lead(drawn):
    counts = np.bincount(drawn[1].label, minlength=len(CLASSES))
    assert counts.min() >= 5, counts
    assert CLASSES[counts.argmax()] == "nv"
    assert 0.3 < counts.max() / 300 < 0.5


def test_images_of_one_lesion_share_its_traits_and_differ_in_the_rest(drawn):
    images, f = drawn
    _, first, which, n_images = np.unique(
        f.lesion, return_index=True, return_inverse=True, return_counts=True
    )
    assert 0.15 < (n_images > 1).mean() < 0.35                     # a quarter is seen again
    for name in set(f.dtype.names) - OF_THE_IMAGE:
        values = f[name]
        assert (values == values[first[which]]).all(), name
    again = np.flatnonzero(first[which] != np.arange(300))
    assert (f.angle[again] != f.angle[first[which]][again]).all()
    assert (images[again] != images[first[which]][again]).any(axis=(1, 2, 3)).all()


def test_a_lesion_is_darker_than_the_skin_around_it(drawn):
    images, f = drawn
    distance = distance_from_centre(f, 32) / f.radius[:, None, None]    # in radii
    grey, inside, around = images.mean(axis=1), distance < 0.8, (distance > 1.3) & (distance < 2)
    lesion = (grey * inside).sum((1, 2)) / inside.sum((1, 2))           # (n,)
    skin = (grey * around).sum((1, 2)) / around.sum((1, 2)).clip(1)
    darker, seen = lesion < skin, around.any(axis=(1, 2))
    assert seen.mean() > 0.9
    assert darker[seen].mean() > 0.9, darker[seen].mean()


def test_classes_can_be_told_apart_from_pixels_and_better_from_factors(drawn):
    images, f = drawn
    from_pixels = balanced_accuracy(rings(images / 255, f), f.label)
    traits = np.stack([f[name] for name in TRAITS], axis=1)
    from_factors = balanced_accuracy(traits, f.label)
    assert from_pixels > 2 / len(CLASSES), from_pixels            # chance is 1/7
    assert from_factors > max(0.8, from_pixels), (from_factors, from_pixels)


def test_colours_and_brightness_are_those_of_dermoscopy(drawn):
    x = drawn[0] / 255
    mean, std = x.mean(axis=(0, 2, 3)), x.std(axis=(0, 2, 3))
    assert np.allclose(mean, (0.76, 0.55, 0.57), atol=0.04)        # as measured on HAM10000
    assert ((std > 0.11) & (std < 0.18)).all()


@pytest.mark.parametrize("n", [0, -3, 2.5])
def test_a_set_without_images_is_refused(n):
    with pytest.raises(ValueError, match="number of images"):
        synthetic(n, 32, seed=0)


@pytest.mark.parametrize("size", [0, 8, 40.5])
def test_a_senseless_size_is_refused(size):
    with pytest.raises(ValueError, match="image side"):
        synthetic(2, size, seed=0)
