"""Finds images that are almost the same, so that a split can keep them on one side.

A cell that is as bright as its neighbour says nothing: on a flat ground (a lesion cut out on
black) most cells are. Only cells that vary are compared, and a chain of likenesses that would
swallow a large part of a set is cut where it is weakest. Letters: N images, S side of a square.
"""
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

BITS = 256       # of a hash: 16 rows of 16 comparisons
NEAR = 16        # differing bits: 1 pair of HAM10000's lesions is within 16, 3 are within 20
FLAT = 0.05      # of a grey level, summed over R, G, B, is no difference: rounding makes it
ONE_SIDED = 1/3  # differing bits that a cell counts which varies in one image only
LEAST = 64       # cells that must vary in both images: fewer are an outline, not a picture
CAP = 8          # images that chains may join in a small set, 2 % in a large one
HASHED = 64      # images at a time: few enough to stay in the processor's cache
COMPARED = 1024  # hashes at a time: bounds the memory


def dhash(images: np.ndarray) -> Tensor:                           # (N, 3, S, S) uint8 -> (N, 256)
    """Difference hash: is each of 16 x 17 grey cells brighter than its left neighbour?

    1, -1, or 0 where the two are equally bright.
    """
    S = images.shape[-1]
    unit = torch.eye(S)[None, None]                                # resizing it gives the weights
    down = F.interpolate(unit, (16, S), mode="bilinear", antialias=True)[0, 0]       # (16, S)
    across = F.interpolate(unit, (S, 17), mode="bilinear", antialias=True)[0, 0]     # (S, 17)
    signs = []
    for start in range(0, len(images), HASHED):
        sums = images[start : start + HASHED].sum(1, dtype=np.uint16)
        grey = torch.from_numpy(sums.astype(np.float32))           # (64, S, S)
        cells = down @ (grey @ across)                             # (64, 16, 17)
        steps = (cells[:, :, 1:] - cells[:, :, :-1]).flatten(1)    # (64, 256)
        signs.append(steps.sign() * (steps.abs() > FLAT))
    return torch.cat(signs)


def bits_apart(a: Tensor, b: Tensor) -> Tensor:                    # (n, 256) each -> (n,)
    """In how many of 256 bits hashes differ, counted where either varies; inf: too little does."""
    in_both, in_either = (a * b).abs().sum(1), (a.abs() + b.abs()).clamp_max(1).sum(1)
    differing = (a * b < 0).sum(1) + ONE_SIDED * (in_either - in_both)
    return torch.where(in_both >= LEAST, BITS * differing / in_either, torch.inf)


def near_pairs(hashes: Tensor) -> tuple[np.ndarray, np.ndarray]:   # (N, 256) -> (pairs, 2), (pairs)
    """Indices of hashes that differ in at most NEAR bits, and in how many they do."""
    at_least = 1 - max(2, 1 / ONE_SIDED) * NEAR / BITS             # agreeing minus differing, of
    enough = at_least * hashes.abs().sum(1).clamp_min(LEAST)       # (N,) those that vary
    pairs, distances = [], []
    for start in range(0, len(hashes), COMPARED):                  # against itself and what follows
        block = slice(start, start + COMPARED)
        likely = (hashes[block] @ hashes[start:].T >= enough[block, None]).nonzero() + start
        for some in likely.split(COMPARED * HASHED):               # (n, 2)
            bits = bits_apart(*hashes[some.T])
            pairs.append(some[bits <= NEAR].numpy())
            distances.append(bits[bits <= NEAR].numpy())
    return np.concatenate(pairs), np.concatenate(distances)


def near_groups(images: np.ndarray, lesions: list[str]) -> list[str]:    # (N, 3, S, S) uint8, (N,)
    """For each image the least of all lesion ids that near-duplicate images join to its own.

    A group of more images than the cap is joined again with half the distance, down to 0: what is
    really the same picture stays together, a chain of chance likenesses does not.
    """
    names, lesion_of = np.unique(lesions, return_inverse=True)     # (lesions,) sorted, (N,)
    pairs, distances = near_pairs(dhash(images))
    a, b = lesion_of[pairs].T                                      # lesions to be joined
    cap, joined = max(CAP, len(images) // 50), np.ones(len(a), bool)
    group_of, too_large = np.arange(len(names)), np.zeros(len(names), bool)
    for allowed in (NEAR, NEAR // 2, NEAR // 4, 0):
        joined &= ~too_large[group_of[a]] | (distances <= allowed)
        graph = coo_matrix((joined[joined], (a[joined], b[joined])), (len(names), len(names)))
        group_of = connected_components(graph, directed=False)[1]  # (lesions,)
        too_large = np.bincount(group_of[lesion_of]) > cap         # (groups,)
    least = np.unique(group_of, return_index=True)[1]              # (groups,) first lesion of each
    return names[least[group_of[lesion_of]]].tolist()
