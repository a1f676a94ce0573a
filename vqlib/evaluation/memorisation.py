"""Are samples copies of training images?

A sample counts as memorised if it is nearer to training images than 99 % of held-out images are.
Letters: n samples, m held-out images, N training images, A augmentations, d numbers per image.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqlib.data.augment import dihedral
from vqlib.evaluation.chunks import over_rows
from vqlib.evaluation.features import features

PIXEL_AUGMENTATIONS = tuple(range(8))
FEATURE_AUGMENTATIONS = (0, 4)  # as it is and mirrored; all eight would take four times as long


def thumbnails(images: Tensor, side: int = 32) -> Tensor:            # (n, 3, H, W) -> (n, 3*32*32)
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True).flatten(1)


def augmented_thumbnails(images: Tensor) -> Tensor:  # (n, 3, H, W) -> (8, n, 3*32*32)
    return torch.stack([thumbnails(dihedral(images, k)) for k in PIXEL_AUGMENTATIONS])


def augmented_features(images: Tensor, device="cpu") -> Tensor:      # (n, 3, H, W) -> (2, n, 1280)
    augmented = [dihedral(images, k) for k in FEATURE_AUGMENTATIONS]
    return torch.stack([features(x, device=device) for x in augmented])


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


def memorisation(samples: Tensor, held_out: Tensor, bank: Tensor) -> dict:
    """Share of samples whose distance is under the first percentile of held-out images.

    Takes samples (A, n, d), held_out (A, m, d) and bank (N, d). New photographs would have a share
    of 0.01. `reference` is the share of one half of the held-out images under the other half's
    percentile, None for a single image. The percentile rests on m/100 images: with m = 921
    references of 0.002 to 0.024 were seen.
    """
    generated, real = nearest(samples, bank)[0], nearest(held_out, bank)[0]
    threshold = real.quantile(0.01)
    reference = None
    if len(real) > 1:
        reference = float((real[::2] < real[1::2].quantile(0.01)).float().mean())
    return {
        "share": float((generated < threshold).float().mean()),
        "reference": reference,
        "threshold": float(threshold),
        "median": float(generated.median()),
        "median_held_out": float(real.median()),
    }
