"""Laws of weights that ship: taken where they belong, and never over what is there."""
import dataclasses
import json
import os

import pytest

from vqlib.checkpoint import load_model, save_model
from vqlib.data.augment import Augment
from vqlib.data.dataset import Dataset, statistics
from vqlib.data.sources import Source, read_synthetic
from vqlib.gpt import GPT
from vqlib.identity import weights_digest
from vqlib.presets import PRESETS
from vqlib.shipped import adopt
from vqlib.train import encode_dataset, read_log, train_prior, train_vqvae
from vqlib.vqvae import VQVAE
from vqlib.workspace import Workspace

pytestmark = pytest.mark.usefixtures("short")


def opened(tmp_path, source=None):
    """The workspace of the short smoke preset on some data."""
    smoke = PRESETS["smoke"]
    source = source or read_synthetic(40, 16, seed=0)
    return Workspace(smoke, Dataset(source, smoke.geometry, cache=tmp_path / "cache"), "cpu")


def vqvae_of(ws, folder, name="baseline"):
    """A finished VQ-VAE of the preset, or of its baseline."""
    p = ws.preset.baseline if name == "baseline" else ws.preset
    stats = statistics(ws.dataset)
    model = VQVAE(p.vqvae, stats["mean"], stats["std"])
    variance = stats["variance"] if p.divide_by_pixel_variance else 1.0
    loop = train_vqvae(model, ws.dataset, p.vqvae_training, p.augment, variance, folder)
    return model, loop


def prior_of(ws, vqvae, folder):
    cfg = dataclasses.replace(ws.preset.prior, n_classes=len(ws.dataset.classes))
    codes = encode_dataset(vqvae, ws.dataset, "train", ws.preset.prior_augmentations)
    held_out = encode_dataset(vqvae, ws.dataset, "validation")
    model = GPT(cfg)
    return model, train_prior(model, codes, held_out, ws.preset.prior_training, folder)


def ship(ws, pretrained, file, model, loop):
    """Train a model, and put it and a log where weights ship."""
    list(loop)
    save_model(pretrained / f"{file}.safetensors", model, **ws.metadata)
    (pretrained / f"{file}.jsonl").write_text('{"step": 4, "loss": 0.5}\n')


@pytest.fixture
def pretrained(tmp_path, short):
    """A folder of a VQ-VAE, a baseline and a prior under names that say nothing."""
    ws, folder = opened(tmp_path), tmp_path / "pretrained"
    vqvae, loop = vqvae_of(ws, None, "vqvae")
    ship(ws, folder, "z", vqvae, loop)
    ship(ws, folder, "m", *vqvae_of(ws, None))
    ship(ws, folder, "a.1", *prior_of(ws, vqvae, None))
    return folder


def take(pretrained, ws, folder):
    return adopt(pretrained, folder, ws.preset, ws.dataset)


def test_what_they_learnt_from_decides_and_not_their_names(pretrained, tmp_path):
    ws, folder = opened(tmp_path), tmp_path / "run"
    assert take(pretrained, ws, folder) == (["m", "z", "a.1"], [])
    for name, file in {"vqvae": "z", "baseline": "m", "prior": "a.1"}.items():
        there = folder / f"{name}.safetensors"
        assert there.read_bytes() == (pretrained / f"{file}.safetensors").read_bytes()
        assert read_log(folder / name) == [{"step": 4, "loss": 0.5}]


def test_they_are_finished_runs(pretrained, tmp_path):
    ws, folder = opened(tmp_path), tmp_path / "run"
    take(pretrained, ws, folder)
    vqvae, loop = vqvae_of(ws, folder / "vqvae", "vqvae")
    assert list(loop) == []
    assert list(vqvae_of(ws, folder / "baseline")[1]) == []
    assert list(prior_of(ws, vqvae, folder / "prior")[1]) == []
    assert read_log(folder / "vqvae") == [{"step": 4, "loss": 0.5}]


def test_taken_twice_they_are_there_still(pretrained, tmp_path):
    ws, folder = opened(tmp_path), tmp_path / "run"
    assert take(pretrained, ws, folder) == take(pretrained, ws, folder)


@pytest.mark.parametrize("own", ["vqvae.safetensors", "vqvae/state.pt"])
def test_nothing_that_is_there_is_replaced_and_no_prior_comes_to_another_vqvae(
        pretrained, tmp_path, own):
    ws, folder = opened(tmp_path), tmp_path / "run"
    if own.endswith("safetensors"):
        save_model(folder / own, VQVAE(ws.preset.vqvae, seed=7), mine=True)
    else:
        next(vqvae_of(ws, folder / "vqvae", "vqvae")[1])
    kept = (folder / own).read_bytes()
    taken, left = take(pretrained, ws, folder)
    assert taken == ["m"]
    assert left == ["a.1.safetensors learnt from another VQ-VAE than run/ has"]
    assert (folder / own).read_bytes() == kept


