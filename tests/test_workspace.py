"""Laws of the folders where results go: nothing stale is found, what is missing says its maker."""
import dataclasses

import pytest
from conftest import picture

from vqlib.checkpoint import load_model, save_model
from vqlib.data.augment import Augment
from vqlib.data.dataset import Dataset
from vqlib.data.records import DataError
from vqlib.data.sources import read_synthetic
from vqlib.presets import PRESETS
from vqlib.train import train_vqvae
from vqlib.vqvae import VQVAE
from vqlib.workspace import Workspace, load_results, open_workspace, save_results

pytestmark = pytest.mark.usefixtures("home")
SMOKE = dataclasses.replace(PRESETS["smoke"], n_synthetic=40)


@pytest.fixture
def workspace(tmp_path):
    data = Dataset(read_synthetic(40, 32, 0), SMOKE.geometry, cache=tmp_path)
    return Workspace(SMOKE, data, "cpu")


def test_results_of_other_data_or_another_preset_lie_elsewhere(workspace, tmp_path):
    data = Dataset(read_synthetic(40, 32, 1), SMOKE.geometry, cache=tmp_path)
    other = Workspace(SMOKE, data, "cpu")
    quick = Workspace(PRESETS["quick"], workspace.dataset, "cpu")
    assert len({w.folder for w in (workspace, other, quick)}) == 3


def test_saved_metrics_come_back(workspace):
    save_results(workspace, "02_vqvae", "PSNR 30.1 dB", psnr={"mean": 30.1}, codes_used=512)
    expected = {"key_metric": "PSNR 30.1 dB", "psnr": {"mean": 30.1}, "codes_used": 512}
    assert load_results(workspace, "02_vqvae") == expected


def test_what_has_not_run_is_asked_for_by_name(workspace):
    with pytest.raises(FileNotFoundError, match=r"02_vqvae.*synthetic.*smoke"):
        load_results(workspace, "02_vqvae")


def test_the_printed_workspace_says_source_sizes_and_preset(workspace):
    text = str(workspace)
    assert "synthetic, n 40, seed 0: 40 images, 32 px" in text
    assert "preset  smoke" in text
    for split in ("train", "validation", "test"):
        assert f"{split} {len(workspace.dataset.splits[split])}" in text


def test_a_real_folder_is_used_under_the_presets_limit_and_synthetic_data_whole(ham, monkeypatch):
    monkeypatch.setitem(PRESETS, "smoke", dataclasses.replace(SMOKE, limit=10))
    assert len(open_workspace("smoke", ham[0]).dataset) == 10
    assert len(open_workspace("smoke").dataset) == 40


def test_too_few_images_stop_before_any_training(tmp_path):
    for i in range(5):
        (tmp_path / "five" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        picture(i).save(tmp_path / "five" / "ab"[i % 2] / f"{i}.png")
    with pytest.raises(DataError, match=r"no image falls into the \w+ split; 5 images are too few"):
        open_workspace("smoke", tmp_path / "five")


def test_what_is_left_out_is_told_and_listed_beside_the_weights(ham):
    (ham[0] / "masks").mkdir()
    picture(0).save(ham[0] / "masks" / "ISIC_0000001.png")
    workspace = open_workspace("smoke", ham[0])
    assert "1 skipped\n        1 x a mask by its name: masks/ISIC_0000001.png" in str(workspace)
    assert (workspace.folder / "skipped.csv").read_bytes() == (
        b"name,reason\r\nmasks/ISIC_0000001.png,a mask by its name\r\n")


def test_the_metadata_of_a_model_names_its_data(workspace):
    metadata = workspace.metadata
    assert (metadata["preset"], metadata["fingerprint"]) == ("smoke", workspace.dataset.fingerprint)
    assert metadata["classes"] == workspace.dataset.classes
    assert "synthetic" in metadata["data"]


def ship(home, workspace, seed=0, **metadata):
    """Put a VQ-VAE and a log where weights ship; `metadata` overrides its origin."""
    model = VQVAE(SMOKE.vqvae, seed=seed)
    path = home / "data" / "pretrained" / "vqvae-f4.safetensors"
    save_model(path, model, **{**workspace.metadata, "training": SMOKE.vqvae_training, **metadata})
    path.with_suffix(".jsonl").write_text('{"step": 150, "recon": 0.1}\n')
    return model


def training(model, workspace, **changes):
    """A notebook's training of its VQ-VAE."""
    config = dataclasses.replace(SMOKE.vqvae_training, **changes)
    folder = workspace.folder / "vqvae"
    return train_vqvae(model, workspace.dataset, config, Augment(), folder=folder)


def test_weights_that_ship_are_a_finished_run_and_nothing_is_trained(workspace, home):
    shipped = ship(home, workspace)
    workspace.adopt_shipped()
    assert "vqvae-f4" in str(workspace)
    model = VQVAE(SMOKE.vqvae, seed=1)
    assert list(training(model, workspace)) == []
    pairs = zip(shipped.state_dict().values(), model.state_dict().values())
    assert all(a.equal(b) for a, b in pairs)
    log = (workspace.folder / "vqvae" / "log.jsonl").read_text()
    assert log == '{"step": 150, "recon": 0.1}\n'


def test_a_shipped_run_of_other_length_is_trained_afresh(workspace, home):
    ship(home, workspace, training=dataclasses.replace(SMOKE.vqvae_training, steps=3))
    workspace.adopt_shipped()
    assert next(training(VQVAE(SMOKE.vqvae), workspace))[0] == 1


@pytest.mark.parametrize(
    "metadata", [{"preset": "quick"}, {"classes": ["nv"]}, {"data": "HAM10000"}], ids=str
)
def test_weights_for_something_else_are_left_alone(workspace, home, metadata):
    ship(home, workspace, **metadata)
    workspace.adopt_shipped()
    assert workspace.shipped == []
    assert not workspace.folder.exists()


def test_what_ships_never_replaces_a_run_of_ones_own(workspace, home):
    own = workspace.folder / "vqvae"
    list(training(VQVAE(SMOKE.vqvae), workspace, steps=2))
    save_model(own.with_suffix(".safetensors"), VQVAE(SMOKE.vqvae, seed=5), mine=True)
    ship(home, workspace)
    workspace.adopt_shipped()
    assert load_model(own.with_suffix(".safetensors"))[1]["mine"]
