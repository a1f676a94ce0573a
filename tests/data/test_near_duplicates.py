"""Laws of near-duplicates: images that are almost the same share a side, others do not."""
from collections import Counter

import numpy as np
import pytest
import torch
from small_data import array_source, noise, sides

from vqlib.data import near_duplicates
from vqlib.data.dataset import SPLITS, Dataset, split_of
from vqlib.data.decode import Geometry
from vqlib.data.near_duplicates import near_groups


def test_near_duplicates_with_different_lesion_ids_land_on_one_side(tmp_path):
    x = noise(60)
    change = np.random.default_rng(1).integers(-3, 4, x.shape)
    again = np.clip(x.astype(int) + change, 0, 255).astype(np.uint8)
    lesions = [f"a{i}" for i in range(60)] + [f"b{i}" for i in range(60)]
    source = array_source(np.concatenate([x, again]), lesions)
    side = sides(Dataset(source, Geometry(24, 24), cache=tmp_path))
    apart = [i for i in range(60) if side[f"i{i:03d}"] != side[f"i{60 + i:03d}"]]
    assert apart == []
    by_lesion_alone = sum(split_of(f"a{i}") != split_of(f"b{i}") for i in range(60))
    assert by_lesion_alone > 10                                    # many would part


def test_unlike_images_are_not_joined(tmp_path):
    lesions = [f"a{i}" for i in range(60)]
    dataset = Dataset(array_source(noise(60), lesions), Geometry(24, 24), cache=tmp_path)
    side = sides(dataset)
    assert [side[f"i{i:03d}"] for i in range(60)] == [split_of(lesion) for lesion in lesions]


def cut_out(n, side=32, seed=0):                                   # -> (n, S, S, 3) uint8
    """Smooth blobs on black, all alike in outline: none is a near-duplicate of another."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:side, :side] / side - 0.5
    radius = np.hypot(x, y) / rng.uniform(0.2, 0.3, (n, 1, 1))
    cells = rng.uniform(80, 200, (n, 4, 4)).repeat(side // 4, 1).repeat(side // 4, 2)
    grey = np.where(radius < 1, cells * (1 - 0.4 * radius), 0)
    return grey[..., None].repeat(3, -1).astype(np.uint8)


def largest(groups):
    return max(Counter(groups).values())


def test_lesions_cut_out_on_black_keep_their_shares(tmp_path):
    lesions = [f"a{i}" for i in range(400)]
    dataset = Dataset(array_source(cut_out(400), lesions), Geometry(32, 32), cache=tmp_path)
    shares = [len(dataset.splits[name]) / 400 for name in SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.06)
    assert dataset.notes == []


def test_what_is_flat_is_like_nothing():
    x = np.full((20, 3, 32, 32), 40, np.uint8)
    x[:, :, 10:14, 10:14] += np.arange(20, dtype=np.uint8)[:, None, None, None]
    assert largest(near_groups(x, [f"a{i}" for i in range(20)])) == 1


def test_a_chain_is_cut_and_what_is_really_the_same_stays_together(monkeypatch):
    first, same = torch.from_numpy(np.random.default_rng(0).choice((-1.0, 1.0), (2, 256)))
    hashes = [same] * 20
    for i in range(21):                                            # 12 bits more differ each time
        hashes.append(torch.cat([-first[: 12 * i], first[12 * i :]]))
    monkeypatch.setattr(near_duplicates, "dhash", lambda images: torch.stack(hashes).float())
    groups = near_groups(np.empty(41), [f"a{i:02d}" for i in range(41)])
    assert {*groups[:20]} == {"a00"}
    assert largest(groups[20:]) <= near_duplicates.CAP


def test_an_added_image_moves_only_what_it_is_a_near_duplicate_of(tmp_path):
    x = noise(60)
    lesions = [f"b{i}" for i in range(60)]
    before = sides(Dataset(array_source(x, lesions), Geometry(24, 24), cache=tmp_path))
    added = np.concatenate([x, noise(1, seed=5), x[:1]])
    source = array_source(added, [*lesions, "a0", "a1"])
    after = sides(Dataset(source, Geometry(24, 24), cache=tmp_path))
    assert {name: after[name] for name in before if name != "i000"} == {
        name: side for name, side in before.items() if name != "i000"}
    assert after["i000"] == after["i061"] == split_of("a1")