def test_other_pictures_in_the_same_layout_are_other_data(pretrained, tmp_path):
    ws, folder = opened(tmp_path, read_synthetic(40, 16, seed=1)), tmp_path / "run"
    taken, left = take(pretrained, ws, folder)
    assert taken == []
    assert len(left) == 3
    assert not folder.exists()


def larger(source, n):
    """The same pictures in twice the size, and some more."""
    more = read_synthetic(40 + n, 32, seed=0)
    assert [r.name for r in more.records[:40]] == [r.name for r in source.records]
    records = source.records + [dataclasses.replace(r, lesion=f"new {r.lesion}")
                                for r in more.records[40:]]
    return Source(more.kind, more.title, records, array=more.array)


def test_the_same_pictures_in_another_size_are_the_same_data_and_it_is_said(pretrained, tmp_path):
    ws = opened(tmp_path, larger(read_synthetic(40, 16, seed=0), 9))
    was, folder = opened(tmp_path).dataset.fingerprint, tmp_path / "run"
    assert ws.dataset.fingerprint != was
    assert take(pretrained, ws, folder)[0] == ["m", "z", "a.1"]
    vqvae, loop = vqvae_of(ws, folder / "vqvae", "vqvae")
    assert list(loop) == []                                      # the end of a run on these, too
    assert list(vqvae_of(ws, folder / "baseline")[1]) == []
    assert list(prior_of(ws, vqvae, folder / "prior")[1]) == []
    metadata = load_model(folder / "vqvae.safetensors")[1]
    assert metadata["adopted"].startswith(f"trained on data {was}, 100% of it in")
    original = load_model(pretrained / "z.safetensors")
    assert metadata["pictures"] == original[1]["pictures"]       # that it saw, not those here
    assert weights_digest(vqvae) == weights_digest(original[0])


@pytest.mark.parametrize("change", [
    {"vqvae_training": {"steps": 3}}, {"vqvae": {"beta": 0.5}}, {"augment": Augment(flip=0.1)}],
    ids=str)
def test_those_of_other_settings_are_left_and_it_is_said(pretrained, tmp_path, change):
    ws, folder = opened(tmp_path), tmp_path / "run"
    for part, new in change.items():
        old = getattr(ws.preset, part)
        new = dataclasses.replace(old, **new) if isinstance(new, dict) else new
        ws.preset = dataclasses.replace(ws.preset, **{part: new})
    taken, left = take(pretrained, ws, folder)
    assert "z" not in taken
    assert "z.safetensors was trained with other settings than preset smoke has" in left


def test_those_of_other_augmentations_are_left(pretrained, tmp_path):
    ws = opened(tmp_path)
    ws.preset = dataclasses.replace(ws.preset, prior_augmentations=(0,))
    assert take(pretrained, ws, tmp_path / "run")[0] == ["m", "z"]


def test_those_of_another_preset_are_not_spoken_of(pretrained, tmp_path):
    ws = opened(tmp_path)
    ws.preset = dataclasses.replace(ws.preset, name="quick")
    assert take(pretrained, ws, tmp_path / "run") == ([], [])


def test_older_damaged_and_foreign_files_are_left_and_it_is_said(tmp_path):
    ws, pretrained = opened(tmp_path), tmp_path / "pretrained"
    save_model(pretrained / "bare.safetensors", VQVAE(ws.preset.vqvae))
    save_model(pretrained / "old.safetensors", VQVAE(ws.preset.vqvae), **ws.metadata)
    (pretrained / "cut.safetensors").write_bytes(b"cut")
    os.mkfifo(pretrained / "pipe.safetensors")
    taken, left = take(pretrained, ws, tmp_path / "run")
    assert taken == []
    assert [reason.split(".")[0] for reason in left] == ["cut", "pipe", "old"]
    assert "does not say what it learnt from" in left[-1]


def test_a_model_without_a_log_is_taken(pretrained, tmp_path):
    (pretrained / "z.jsonl").unlink()
    assert "z" in take(pretrained, opened(tmp_path), tmp_path / "run")[0]


def test_what_a_file_says_of_its_origin_is_small(pretrained):
    with (pretrained / "z.safetensors").open("rb") as f:
        header = f.read(int.from_bytes(f.read(8), "little"))
    assert len(json.loads(header)["__metadata__"]["vqlib"]) < 4000
