"""Laws of the settings: the parts of a preset fit together, and `report` is the report."""
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from vqlib.checkpoint import load_model
from vqlib.presets import PRESETS, choose

SHIPPED = sorted(
    (Path(__file__).resolve().parent.parent / "data" / "pretrained").glob("*.safetensors")
)

each = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


@each
def test_the_parts_of_a_preset_fit_together(preset):
    assert preset.vqvae.image_size == preset.geometry.crop
    for prior in filter(None, (preset.prior, preset.windowed)):
        assert prior.grid == preset.vqvae.grid
        assert prior.n_codes == preset.vqvae.n_codes
    if preset.flow_decoder:
        assert preset.flow_decoder.code_dim == preset.vqvae.code_dim
        assert 2**preset.vqvae.n_down % preset.flow_decoder.patch == 0
    assert preset is PRESETS[preset.name]


@each
def test_a_model_of_a_preset_has_settings_of_its_training_and_a_vqvae_is_always_there(preset):
    for model in ("vqvae", "prior", "windowed", "flow_decoder"):
        trained = getattr(preset, f"{model}_training")
        assert (getattr(preset, model) is None) == (trained is None)
    assert preset.vqvae


def test_only_flagship_f4_is_a_vqvae_alone():
    bare = [p.name for p in PRESETS.values() if not (p.prior and p.windowed and p.flow_decoder)]
    assert bare == ["flagship-f4"]


@each
def test_every_run_trains_at_a_positive_rate_to_its_end_and_is_evaluated(preset):
    priors = [preset.prior_training, preset.windowed_training]
    for config in filter(None, (preset.vqvae_training, preset.flow_decoder_training, *priors)):
        assert all(config.lr(s) > 0 for s in (0, config.steps // 2, config.steps - 1))
    for config in filter(None, priors):
        assert config.eval_every <= config.steps


@each
def test_the_baseline_differs_only_in_the_codebook_and_how_it_is_trained(preset):
    other = preset.baseline
    assert other.divide_by_pixel_variance != preset.divide_by_pixel_variance
    assert other.vqvae.data_init != preset.vqvae.data_init
    assert (other.vqvae.reset_threshold > 0) != (preset.vqvae.reset_threshold > 0)
    same = dict(data_init=True, reset_threshold=0.0, decay=0.99)
    assert replace(other.vqvae, **same) == replace(preset.vqvae, **same)
    steps = preset.baseline_steps or preset.vqvae_training.steps
    assert (other.vqvae_training.steps, other.vqvae_training.batch) == (
        steps, preset.vqvae_training.batch)
    unchanged = dict(vqvae=preset.vqvae, vqvae_training=preset.vqvae_training,
                     divide_by_pixel_variance=preset.divide_by_pixel_variance)
    assert replace(other, **unchanged) == preset


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "report"])
def test_the_baseline_has_the_codebook_and_the_schedule_of_the_report(name):
    report, baseline = PRESETS["report"], PRESETS[name].baseline
    for setting in ("data_init", "reset_threshold", "decay", "beta"):
        assert getattr(baseline.vqvae, setting) == getattr(report.vqvae, setting)
    length = dict(steps=1, batch=1)
    expected = replace(report.vqvae_training, **length)
    assert replace(baseline.vqvae_training, **length) == expected


def test_the_baseline_of_the_reports_baseline_is_the_report():
    report = PRESETS["report"]
    back = report.baseline.baseline
    assert (back.vqvae, back.vqvae_training) == (report.vqvae, report.vqvae_training)


def test_both_priors_of_the_flagship_are_trained_alike():
    flagship = PRESETS["flagship"]
    assert flagship.prior_training == flagship.windowed_training


def test_report_has_the_settings_of_the_report():
    p = PRESETS["report"]
    assert (p.geometry.crop, p.geometry.resize) == (128, None)  # raw centre crops
    assert (p.augment.flip, p.augment.rotate, p.augment.dihedral) == (0.4, 10.0, False)
    v, training = p.vqvae, p.vqvae_training
    assert (v.grid, v.n_codes, v.code_dim, v.beta, v.decay) == (32, 512, 128, 0.25, 0.99)
    assert (v.hidden, v.residual_hidden, v.residual_layers) == (64, 32, 2)
    assert (v.data_init, v.reset_threshold, p.divide_by_pixel_variance) == (False, 0.0, True)
    assert (training.steps, training.batch) == (15_000, 256)
    w, training = p.windowed, p.windowed_training
    assert (w.window, w.width, w.heads, w.layers, w.dropout) == (256, 128, 6, 6, 0.2)
    assert (training.steps, training.batch, training.lrs, training.cosine, training.seed) == (
        600_000,
        128,
        (4e-4, 4e-4, 5e-5),
        False,
        1337,
    )


def test_the_flagship_has_256_codes_an_image_and_heads_that_divide():
    p = PRESETS["flagship"]
    assert p.vqvae.grid**2 == 256
    assert p.prior.width % p.prior.heads == 0
    assert len(set(p.prior_augmentations)) == len(p.prior_augmentations) == 4
    assert set(p.prior_augmentations) <= set(range(8))
    assert p.augment.dihedral


def test_presets_grow_from_smoke_to_the_flagship():
    cost = [
        math.prod((p.vqvae_training.steps, p.vqvae_training.batch, p.geometry.crop**2))
        for p in PRESETS.values()
    ]
    assert [*PRESETS][:2] == ["smoke", "quick"]
    assert cost[0] < cost[1] < min(cost[2:])


def test_a_name_wins_over_the_variable_which_wins_over_quick(monkeypatch):
    monkeypatch.delenv("VQLIB_PRESET", raising=False)
    assert choose().name == "quick"
    monkeypatch.setenv("VQLIB_PRESET", "smoke")
    assert choose().name == "smoke"
    assert choose("report").name == "report"


def test_an_unknown_name_is_refused_with_the_known_ones(monkeypatch):
    monkeypatch.setenv("VQLIB_PRESET", "qiuck")
    with pytest.raises(ValueError, match=r"'qiuck'.*smoke, quick, report, flagship"):
        choose()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_what_ships_was_trained_by_the_settings_of_its_preset(path):
    shipped, metadata = load_model(path)
    preset, name = PRESETS[metadata["preset"]], path.stem.rpartition("-")[0]
    preset = preset.baseline if name == "baseline" else preset
    model = {"baseline": "vqvae", "flow-decoder": "flow_decoder"}.get(name, name)
    config, training = getattr(preset, model), getattr(preset, f"{model}_training")
    if model == "prior":
        config = replace(config, n_classes=len(metadata["classes"]))
    assert shipped.cfg == config
    assert metadata["training"] == json.loads(json.dumps(asdict(training)))
    assert path.with_suffix(".jsonl").exists()
