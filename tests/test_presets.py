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
    assert preset.gpt.grid == preset.windowed.grid == preset.vqvae.grid
    assert preset.gpt.n_codes == preset.windowed.n_codes == preset.vqvae.n_codes
    assert preset.sharp.code_dim == preset.vqvae.code_dim
    assert 2**preset.vqvae.n_down % preset.sharp.patch == 0
    assert preset is PRESETS[preset.name]


@each
def test_every_run_trains_at_a_positive_rate_to_its_end_and_is_evaluated(preset):
    for run in (
        preset.vqvae_training,
        preset.flow_decoder_training,
        preset.gpt_training,
        preset.windowed_training,
    ):
        assert all(run.lr(step) > 0 for step in (0, run.steps // 2, run.steps - 1))
    for run in (preset.gpt_training, preset.windowed_training):
        assert run.eval_every <= run.steps


@each
def test_the_counterpart_differs_only_in_the_codebook_and_how_it_is_trained(preset):
    other = preset.baseline
    assert other.scale_by_pixels != preset.scale_by_pixels
    assert other.vqvae.data_init != preset.vqvae.data_init
    assert (other.vqvae.reset_threshold > 0) != (preset.vqvae.reset_threshold > 0)
    same = dict(data_init=True, reset_threshold=0.0)
    assert replace(other.vqvae, **same) == replace(preset.vqvae, **same)
    steps = preset.baseline_steps or preset.vqvae_training.steps
    assert replace(other.vqvae_training, cosine=True) == replace(
        preset.vqvae_training, cosine=True, steps=steps
    )
    back = other.baseline
    assert back.scale_by_pixels == preset.scale_by_pixels
    assert back.vqvae == preset.vqvae


def test_report_has_the_settings_of_the_report():
    p = PRESETS["report"]
    assert (p.geometry.crop, p.geometry.resize) == (128, None)  # raw centre crops
    assert (p.augment.flip, p.augment.rotate, p.augment.dihedral) == (0.4, 10.0, False)
    v, run = p.vqvae, p.vqvae_training
    assert (v.grid, v.n_codes, v.code_dim, v.beta, v.decay) == (32, 512, 128, 0.25, 0.99)
    assert (v.hidden, v.residual_hidden, v.residual_layers) == (64, 32, 2)
    assert (v.data_init, v.reset_threshold, p.scale_by_pixels) == (False, 0.0, True)
    assert (run.steps, run.batch) == (15_000, 256)
    w, run = p.windowed, p.windowed_training
    assert (w.window, w.width, w.heads, w.layers, w.dropout) == (256, 128, 6, 6, 0.2)
    assert (run.steps, run.batch, run.lrs, run.cosine, run.seed) == (
        600_000,
        128,
        (4e-4, 4e-4, 5e-5),
        False,
        1337,
    )


def test_the_flagship_has_256_codes_an_image_and_heads_that_divide():
    p = PRESETS["flagship"]
    assert p.vqvae.grid**2 == 256
    assert p.gpt.width % p.gpt.heads == 0
    assert len(set(p.views)) == len(p.views) == 4  # thrifty codes take long to find
    assert set(p.views) <= set(range(8))
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
    _, card = load_model(path)
    preset, kind = PRESETS[card["preset"]], card["kind"]
    preset = preset.baseline if path.stem.startswith("baseline") else preset
    config = (
        replace(preset.gpt, n_classes=len(card["classes"]))
        if kind == "gpt"
        else getattr(preset, kind)
    )
    expected = json.loads(json.dumps([asdict(config), asdict(getattr(preset, f"{kind}_run"))]))
    assert [card["config"], card["run"]] == expected
    if path.stem.startswith("vqvae") and preset.decoder_run:
        assert card["finished"] == json.loads(json.dumps(asdict(preset.decoder_run)))
    assert path.with_suffix(".jsonl").exists()
