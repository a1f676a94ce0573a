"""Laws of the whole evaluation, on 16 px images and features that cost nothing."""
import copy
import json

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("constriction")

import vqlib.evaluation.features
from vqlib.evaluation import context as contexts
from vqlib.evaluation import layout_stats
from vqlib.evaluation.context import EvaluationContext, pick
from vqlib.evaluation.parts import Parts
from vqlib.evaluation.suite import class_conditional, evaluate_generation, sweep_sampling


def cheap(images, batch=16, device="cpu"):
    """(n, 27): 3 x 3 cells in place of Lite0's features."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 3).flatten(1).cpu()


@pytest.fixture(autouse=True)
def _cheap_features(monkeypatch):
    for module in (vqlib.evaluation.features, contexts):
        monkeypatch.setattr(module, "features", cheap)
    monkeypatch.setattr(vqlib.evaluation.features, "NAME", "cheap")


SMALL = dict(per_class=3, rate_images=2)


def evaluated(vqvae, gpt, dataset, **options):
    """With the VQ-VAE's own decoder in place of a flow decoder."""
    options = {"stochastic_decoder": vqvae, "sampling": {"temperature": 0.9}} | options
    return evaluate_generation(vqvae, gpt, dataset, "validation", **options, **SMALL)


@pytest.fixture(scope="module")
def made():
    """What `result` has made; once is enough for tests that read it."""
    return []


@pytest.fixture
def result(made, vqvae, gpt, dataset):
    if not made:
        made.append(evaluated(vqvae, gpt, dataset))
    return copy.deepcopy(made[0])


