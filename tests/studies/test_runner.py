"""Laws of the runner: no committed result is stale, and the command runs a study."""
import json
from dataclasses import replace

import pytest
import torch

import vqlib.evaluation.features
from vqlib.presets import PRESETS
from vqlib.studies import __main__ as command
from vqlib.studies import codec_study, results, transform_study
from vqlib.studies.codec_study import CodecStudy
from vqlib.studies.prior_study import PriorStudy, config
from vqlib.studies.runner import STUDIES, is_current
from vqlib.studies.study import FOLDER
from vqlib.studies.transform_study import TransformStudy

# the parts of a setup that only opening the data and the weights tells
OF_DATA = {"vqvae": {"data", "images"}, "prior": {"data", "images", "training_images"},
           "transform": {"data", "images"}, "limits": {"data", "images"},
           "codec": {"data", "training_images", "held_out", "weights"}}


def committed(name):
    return [json.loads(path.read_text()) for path in sorted(FOLDER.glob(f"{name}-*.json"))]


def small_features(images, batch=16, device="cpu"):
    """(n, 27): 3 x 3 cells in place of Lite0's features."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 3).flatten(1).cpu()


@pytest.fixture
def study(name, dataset, vqvae, gpt, monkeypatch):
    """The study of that name with its own settings, on tiny images and nets."""
    if name == "prior":
        return PriorStudy(vqvae, dataset, config(vqvae, len(dataset.classes)))
    if name == "codec":
        pytest.importorskip("sklearn")
        for module in (vqlib.evaluation.features, codec_study):
            monkeypatch.setattr(module, "features", small_features)
        monkeypatch.setattr(vqlib.evaluation.features, "NAME", "small")
        return CodecStudy(dataset, {"f8": vqvae, "f4": vqvae}, gpt, vqvae, {})
    return STUDIES[name](dataset)


@pytest.mark.parametrize("name", STUDIES)
def test_no_committed_result_is_stale(name, study):
    rows = {row.key: row for row in study.rows}
    for kept in committed(name):
        settings = study.settings(rows[kept["key"]], kept["seed"])
        assert settings["setup"].keys() == kept["setup"].keys()
        settings["setup"] |= {key: kept["setup"][key] for key in OF_DATA[name]}
        path = FOLDER / f"{name}-{kept['key']}-{kept['seed']}.json"
        assert is_current(path, settings), path.name
        assert kept.keys() - settings.keys() == {"metrics", "cpu_seconds", "torch"}


@pytest.mark.parametrize("name", STUDIES)
def test_committed_results_of_a_study_share_their_setup_and_cover_its_rows(name):
    found = committed(name)
    assert {kept["key"] for kept in found} == {row.key for row in STUDIES[name].rows}
    assert all(kept["setup"] == found[0]["setup"] for kept in found)
    for kept in found:
        assert kept["metrics"].keys() | {"structure"} >= STUDIES[name].columns.keys()


def test_the_committed_priors_trained_on_as_many_images_as_the_study_says():
    assert {kept["setup"]["training_images"] for kept in committed("prior")} == {PriorStudy.n_train}


def test_committed_results_are_small_and_have_no_path():
    for path in FOLDER.glob("*"):
        assert path.suffix == ".json"
        assert path.stat().st_size < 4096
        assert "/" not in path.read_text()


def test_the_command_opens_data_and_runs_what_has_no_result(home, tmp_path, monkeypatch, capsys):
    tiny = replace(PRESETS["smoke"], n_synthetic=60)
    monkeypatch.setattr(transform_study, "FLAGSHIP", tiny)
    monkeypatch.setattr(TransformStudy, "rows", TransformStudy.rows[:1])
    arguments = ["transform", "--data", "synthetic", "--seeds", "0", "--out", str(tmp_path / "out")]
    command.main(arguments)
    assert capsys.readouterr().out == "transform 8 0: done\n"
    assert 5 < results.read("transform", tmp_path / "out")["8"][0]["psnr"]
    command.main(arguments)
    assert capsys.readouterr().out == "transform 8 0: was there\n"
