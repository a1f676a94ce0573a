"""Are samples copies of training images?

A sample counts as memorised if it is nearer to training images than 99 % of held-out images are.
So would one in a hundred new photographs: what counts is the ratio to that.
Letters: n samples, m held-out images, N training images, A augmentations, d numbers per image.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqlib.data.augment import dihedral
from vqlib.evaluation.chunks import over_rows

PIXEL_AUGMENTATIONS = tuple(range(8))
SHARE = 0.01                    # of new photographs that may count as memorised
FEATURE_AUGMENTATIONS = (0, 4)  # as it is and mirrored; all eight would take four times as long


def thumbnails(images: Tensor, side: int = 32) -> Tensor:            # (n, 3, H, W) -> (n, 3*32*32)
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True).flatten(1)


def augmented_thumbnails(images: Tensor) -> Tensor:  # (n, 3, H, W) -> (8, n, 3*32*32)
    return torch.stack([thumbnails(dihedral(images, k)) for k in PIXEL_AUGMENTATIONS])


def thumbnail_bank(dataset, rows: np.ndarray) -> Tensor:             # (N,) -> (N, 3*32*32)
    return torch.cat(over_rows(thumbnails, dataset, rows))


def nearest(augmented: Tensor, bank: Tensor, batch: int = 2048) -> tuple[Tensor, Tensor]:
    """Distance (n,) of each image to the nearest training image, and the row (n,) of that image.

    Takes all augmentations of the images (A, n, d) and the training images (N, d). The distance is
    the root mean squared difference of the nearest augmentation. Turning the samples instead of the
    training images finds the same pairs, and there are fewer samples.
    """
    n = augmented.shape[1]
    least = torch.full((n,), torch.inf)
    rows = torch.zeros(n, dtype=torch.long)
    for start in range(0, len(bank), batch):
        some = bank[start : start + batch]
        apart = torch.stack([torch.cdist(x, some) for x in augmented]).amin(0)  # (n, batch)
        distance, row = apart.min(1)
        closer = distance < least
        least = torch.where(closer, distance, least)
        rows = torch.where(closer, row + start, rows)
    return least / bank.shape[1] ** 0.5, rows


def threshold_of(held_out: np.ndarray) -> float:                     # (m,)
    """First percentile, so that a new photograph is nearer with a probability of SHARE.

    That holds in the mean over sets of held-out images (Weibull's plotting position).
    """
    return float(np.quantile(held_out, SHARE, method="weibull"))


def memorisation(samples: Tensor, held_out: Tensor, bank: Tensor, draws=1000, seed=0) -> dict:
    """Share of samples that are nearer to a training image than 99 % of held-out images are.

    Takes samples (A, n, d), held_out (A, m, d) and bank (N, d). `ratio` is that share over the 1 %
    of new photographs. `ratio_95` is its 95 % interval by `draws` resamples of samples and of
    held-out images, the percentile taken anew each time: it rests on m/100 images, which makes the
    interval wide. Several images of one lesion count as independent. Fewer than 100 held-out images
    have no first percentile: `share`, `ratio` and `ratio_95` are None then.
    """
    generated, real = (nearest(x, bank)[0].numpy() for x in (samples, held_out))
    found = {
        "share": None,
        "ratio": None,
        "ratio_95": None,
        "threshold": threshold_of(real),
        "median": float(np.median(generated)),
        "median_held_out": float(np.median(real)),
    }
    if len(real) >= 1 / SHARE:
        rng = np.random.default_rng(seed)
        shares = [share(rng.choice(generated, len(generated)), rng.choice(real, len(real)))
                  for _ in range(draws)]
        found["share"] = share(generated, real)
        found["ratio"] = found["share"] / SHARE
        found["ratio_95"] = (np.quantile(shares, [0.025, 0.975]) / SHARE).tolist()
    return found


def share(generated: np.ndarray, held_out: np.ndarray) -> float:     # (n,), (m,)
    """Share of samples below the first percentile of held-out images, of distances to training."""
    return float((generated < threshold_of(held_out)).mean())