def test_a_result_is_json_and_says_how_it_was_made(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    settings = {"top_k": 0, "top_p": 1.0, "first_top_p": 1.0, "guidance": 1.0}
    assert result["sampling"] == {"temperature": 0.9, **settings}


def test_the_same_seed_gives_the_same_result(result, vqvae, gpt, dataset):
    assert evaluated(vqvae, gpt, dataset) == result


def test_two_decoders_that_are_one_have_the_same_distances(vqvae, gpt, dataset):
    options = dict(n=12, stochastic_decoder=vqvae)
    r = evaluate_generation(vqvae, gpt, dataset, "all", **options, **SMALL)
    for part in (r["samples"]["distances"], r["reconstructions"]):
        assert "kid_x1000" in part["flow"]
        assert part["flow"] == part["least-squares"]


def test_without_training_images_what_needs_them_says_why(vqvae, gpt, dataset):
    # the folder's own train split is part of the held-out images
    r = evaluate_generation(vqvae, gpt, dataset, "all", n=12, **SMALL)
    for skipped in (r["references"]["train"], r["probe"], r["samples"]["memorisation"]):
        assert "pass train=(dataset, split)" in skipped["skipped"]
    assert "reference" not in r["samples"]["layout"]


def test_training_images_may_come_from_another_data_set(vqvae, gpt, dataset):
    train = dataset, "train"
    r = evaluate_generation(vqvae, gpt, dataset, "validation", train=train, **SMALL)
    assert r["probe"]["images"] == len(dataset.splits["train"])


def test_without_a_prior_reconstructions_and_references_remain(vqvae, dataset):
    r = evaluate_generation(vqvae, None, dataset, "validation", **SMALL)
    assert r["samples"] == {"skipped": "no prior"}
    assert set(r["reconstructions"]) >= {"least-squares", "jpeg"}
    assert "decoders" not in r["probe"]
    assert set(r["references"]) == {"train"}


def test_rates_are_those_of_the_nearest_and_of_entropy_constrained_codes(
    vqvae, gpt, dataset, result
):
    names = [*result["rates"]["codes"]]
    assert names[0] == "nearest codes"
    context = EvaluationContext(vqvae, gpt, dataset, "validation")
    codes = context.encode(context.images[:2])
    distances = vqvae.encoder(vqvae.normalise(context.images[:2])) - vqvae.quantizer.lookup(codes)
    mean = float(distances.detach().square().sum(1).mean())
    lambdas = [float(name.rpartition(" ")[2]) for name in names[1:]]
    assert lambdas == pytest.approx([share * mean for share in (0.1, 0.2, 0.5)], rel=0.05)
    assert len({point["psnr"] for point in result["rates"]["codes"].values()}) > 1


def test_a_windowed_prior_is_refused_by_name(vqvae, windowed, dataset):
    with pytest.raises(ValueError, match="a windowed prior has no classes"):
        EvaluationContext(vqvae, windowed, dataset, "validation")


def test_progress_announces_the_images_that_are_looked_at(vqvae, gpt, dataset):
    parts = Parts()
    evaluate_generation(vqvae, gpt, dataset, "validation", parts=parts,
                        stochastic_decoder=FlowLike(vqvae), **SMALL)
    assert parts.done == parts.total > 0


class FlowLike:
    """A second decoder: the VQ-VAE's own under another name."""

    def __init__(self, vqvae):
        self.decode = vqvae.decode


def test_an_evaluation_that_failed_at_its_end_goes_on_there(
    vqvae, gpt, dataset, tmp_path, monkeypatch, result
):
    def options():
        return dict(stochastic_decoder=vqvae, sampling={"temperature": 0.9},
                    parts=Parts(tmp_path / "parts", {}), **SMALL)

    def fail(*args):
        raise RuntimeError("invalid blob")

    with monkeypatch.context() as m:
        m.setattr("vqlib.evaluation.suite.rate_distortion", fail)
        with pytest.raises(RuntimeError):
            evaluate_generation(vqvae, gpt, dataset, "validation", **options())
    with monkeypatch.context() as m:
        m.setattr("vqlib.evaluation.suite.class_conditional", fail)  # not called again
        assert evaluate_generation(vqvae, gpt, dataset, "validation", **options()) == result


def test_samples_of_a_class_may_have_a_guidance_of_their_own(vqvae, gpt, dataset, result):
    r = evaluated(vqvae, gpt, dataset, class_guidance=9.0)
    assert r["samples"] == result["samples"]
    assert r["probe"]["decoders"] != result["probe"]["decoders"]


def test_both_decoders_show_every_sample_twice(result):
    one, both = (result["probe"]["decoders"][name] for name in ("least-squares", "both decoders"))
    assert both["cas"]["images"]["generated"] == 2 * one["cas"]["images"]["generated"]
    # here both are the same decoder
    assert both["class_conditional_recall"] == one["class_conditional_recall"]
    again = one["cas"]["ratio_reconstructions"]
    assert both["cas"]["ratio_reconstructions"] == pytest.approx(again, abs=0.02)


def test_a_probe_learns_as_much_from_lossless_codes_as_from_photographs(
    vqvae, gpt, dataset, result, monkeypatch
):
    decode = EvaluationContext.decode

    def lossless(self, codes, decoder=None):
        return codes if codes.dim() == 4 else decode(self, codes, decoder)

    monkeypatch.setattr(EvaluationContext, "encode", lambda self, images, encoder=None: images)
    monkeypatch.setattr(EvaluationContext, "decode", lossless)
    context = EvaluationContext(vqvae, gpt, dataset, "validation")
    every = len(context.train_rows)                                  # of each class
    found = class_conditional(context, every)["decoders"]["least-squares"]
    assert found["cas"]["ratio_reconstructions"] == 1
    assert found["class_conditional_recall"]["ratio_reconstructions"] == 1
    lossy = result["probe"]["decoders"]["least-squares"]
    assert lossy["cas"]["ratio_reconstructions"] != 1


def test_very_few_images_give_reasons_and_no_error(vqvae, gpt, dataset):
    r = evaluate_generation(vqvae, gpt, dataset, "validation", n=2, **SMALL)
    assert "8 of each" in r["samples"]["distances"]["least-squares"]["skipped"]


def test_an_empty_split_is_refused(vqvae, gpt, dataset):
    members = {"splits": {"none": np.array([], int)}, "title": "nothing"}
    empty = type("Empty", (), members)
    with pytest.raises(ValueError, match="split none of nothing has no image"):
        EvaluationContext(vqvae, gpt, empty, "none")


def test_a_prior_of_other_classes_is_refused(vqvae, gpt, dataset):
    with pytest.raises(ValueError, match="the prior knows 7 classes"):
        EvaluationContext(vqvae, gpt, dataset, "validation", classes=["mel", "nv"])


def test_a_class_that_the_prior_does_not_know_is_drawn_as_any(vqvae, gpt, dataset):
    others = ["a", "b", "c", "d", "e", "f", "g"]
    context = EvaluationContext(vqvae, gpt, dataset, "validation", classes=others)
    assert context.class_names == others + sorted(dataset.classes)
    any_class = torch.full((len(context.labels),), 7)
    assert torch.equal(context.generate(context.labels, 0), gpt.generate(any_class, seed=0))


def test_a_sweep_repeats_its_settings_and_moves_with_them(vqvae, gpt, dataset):
    settings = [{"temperature": 0.5}, {"top_k": 1}, {"temperature": 0.5}]
    rows = sweep_sampling(vqvae, gpt, dataset, "validation", settings)["rows"]
    assert rows[0] == rows[2] != rows[1]
    assert rows[1]["setting"] == {"top_k": 1}
    # the reference: as many photographs, against all of them
    context = EvaluationContext(vqvae, gpt, dataset, "validation")
    train = context.train_layout
    real = {name: values[: len(context.images)] for name, values in train.items()}
    expected = layout_stats.compare([real], train, train)["reference"]
    assert rows[0]["layout"]["reference"] == expected


def test_a_sweep_without_a_prior_is_refused(vqvae, dataset):
    with pytest.raises(ValueError, match="needs a prior"):
        sweep_sampling(vqvae, None, dataset, "validation")


def test_picks_are_a_seeded_part_without_repeats():
    rows = np.arange(100, 150)
    few = pick(rows, 10, 0)
    assert len(set(few)) == 10
    assert set(few) <= set(rows)
    assert np.array_equal(few, pick(rows, 10, 0))
    assert len(pick(rows, None, 0)) == len(pick(rows, 99, 0)) == 50
