"""Laws of batches: every row once per pass, rare classes as often as asked, resumable anywhere."""
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vqlib.data.augment import Augment, augment
from vqlib.data.batches import batches, class_weights, shuffled_indices
from vqlib.data.decode import Geometry

OFF = Augment(flip=0.0, rotate=0.0)


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (10, 10), (7, 3), (5, 8)])
def test_every_index_comes_once_per_pass(n, batch):
    indices = np.concatenate([i for _, i in islice(shuffled_indices(n, batch, seed=0), 3 * n)])
    passes = indices[: len(indices) // n * n].reshape(-1, n)
    assert (np.sort(passes, 1) == np.arange(n)).all()
    assert len(np.unique(passes, axis=0)) > 1                      # and each pass is shuffled anew


def test_weights_decide_how_often_an_index_is_drawn_and_a_step_is_the_same_wherever_one_starts():
    weights = np.array([1.0, 1.0, 2.0, 0.0])
    drawn = [i for _, i in islice(shuffled_indices(4, 50, 0, weights=weights), 400)]
    shares = np.bincount(np.concatenate(drawn), minlength=4) / 20_000
    assert shares == pytest.approx(weights / 4, abs=0.02)
    step, indices = next(shuffled_indices(4, 50, 0, 7, weights))
    assert step == 7
    assert (indices == drawn[7]).all()


def test_another_seed_gives_another_order():
    a, b = (next(shuffled_indices(50, 50, seed))[1] for seed in (0, 1))
    assert (a != b).any()


def test_class_weights_are_the_size_of_the_class_to_minus_the_balance():
    labels = torch.tensor([0, 0, 0, 0, 1])
    assert class_weights(labels, 0.0) is None
    assert class_weights(labels, 0.5) == pytest.approx([0.5] * 4 + [1])
    assert class_weights(labels, 1.0) == pytest.approx([0.25] * 4 + [1])


@pytest.mark.parametrize("balance", [0.0, 0.7])
@pytest.mark.parametrize("start", [1, 7, 23])
def test_a_batch_is_the_same_wherever_one_starts(dataset, start, balance):
    run = dict(batch=32, seed=5, augment_config=Augment(), class_balance=balance)
    whole = list(islice(batches(dataset, "train", **run), start + 3))[start:]
    later = list(islice(batches(dataset, "train", **run, start=start), 3))
    assert all(torch.equal(a, b) for a, b in zip(whole, later, strict=True))


def numbered(labels, train):
    """A data set whose images are all of one brightness: their own number."""
    return SimpleNamespace(
        splits={"train": train},
        labels=labels,
        geometry=Geometry(4, 4),
        squares=lambda rows: torch.as_tensor(rows)[:, None, None, None].expand(-1, 3, 4, 4).float(),
    )


@pytest.mark.parametrize(("balance", "share"), [(0.0, 1 / 5), (0.5, 1 / 3), (1.0, 1 / 2)])
def test_a_rare_class_is_drawn_as_often_as_the_balance_says(balance, share):
    labels = torch.tensor([0] * 80 + [1] * 20 + [1] * 300)         # the last 300 are not in train
    dataset = numbered(labels, train=np.random.default_rng(0).permutation(100))
    drawn = batches(dataset, "train", 100, 0, OFF, class_balance=balance)
    rows = torch.cat([x[:, 0, 0, 0] for x in islice(drawn, 100)])  # (10_000,)
    assert rows.max() < 100
    assert float((rows >= 80).float().mean()) == pytest.approx(share, abs=0.02)
    often = torch.bincount(rows.long()).double()                   # images of one class are alike
    assert often[:80].min() > 0.5 * often[:80].mean()
    assert often[80:].min() > 0.5 * often[80:].mean()


def test_without_balance_batches_are_shuffled_passes_bit_by_bit(dataset):
    config, rows = Augment(), dataset.splits["train"]
    plain = batches(dataset, "train", 16, 3, config)
    balanced = batches(dataset, "train", 16, 3, config, class_balance=0.0)
    for (step, i), a, b in islice(zip(shuffled_indices(len(rows), 16, 3), plain, balanced), 12):
        rng = torch.Generator().manual_seed(3 * 1_000_003 + step)
        expected = augment(dataset.squares(rows[i]), config, dataset.geometry.crop, rng)
        assert torch.equal(a, expected)
        assert torch.equal(b, expected)


def test_an_image_is_augmented_in_another_way_each_time():
    one = SimpleNamespace(
        splits={"train": np.array([0])},
        labels=torch.tensor([0]),
        geometry=Geometry(16, None),
        squares=lambda rows: torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0)),
    )
    seen = torch.cat(list(islice(batches(one, "train", 1, 0, Augment()), 20)))
    assert len(torch.unique(seen, dim=0)) == 20


def test_batches_come_from_their_split_only(dataset):
    rows = dataset.splits["validation"]
    seen = torch.cat(list(islice(batches(dataset, "validation", len(rows), 0, OFF), 3)))
    assert torch.equal(torch.unique(seen, dim=0), torch.unique(dataset[rows], dim=0))
