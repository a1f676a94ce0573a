"""Laws of the linear probe, class-conditional recall and the classification accuracy score."""
import pytest
import torch

pytest.importorskip("sklearn")

from vqlib.evaluation.probe import (
    Probe,
    class_conditional_recall,
    classification_accuracy_score,
)


def blobs(n, classes=(0, 1, 2), seed=0, gap=2.0, d=8):
    """(n per class, d) Gaussians whose means lie `gap` along their class's own axis."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.tensor(classes).repeat_interleave(n)
    return torch.randn(len(y), d, generator=rng) + gap * torch.eye(d)[y], y


def test_separate_classes_are_all_recalled():
    scores = Probe(*blobs(50), 3).scores(*blobs(20, seed=1, gap=8))
    assert scores["recall"] == [1, 1, 1]
    assert scores["auc"] == scores["balanced_accuracy"] == 1


def test_equal_classes_are_guessed():
    scores = Probe(*blobs(200), 3).scores(*blobs(200, seed=1, gap=0))
    assert scores["auc"] == pytest.approx(0.5, abs=0.06)


def test_classes_count_equally_however_rare():
    (x, y), held_out = blobs(400), blobs(100, seed=1)
    rare = torch.cat([torch.nonzero(y == k)[: 400 if k else 20, 0] for k in range(3)])
    assert Probe(x[rare], y[rare], 3).scores(*held_out)["recall"][0] > 0.6


def test_a_class_that_is_not_held_out_has_no_recall():
    scores = Probe(*blobs(50), 3).scores(*blobs(20, (0, 2), seed=1))
    assert scores["recall"][1] is None
    assert scores["auc"] > 0.8


def test_a_class_that_training_lacks_is_never_recalled():
    scores = Probe(*blobs(50, (0, 2)), 3).scores(*blobs(20, seed=1))
    assert scores["recall"][1] == 0


def test_training_on_each_image_twice_changes_nothing():
    (x, y), held_out = blobs(50), blobs(20, seed=1)[0]
    once, twice = (Probe(x.repeat(n, 1), y.repeat(n), 3).probabilities(held_out) for n in (1, 2))
    assert once == pytest.approx(twice, abs=1e-4)


def test_a_single_held_out_class_has_no_auc():
    assert Probe(*blobs(50), 3).scores(*blobs(20, (1,), seed=1))["auc"] is None


def test_a_single_class_is_refused():
    with pytest.raises(ValueError, match="at least two classes"):
        Probe(*blobs(50, (1,)), 3)


def test_recall_ratio_is_1_when_generated_images_are_the_real_ones():
    held_out = blobs(40, seed=1)
    assert class_conditional_recall(Probe(*blobs(60), 3), held_out, held_out)["ratio"] == 1


def test_recall_is_a_guess_when_labels_are_ignored():
    x, y = blobs(300, seed=1)
    mixed = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))], y
    found = class_conditional_recall(Probe(*blobs(100, gap=3), 3), (x, y), mixed)
    assert sum(found["recall"]) / 3 == pytest.approx(1 / 3, abs=0.06)


def test_recall_ratio_averages_over_classes_that_both_have():
    probe, held_out = Probe(*blobs(60, gap=8), 3), blobs(20, (0, 1), gap=8)
    assert class_conditional_recall(probe, held_out, blobs(20, (1, 2), gap=8))["ratio"] == 1
    probe = Probe(*blobs(60), 3)
    assert class_conditional_recall(probe, blobs(20, (0,)), blobs(20, (1,)))["ratio"] is None


def test_real_images_have_a_score_of_1():
    train = blobs(60)
    score = classification_accuracy_score(Probe(*train, 3), train, train, blobs(60, seed=1))
    assert score["ratio_generated"] == 1
    assert score["auc"]["both"] / score["auc"]["real"] == pytest.approx(1, abs=0.02)


def test_a_probe_learns_nothing_from_noise():
    train = blobs(60)
    noise, held_out = blobs(60, seed=2, gap=0), blobs(100, seed=1)
    score = classification_accuracy_score(Probe(*train, 3), train, noise, held_out)
    assert score["ratio_generated"] < 0.8
