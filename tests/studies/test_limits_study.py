"""Laws of the limits study."""
from dataclasses import replace

from conftest import TINY

from vqlib.presets import PRESETS
from vqlib.studies.limits_study import LimitsRow, LimitsStudy
from vqlib.train import TrainConfig


def test_a_longer_run_of_the_same_vqvae_reconstructs_better(dataset):
    training = TrainConfig(steps=1, batch=8, lrs=(3e-3,))
    study = LimitsStudy(dataset, replace(PRESETS["smoke"], vqvae=TINY, vqvae_training=training))
    short, long = (study.measure(LimitsRow("", "", steps), seed=0) for steps in (10, 120))
    assert short["psnr"] + 1 < long["psnr"]
    assert short["ssim"] < long["ssim"]
