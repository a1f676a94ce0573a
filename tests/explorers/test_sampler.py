"""Laws of the sampler: every setting of `generate` counts, and neighbours are true neighbours."""
from dataclasses import replace

import pytest
import torch

from vqlib.evaluation import memorisation
from vqlib.explorers.sampler import SamplerExplorer
from vqlib.pipeline import sampling_for


def last(explorer, **request):
    return [reply for reply in explorer.answer(request) if reply][-1]


@pytest.mark.parametrize("setting", [
    {"label": "mel"}, {"label": "any"}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.3},
    {"first_top_p": 0.1}, {"guidance": 4.0}, {"seed": 12}])
def test_samples_are_what_generate_draws_with_the_settings_shown(pipeline, setting):
    found = last(SamplerExplorer(pipeline), do="draw", n=2, **{"label": "nv", **setting})
    setting = {"label": "nv", "seed": 0, **setting}
    label, seed = pipeline.label(setting.pop("label")), setting.pop("seed")
    sampling = sampling_for(pipeline.labels[label], **setting)
    codes = pipeline.gpt.generate(torch.full((2,), label), **sampling, seed=seed)
    assert found["codes"] == codes.tolist()
    shown = found["settings"]
    assert {name: shown[name] for name in sampling} == sampling
    assert (shown["class"], shown["n"], shown["seed"]) == (pipeline.labels[label], 2, seed)


@pytest.mark.parametrize(("setting", "named"), [
    ({"seed": 99999999999999999999999}, "seed"), ({"seed": None}, "seed is empty"), ({"n": 0}, "0"),
    ({"n": 99}, "99"), ({"label": "class 7"}, "'class 7'"), ({"temperature": 0}, "temperature 0"),
    ({"top_p": 2}, "top_p 2"), ({"top_k": 17}, "top_k 17"), ({"guidance": "x"}, "guidance x"),
    ({"colour": 1}, "'colour'"), ({"decoder": "sharp"}, "'sharp'")])
def test_a_senseless_setting_is_named_in_one_line(pipeline, setting, named):
    line = last(SamplerExplorer(pipeline), do="draw", **setting)["error"]
    assert named in line


def test_it_opens_with_samples_and_the_shipped_settings(pipeline):
    found = SamplerExplorer(pipeline).opened()
    assert len(found["images"]) == 4
    assert found["defaults"] == {"temperature": 1.0, "top_k": 0, "top_p": 1.0,
                                 "first_top_p": 0.95, "guidance": 2.0}
    assert found["labels"][-1] == "any"
    assert found["decoders"] == ["flow", "least-squares"]


def test_neighbours_are_those_of_the_memorisation_measure(pipeline, dataset):
    explorer = SamplerExplorer(pipeline, dataset)
    codes = explorer.opened()["codes"]
    found = last(explorer, do="nearest", codes=codes, decoder="flow")["near"]
    rows = dataset.splits["train"]
    images = pipeline.decode(torch.tensor(codes), "flow")
    distance, best = memorisation.nearest(memorisation.augmented_thumbnails(images),
                                          memorisation.thumbnail_bank(dataset, rows))
    assert [tile["name"] for tile in found] == [dataset.names[rows[i]] for i in best]
    assert [tile["distance"] for tile in found] == pytest.approx(distance.tolist(), abs=1e-3)


def test_without_photographs_a_line_says_where_they_go(pipeline):
    line = last(SamplerExplorer(pipeline), do="nearest", codes=[[0] * 16], decoder="flow")["error"]
    assert "data/ham10000" in line


def test_without_a_prior_every_way_on_is_named(pipeline):
    with pytest.raises(ValueError, match=r"notebook 04.*train prior.*ship"):
        SamplerExplorer(replace(pipeline, gpt=None))
