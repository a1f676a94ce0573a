"""Distances between two sets of features, with confidence intervals.

Letters: n and m images, d features, R resamples.
"""
import math
from collections.abc import Callable

import torch
from torch import Tensor


def kernels(a: Tensor, b: Tensor, paired: bool) -> list[Tensor]:     # (n, d), (m, d)
    """(x.y/d + 1)^3 within a (n, n), within b (m, m) and between (n, m).

    No image is compared with itself, which makes the estimate unbiased: those entries are 0.
    """
    def kernel(x, y):
        return (x.double() @ y.double().T / a.shape[1] + 1) ** 3

    within_a = kernel(a, a).fill_diagonal_(0)
    within_b = kernel(b, b).fill_diagonal_(0)
    between = kernel(a, b)
    return [within_a, within_b, between.fill_diagonal_(0) if paired else between]


def discrepancy(kernels: list[Tensor], u: Tensor, v: Tensor, paired: bool) -> Tensor:
    """Squared mean discrepancy of R samples in which image i counts u[i] times.

    u (R, n) and v (R, m) are counts; the result is (R,). Copies of one image are never compared.
    """
    def mean(kernel, p, q, without_same):
        pairs = p.sum(1) * q.sum(1)
        if without_same:
            pairs = pairs - (p * q).sum(1)
        return ((p @ kernel) * q).sum(1) / pairs

    within_a, within_b, between = kernels
    return mean(within_a, u, u, True) + mean(within_b, v, v, True) - 2 * mean(between, u, v, paired)


def kid(a: Tensor, b: Tensor, paired: bool = False) -> float:        # (n, d), (m, d), n, m >= 2
    """Squared maximum mean discrepancy, unbiased (KID; Binkowski et al. 2018, section 4).

    The kernel is (x.y/d + 1)^3. KID is reported times 1,000. For two samples of one distribution it
    is about 0, and half of the time below. `paired`: b[i] is a version of a[i], such as its
    reconstruction; if such pairs counted they would pull the estimate down, by 5/1,000 at n = 900.
    """
    ones = [torch.ones(1, len(x), dtype=torch.double) for x in (a, b)]
    return float(discrepancy(kernels(a, b, paired), *ones, paired))


def resampled(n: int, R: int, rng: torch.Generator) -> Tensor:       # (R, n)
    """How often each image is drawn in each of R resamples."""
    picks = torch.randint(n, (R, n), generator=rng)
    counts = torch.zeros(R, n, dtype=torch.double)
    return counts.scatter_add_(1, picks, torch.ones(R, n, dtype=torch.double))


def bootstrap(a: Tensor, b: Tensor, paired=False, n: int = 200, seed: int = 0) -> list[float]:
    """95 % interval of `kid` by n resamples with replacement, from kernel matrices computed once.

    An image drawn twice would be compared with itself, and k(x, x) is larger than k of any two
    images: such pairs are left out of sum and number, so that resamples centre on the estimate.
    Near 0 the interval is too wide rather than too narrow (the statistic is degenerate there).
    Several images of one lesion count as independent.
    """
    rng = torch.Generator().manual_seed(seed)
    u = resampled(len(a), n, rng)
    v = u if paired else resampled(len(b), n, rng)
    values = discrepancy(kernels(a, b, paired), u, v, paired)
    return values.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()


def covariance_factor(x: Tensor) -> Tensor:                          # (n, d) -> (min(n, d), d)
    """F with F'F = the covariance of x."""
    centred = (x - x.mean(0)) / math.sqrt(len(x) - 1)
    return torch.linalg.qr(centred, mode="r").R if len(x) > x.shape[1] else centred


def frechet(a: Tensor, b: Tensor) -> float:                          # (n, d), (m, d), n, m >= 2
    """Frechet distance: |mean difference|^2 + tr(A + B - 2 (AB)^(1/2)) (Heusel et al. 2017, eq. 6).

    With A = F'F and B = G'G the root's trace is the sum of the singular values of F G', so no
    matrix root is taken. Unlike KID it is not times 1,000. It is biased upwards, and up to n = d =
    1,280 the covariances lack full rank: compare it at equal n only.
    """
    a, b = a.double(), b.double()
    f, g = covariance_factor(a), covariance_factor(b)
    cross = torch.linalg.svdvals(f @ g.T).sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + f.square().sum() + g.square().sum() - 2 * cross)


def jackknife(statistic: Callable, a: Tensor, b: Tensor, groups=10, seed=0) -> list[float]:
    """95 % interval of a statistic that duplicates would mislead, such as `frechet`.

    It leaves out one group of images at a time.
    """
    rng = torch.Generator().manual_seed(seed)
    groups = min(groups, len(a), len(b))
    group_a, group_b = (torch.randperm(len(x), generator=rng) % groups for x in (a, b))
    without = [statistic(a[group_a != k], b[group_b != k]) for k in range(groups)]
    variance = float(torch.tensor(without, dtype=torch.double).var(correction=0))
    width = 1.96 * math.sqrt((groups - 1) * variance)
    whole = statistic(a, b)
    return [whole - width, whole + width]


def distances(a: Tensor, b: Tensor, seed: int = 0, paired: bool = False) -> dict:
    """KID times 1,000 and the Frechet distance with 95 % intervals, ready for JSON.

    Fewer than 8 images give {"skipped": reason}. The Frechet distance makes no use of `paired`.
    """
    if min(len(a), len(b)) < 8:
        return {"skipped": f"{len(a)} and {len(b)} images; 8 of each are needed"}
    return {
        "images": [len(a), len(b)],
        "kid_x1000": 1000 * kid(a, b, paired),
        "kid_x1000_95": [1000 * end for end in bootstrap(a, b, paired, seed=seed)],
        "fd": frechet(a, b),
        "fd_95": jackknife(frechet, a, b, seed=seed),
    }
