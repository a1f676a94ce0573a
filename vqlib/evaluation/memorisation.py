"""Are samples copies? A sample counts as one if it is nearer to training images than 99 % of held-out images are.

Letters: n samples, N training images, V views, d numbers per image.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqlib.data.augment import dihedral
from vqlib.evaluation.features import features

PIXEL_VIEWS = tuple(range(8))
FEATURE_VIEWS = (0, 4)  # as it is and mirrored; all eight would take four times as long


def thumbnails(images: Tensor, side=32) -> Tensor:                   # (B, 3, H, W) -> (B, 3*side*side)
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True).flatten(1)


def pixel_views(images: Tensor) -> Tensor:                           # (n, 3, H, W) -> (8, n, 3*32*32)
    return torch.stack([thumbnails(dihedral(images, k)) for k in PIXEL_VIEWS])


def feature_views(images: Tensor, device: str = "cpu") -> Tensor:    # (n, 3, H, W) -> (2, n, 1280)
    return torch.stack([features(dihedral(images, k), device=device) for k in FEATURE_VIEWS])


def nearest(views: Tensor, bank: Tensor, batch: int = 2048) -> tuple[Tensor, Tensor]:  # (V, n, d), (N, d)
    """(n,) root mean squared difference of each image's best view to the nearest training image, and (n,) its row.

    Turning the samples instead of the training images finds the same pairs, and there are fewer of them.
    """
    best, where = torch.full(views.shape[1:2], torch.inf), torch.zeros(views.shape[1], dtype=torch.long)
    for start in range(0, len(bank), batch):
        d = torch.stack([torch.cdist(v, bank[start : start + batch]) for v in views]).amin(0)  # (n, batch)
        distance, i = d.min(1)
        closer = distance < best
        best, where = torch.where(closer, distance, best), torch.where(closer, i + start, where)
    return best / bank.shape[1] ** 0.5, where


def thumbnail_bank(dataset, rows: np.ndarray) -> Tensor:             # (N,) -> (N, 3*32*32), 512 images in memory at a time
    return torch.cat([thumbnails(dataset[c]) for c in np.array_split(rows, max(1, -(-len(rows) // 512)))])


def memorisation(samples: Tensor, held_out: Tensor, bank: Tensor) -> dict:  # (V, n, d), (V, m, d), (N, d)
    """Share of samples under the first percentile of held-out distances: 0.01 is what new photographs would have.

    `floor` says so of one half of the held-out images under the other half's percentile. The percentile rests on m/100
    images: with m = 921 floors of 0.002 to 0.024 were seen.
    """
    made, real = nearest(samples, bank)[0], nearest(held_out, bank)[0]
    mark = real.quantile(0.01)
    floor = float((real[::2] < real[1::2].quantile(0.01)).float().mean()) if len(real) > 1 else None
    return {"share": float((made < mark).float().mean()), "floor": floor, "threshold": float(mark),
            "median": float(made.median()), "median_held_out": float(real.median())}
