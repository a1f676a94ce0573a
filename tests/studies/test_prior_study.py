"""Laws of the prior study: rows give their metrics, results are kept until a setting changes."""
import json
from dataclasses import replace

import pytest

from vqlib.gpt import GPTConfig
from vqlib.studies import results
from vqlib.studies.prior_study import ROWS, SAMPLED, PriorStudy
from vqlib.studies.runner import run
from vqlib.train import TrainConfig

ROW = {row.key: row for row in ROWS}


@pytest.fixture
def study(vqvae, dataset):
    cfg = GPTConfig(grid=4, n_codes=16, n_classes=7, width=8, heads=2, layers=1)
    return PriorStudy(vqvae, dataset, cfg, TrainConfig(steps=2, batch=4, eval_every=2),
                      n_train=12, n_samples=4)


@pytest.mark.parametrize("key", ["window", "ours", "average", "one-augmentation"])
def test_a_row_gives_its_metrics(study, key):
    measured = study.measure(ROW[key], seed=0)
    assert 0 < measured["bits"] < 6
    assert ("structure" in measured) == (key in SAMPLED)


def test_a_result_is_kept_and_not_made_again_until_a_setting_changes(study, tmp_path):
    row = ROW["one-augmentation"]
    assert run(study, row, 0, tmp_path)
    assert not run(study, replace(row, label="another name"), 0, tmp_path)
    study.training = replace(study.training, steps=1)
    assert run(study, row, 0, tmp_path)
    kept = json.loads((tmp_path / "prior-one-augmentation-0.json").read_text())
    assert kept["augmentations"] == 1
    assert kept["setup"]["updates"] == 1
    assert results.read("prior", tmp_path)["one-augmentation"][0] == kept["metrics"]
