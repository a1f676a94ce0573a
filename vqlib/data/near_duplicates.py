"""Finds images that are almost the same, so that a split can keep them on one side.

Letters: N images, S side of a square.
"""
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

BITS = 256       # of a hash: 16 rows of 16 comparisons
NEAR = 16        # differing bits: 1 pair of HAM10000's lesions is within 16, 3 are within 20
HASHED = 64      # images at a time: few enough to stay in the processor's cache
COMPARED = 1024  # hashes at a time: bounds the memory


def dhash(images: np.ndarray) -> Tensor:                           # (N, 3, S, S) uint8 -> (N, 256)
    """Difference hash: is each of 16 x 17 grey cells brighter than its left neighbour? 1 or -1."""
    S = images.shape[-1]
    unit = torch.eye(S)[None, None]                                # resizing it gives the weights
    down = F.interpolate(unit, (16, S), mode="bilinear", antialias=True)[0, 0]       # (16, S)
    across = F.interpolate(unit, (S, 17), mode="bilinear", antialias=True)[0, 0]     # (S, 17)
    brighter = []
    for start in range(0, len(images), HASHED):
        sums = images[start : start + HASHED].sum(1, dtype=np.uint16)
        grey = torch.from_numpy(sums.astype(np.float32))           # (64, S, S)
        cells = down @ (grey @ across)                             # (64, 16, 17)
        brighter.append((cells[:, :, 1:] > cells[:, :, :-1]).flatten(1))
    return torch.cat(brighter).float() * 2 - 1


def near_pairs(hashes: Tensor) -> np.ndarray:                      # (N, 256) -> (pairs, 2)
    """Indices of hashes that differ in at most NEAR bits; each pairs with itself, too."""
    pairs = []
    for start in range(0, len(hashes), COMPARED):                  # against itself and what follows
        block, rest = hashes[start : start + COMPARED], hashes[start:]
        near = block @ rest.T >= BITS - 2 * NEAR                   # agreeing minus differing bits
        pairs.append(near.nonzero().numpy() + start)
    return np.concatenate(pairs)


def near_groups(images: np.ndarray, lesions: list[str]) -> list[str]:    # (N, 3, S, S) uint8, (N,)
    """For each image the least of all lesion ids that near-duplicate images join to its own."""
    names, lesion_of = np.unique(lesions, return_inverse=True)     # (lesions,) sorted, (N,)
    a, b = lesion_of[near_pairs(dhash(images))].T                  # lesions to be joined
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(len(names), len(names)))
    group_of = connected_components(graph, directed=False)[1]      # (lesions,)
    least = np.unique(group_of, return_index=True)[1]              # (groups,) first lesion of each
    return names[least[group_of[lesion_of]]].tolist()
