"""Laws of the whole report, on 16 px images and features that cost nothing."""
import dataclasses
import json

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("constriction")

import vqlib.evaluation.features
from vqlib.evaluation import suite as judging
from vqlib.evaluation.suite import Bench, judge, pick, sweep


def cheap(images, batch=16, device="cpu"):
    """(n, 27): 3 x 3 cells in place of Lite0's features."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 3).flatten(1).cpu()


@pytest.fixture(autouse=True)
def _cheap_features(monkeypatch):
    for module in (vqlib.evaluation.features, judging, judging.memorisation):
        monkeypatch.setattr(module, "features", cheap)


SMALL = dict(per_class=3, rate_images=2)


@pytest.fixture
def report(vqvae, gpt, dataset):
    return judge(vqvae, gpt, dataset, "validation", sharp=vqvae.decode, sampling={"temperature": 0.9}, **SMALL)


def test_a_report_is_json_and_says_how_it_was_made(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["sampling"] == {"temperature": 0.9, "top_k": 0, "top_p": 1.0, "first_top_p": 1.0, "guidance": 1.0}


def test_the_same_seed_gives_the_same_report(report, vqvae, gpt, dataset):
    again = judge(vqvae, gpt, dataset, "validation", sharp=vqvae.decode, sampling={"temperature": 0.9}, **SMALL)
    assert again == report


def test_a_sharp_decoder_that_is_the_faithful_one_is_as_far(report):
    assert report["samples"]["distances"]["sharp"] == report["samples"]["distances"]["faithful"]
    assert report["reconstructions"]["sharp"] == report["reconstructions"]["faithful"]


def test_without_training_images_their_figures_say_why(vqvae, gpt, dataset):
    r = judge(vqvae, gpt, dataset, "all", n=12, **SMALL)             # the folder's own train split is part of the test set
    for skipped in (r["floors"]["train"], r["probe"], r["samples"]["memorised"]):
        assert "pass train=(dataset, split)" in skipped["skipped"]
    assert "floor" not in r["samples"]["structure"]


def test_training_images_may_come_from_another_data_set(vqvae, gpt, dataset):
    r = judge(vqvae, gpt, dataset, "validation", train=(dataset, "train"), **SMALL)
    assert r["probe"]["images"] == len(dataset.splits["train"])


def test_without_a_prior_reconstructions_and_floors_remain(vqvae, dataset):
    r = judge(vqvae, None, dataset, "validation", **SMALL)
    assert r["samples"] == {"skipped": "no prior"}
    assert set(r["reconstructions"]) >= {"faithful", "jpeg"}
    assert "looks" not in r["probe"]


def test_codes_that_a_prior_is_for_are_judged_beside_the_nearest(vqvae, gpt, dataset):
    gpt.cfg = dataclasses.replace(gpt.cfg, rate=1.0)
    r = judge(vqvae, gpt, dataset, "validation", **SMALL)
    assert set(r["reconstructions"]) >= {"faithful", "faithful, thrifty codes"}
    near, *_, thrifty = r["rates"]["codes"].values()
    assert list(r["rates"]["codes"])[::3] == ["nearest codes", "thrifty codes, rate 1.0"]
    assert thrifty["psnr"] < near["psnr"]
    assert thrifty["prior"]["bits_per_image"] < near["prior"]["bits_per_image"]


def test_samples_of_a_class_may_have_a_guidance_of_their_own(vqvae, gpt, dataset, report):
    r = judge(vqvae, gpt, dataset, "validation", sharp=vqvae.decode, sampling={"temperature": 0.9}, class_guidance=9.0, **SMALL)
    assert r["samples"] == report["samples"]
    assert r["probe"]["looks"] != report["probe"]["looks"]


def test_in_both_looks_every_sample_is_seen_twice(report):
    faithful, both = (report["probe"]["looks"][name] for name in ("faithful", "both looks"))
    assert both["cas"]["images"]["generated"] == 2 * faithful["cas"]["images"]["generated"]
    assert both["class_control"] == faithful["class_control"]        # here both are the same look
    assert both["cas"]["ratio_reconstructions"] == pytest.approx(faithful["cas"]["ratio_reconstructions"], abs=0.02)


def test_codes_that_lose_nothing_teach_as_much_as_photographs(vqvae, gpt, dataset, report, monkeypatch):
    decode = Bench.decode
    monkeypatch.setattr(Bench, "encode", lambda self, images, by=None: images)
    monkeypatch.setattr(Bench, "decode", lambda self, codes, by=None: codes if codes.dim() == 4 else decode(self, codes, by))
    said = judging.teaching(Bench(vqvae, gpt, dataset, "validation"), 3)["looks"]["faithful"]
    assert said["cas"]["ratio_reconstructions"] == said["reconstructions"] == 1
    assert report["probe"]["looks"]["faithful"]["cas"]["ratio_reconstructions"] != 1


def test_very_few_images_give_reasons_and_no_error(vqvae, gpt, dataset):
    r = judge(vqvae, gpt, dataset, "validation", n=2, **SMALL)
    assert "8 of each" in r["samples"]["distances"]["faithful"]["skipped"]


def test_an_empty_split_is_refused(vqvae, gpt, dataset):
    empty = type("Empty", (), {"splits": {"none": np.array([], int)}, "title": "nothing"})
    with pytest.raises(ValueError, match="split none of nothing has no image"):
        Bench(vqvae, gpt, empty, "none")


def test_a_prior_of_other_classes_is_refused(vqvae, gpt, dataset):
    with pytest.raises(ValueError, match="the prior knows 7 classes"):
        Bench(vqvae, gpt, dataset, "validation", classes=["mel", "nv"])


def test_a_class_that_the_prior_does_not_know_is_drawn_as_any(vqvae, gpt, dataset):
    others = ["a", "b", "c", "d", "e", "f", "g"]
    bench = Bench(vqvae, gpt, dataset, "validation", classes=others)
    assert bench.names == others + sorted(dataset.classes)
    assert torch.equal(bench.generate(bench.labels, 0), gpt.generate(torch.full((len(bench.labels),), 7), seed=0))


def test_a_sweep_repeats_its_settings_and_moves_with_them(vqvae, gpt, dataset):
    table = sweep(vqvae, gpt, dataset, "validation", [{"temperature": 0.5}, {"top_k": 1}, {"temperature": 0.5}])["rows"]
    assert table[0] == table[2] != table[1]
    assert table[1]["setting"] == {"top_k": 1}
    bench = Bench(vqvae, gpt, dataset, "validation")                  # as many photographs, against all of them
    real = {k: v[: len(bench.images)] for k, v in bench.shapes.items()}
    assert table[0]["structure"]["floor"] == judging.structure.compare([real], bench.shapes, bench.shapes)["floor"]


def test_picks_are_a_seeded_part_without_repeats():
    rows = np.arange(100, 150)
    few = pick(rows, 10, 0)
    assert len(set(few)) == 10
    assert set(few) <= set(rows)
    assert np.array_equal(few, pick(rows, 10, 0))
    assert len(pick(rows, None, 0)) == len(pick(rows, 99, 0)) == 50
