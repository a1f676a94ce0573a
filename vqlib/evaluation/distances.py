"""Distances between two sets of features, and how sure they are.

Letters: n and m images, d features, R resamples.
"""
import math

import torch
from torch import Tensor


def kernels(a: Tensor, b: Tensor, paired: bool) -> list[Tensor]:     # (n, d), (m, d) -> (n, n), (m, m), (n, m)
    """(x.y/d + 1)^3 within a, within b, between; no image is compared with itself, which makes the estimate unbiased."""
    aa, bb, ab = [(x.double() @ y.double().T / a.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    return [aa.fill_diagonal_(0), bb.fill_diagonal_(0), ab.fill_diagonal_(0) if paired else ab]


def discrepancy(kernels: list[Tensor], u: Tensor, v: Tensor, paired: bool) -> Tensor:  # (R, n), (R, m) counts -> (R,)
    """Squared mean discrepancy of R samples in which image i counts u[i] times; copies of one image never meet."""
    def mean(k, p, q, skip):
        return ((p @ k) * q).sum(1) / (p.sum(1) * q.sum(1) - ((p * q).sum(1) if skip else 0))

    aa, bb, ab = kernels
    return mean(aa, u, u, True) + mean(bb, v, v, True) - 2 * mean(ab, u, v, paired)


def kid(a: Tensor, b: Tensor, paired: bool = False) -> float:        # (n, d), (m, d), n and m at least 2
    """Squared maximum mean discrepancy with the kernel (x.y/d + 1)^3, unbiased (Binkowski et al. 2018, section 4).

    Reported times 1,000. About 0 for two samples of one distribution, and then below 0 half of the time. `paired`: b[i] is a
    version of a[i], such as its reconstruction; without it such pairs would pull the estimate down, by 5/1,000 at n = 900.
    """
    ones = [torch.ones(1, len(x), dtype=torch.double) for x in (a, b)]
    return float(discrepancy(kernels(a, b, paired), *ones, paired))


def resampled(n: int, R: int, rng: torch.Generator) -> Tensor:      # (R, n) how often each image was drawn
    picks = torch.randint(n, (R, n), generator=rng)
    return torch.zeros(R, n, dtype=torch.double).scatter_add_(1, picks, torch.ones(R, n, dtype=torch.double))


def bootstrap(a: Tensor, b: Tensor, paired: bool = False, n: int = 200, seed: int = 0) -> list[float]:
    """95 % interval of `kid` by n resamples with replacement, as counts on kernel matrices that are computed once.

    An image drawn twice would meet itself, and k(x, x) is larger than any fair pair: such pairs are left out of sum and
    number, so that resamples centre on the estimate. Near 0 the interval is too wide rather than too narrow (the statistic
    is degenerate there); several images of one lesion count as independent.
    """
    rng = torch.Generator().manual_seed(seed)
    u = resampled(len(a), n, rng)
    values = discrepancy(kernels(a, b, paired), u, u if paired else resampled(len(b), n, rng), paired)
    return values.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()


def spread_factor(x: Tensor) -> Tensor:                              # (n, d) -> F (min(n, d), d), F'F = covariance
    centred = (x - x.mean(0)) / math.sqrt(len(x) - 1)
    return torch.linalg.qr(centred, mode="r").R if len(x) > x.shape[1] else centred


def frechet(a: Tensor, b: Tensor) -> float:                          # (n, d), (m, d), n and m at least 2
    """FD-Lite0: |mean difference|^2 + tr(A + B - 2 (AB)^(1/2)) (Heusel et al. 2017, equation 6), not times 1,000.

    With A = F'F and B = G'G the root's trace is the sum of the singular values of F G', so no matrix root is taken. It is
    biased upwards, and up to n = d = 1,280 the covariances lack full rank: compare it at equal n only.
    """
    a, b = a.double(), b.double()
    f, g = spread_factor(a), spread_factor(b)
    cross = torch.linalg.svdvals(f @ g.T).sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + f.square().sum() + g.square().sum() - 2 * cross)


def jackknife(statistic, a: Tensor, b: Tensor, groups: int = 10, seed: int = 0) -> list[float]:
    """95 % interval of a statistic that duplicates would mislead, such as `frechet`: leaves out one group at a time."""
    rng, groups = torch.Generator().manual_seed(seed), min(groups, len(a), len(b))
    p, q = (torch.randperm(len(x), generator=rng) % groups for x in (a, b))
    left = torch.tensor([statistic(a[p != k], b[q != k]) for k in range(groups)], dtype=torch.double)
    width = 1.96 * math.sqrt((groups - 1) * float(left.var(correction=0)))
    whole = statistic(a, b)
    return [whole - width, whole + width]


def distances(a: Tensor, b: Tensor, seed: int = 0, paired: bool = False) -> dict:
    """Both distances with intervals, ready for JSON; fewer than 8 images give a reason instead. FD knows no pairs."""
    if min(len(a), len(b)) < 8:
        return {"skipped": f"{len(a)} and {len(b)} images; 8 of each are needed"}
    kids = [kid(a, b, paired), *bootstrap(a, b, paired, seed=seed)]
    return {"images": [len(a), len(b)], "kid_x1000": 1000 * kids[0], "kid_x1000_95": [1000 * v for v in kids[1:]],
            "fd": frechet(a, b), "fd_95": jackknife(frechet, a, b, seed=seed)}
