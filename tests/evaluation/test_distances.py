"""Laws of the distances between sets of features."""
import math

import pytest
import torch

from vqlib.evaluation.distances import (
    bootstrap,
    discrepancy,
    distances,
    frechet,
    jackknife,
    kernels,
    kid,
)


def normal(n, d=16, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


def by_hand(a, b, paired=False):
    """Binkowski et al. 2018, equation 4, pair by pair."""
    def k(x, y):
        return (float(x.double() @ y.double()) / len(x) + 1) ** 3

    n, m = len(a), len(b)
    within_a = [k(a[i], a[j]) for i in range(n) for j in range(n) if i != j]
    within_b = [k(b[i], b[j]) for i in range(m) for j in range(m) if i != j]
    between = [k(a[i], b[j]) for i in range(n) for j in range(m) if not (paired and i == j)]
    mean_a, mean_b, mean = (sum(pairs) / len(pairs) for pairs in (within_a, within_b, between))
    return mean_a + mean_b - 2 * mean


@pytest.mark.parametrize("paired", [False, True])
def test_kid_equals_a_double_loop(paired):
    a, b = normal(7), normal(7, seed=1, shift=0.3)
    assert kid(a, b, paired) == pytest.approx(by_hand(a, b, paired), rel=1e-9)


def test_kid_equals_a_double_loop_for_unequal_counts():
    a, b = normal(5), normal(8, seed=1)
    assert kid(a, b) == pytest.approx(by_hand(a, b), rel=1e-9)


def test_kid_is_symmetric():
    a, b = normal(30), normal(20, seed=1, shift=0.2)
    assert kid(a, b) == pytest.approx(kid(b, a), rel=1e-9)


def test_two_samples_of_one_distribution_are_0_apart_on_average():
    values = torch.tensor([kid(normal(40, seed=s), normal(40, seed=1000 + s)) for s in range(60)])
    assert abs(values.mean()) < 3 * values.std() / 60**0.5
    assert (values < 0).any()  # unbiased: it must be able to fall below 0


def test_a_shift_is_found():
    a, b, shifted = normal(200), normal(200, seed=1), normal(200, seed=1, shift=0.5)
    assert kid(a, shifted) > 20 * abs(kid(a, b))


def test_a_set_paired_with_itself_is_0_apart():
    a = normal(30)
    assert kid(a, a, paired=True) == pytest.approx(0, abs=1e-12)
    assert kid(a, a) < -0.01  # what the pairs would pull it down by


def test_an_image_drawn_twice_is_not_compared_with_itself():
    a, b = normal(6), normal(6, seed=1)
    counts = torch.tensor([[2.0, 1, 1, 1, 1, 0]], dtype=torch.double)
    ones = torch.ones(1, 6, dtype=torch.double)
    copies = [0, 0, 1, 2, 3, 4]

    def k(i, j):
        return (float(a[i].double() @ a[j].double()) / 16 + 1) ** 3

    drawn = [(i, j) for p, i in enumerate(copies) for q, j in enumerate(copies) if p != q]
    within_a = [k(i, j) for i, j in drawn if i != j]
    within_b, between = kernels(b, b, False)[0], kernels(a, b, False)[2]
    expected = sum(within_a) / len(within_a) + float(within_b.sum()) / 30
    expected -= 2 * float((counts @ between).sum()) / 36
    found = float(discrepancy(kernels(a, b, False), counts, ones, False))
    assert found == pytest.approx(expected, rel=1e-9)


def test_resamples_centre_on_the_estimate():
    a, b = normal(60), normal(60, seed=1, shift=0.5)
    low, high = bootstrap(a, b)
    assert low < kid(a, b) < high
    assert abs((low + high) / 2 - kid(a, b)) < 0.2 * (high - low)


def test_pairs_are_drawn_together():
    a = normal(30)
    assert bootstrap(a, a, paired=True) == pytest.approx([0, 0], abs=1e-12)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    truth = kid(normal(2000, 4), normal(2000, 4, seed=1, shift=0.5))
    pairs = [(normal(40, 4, 10 + s), normal(40, 4, 500 + s, 0.5)) for s in range(40)]
    intervals = [bootstrap(a, b, n=100) for a, b in pairs]
    assert sum(low < truth < high for low, high in intervals) >= 34


def test_the_same_seed_gives_the_same_interval():
    a, b = normal(20), normal(20, seed=1)
    assert bootstrap(a, b, seed=3) == bootstrap(a, b, seed=3) != bootstrap(a, b, seed=4)


def test_frechet_of_shifted_sets_is_the_squared_shift():
    a = normal(50)
    assert frechet(a, a + 0.5) == pytest.approx(16 * 0.25, rel=1e-5)


@pytest.mark.parametrize("n", [10, 5000])
def test_frechet_of_scaled_sets_is_the_trace_of_the_roots_difference(n):
    a = normal(n)  # covariances C and 4C: tr C (1 + 4 - 2 * 2)
    trace = float(a.double().var(0).sum())
    shift = float(a.double().mean(0).square().sum())                 # means m and 2m
    assert frechet(a, 2 * a) == pytest.approx(trace + shift, rel=1e-5)


def test_frechet_of_gaussians_that_do_not_commute_is_the_analytic_value():
    turn = torch.tensor([[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]])
    a = normal(20000, 2) * torch.tensor([1.0, 3.0])
    b = (normal(20000, 2, seed=1) * torch.tensor([2.0, 0.5])) @ turn.T
    A, B = (x.double().T.cov() for x in (a, b))
    root = 2 * float(torch.linalg.eigvals(A @ B).real.clamp_min(0).sqrt().sum())
    means = float((a.double().mean(0) - b.double().mean(0)).square().sum())
    assert frechet(a, b) == pytest.approx(means + float(A.trace() + B.trace()) - root, rel=1e-6)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    a, b = normal(400, 1), normal(400, 1, seed=1)
    low, high = jackknife(lambda p, q: float(p.mean() - q.mean()), a, b, groups=100)
    error = math.sqrt(float(a.var() + b.var()) / 400)
    assert (high - low) / 2 / 1.96 == pytest.approx(error, rel=0.25)


def test_too_few_images_give_a_reason():
    assert "8 of each" in distances(normal(5), normal(40))["skipped"]
