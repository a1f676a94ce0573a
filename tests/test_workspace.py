"""Laws of the folders where results go: nothing stale is found, what is missing says its maker."""
import dataclasses

import pytest
from conftest import picture

from vqlib.backend import paths
from vqlib.backend.files import FileError
from vqlib.checkpoint import save_model
from vqlib.data.dataset import Dataset
from vqlib.data.records import DataError
from vqlib.data.sources import read_synthetic
from vqlib.presets import PRESETS
from vqlib.train import TrainConfig, train_vqvae
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


@pytest.mark.parametrize("damage", [
    lambda text: text.replace("30.1", "31.1", 1), lambda text: text[:-9], lambda text: "",
    lambda text: "[]", lambda text: text.replace("mean", "meam"), lambda text: '{"key_metric": ""}',
    lambda text: text.replace("30.1", "NaN", 1)])
def test_metrics_that_were_changed_are_refused_by_name(workspace, damage):
    """A mean that is ten times too large would train on, to worse images."""
    save_results(workspace, "02", "PSNR", psnr={"mean": 30.1})
    path = workspace.folder / "02.json"
    path.write_text(damage(path.read_text()))
    with pytest.raises(FileError, match=r"02\.json is damaged.*: run notebook 02 again"):
        load_results(workspace, "02")


def test_a_data_set_without_a_name_is_refused_and_not_taken_for_none():
    """As it comes from a variable that is not set."""
    for empty in ("", "  "):
        with pytest.raises(DataError, match="the name of the data is empty"):
            open_workspace("smoke", empty)


def test_weights_that_ship_are_taken_when_a_workspace_opens_and_it_says_so(home, monkeypatch):
    """More on that: test_shipped.py."""
    smoke = dataclasses.replace(SMOKE, vqvae_training=TrainConfig(steps=2, batch=4))
    monkeypatch.setitem(PRESETS, "smoke", smoke)
    ws = open_workspace("smoke")
    model = VQVAE(smoke.vqvae)
    list(train_vqvae(model, ws.dataset, smoke.vqvae_training, smoke.augment))
    save_model(home / "data" / "pretrained" / "vqvae-f4.safetensors", model, **ws.metadata)
    (home / "data" / "pretrained" / "old.safetensors").write_bytes(b"cut")
    text = str(open_workspace("smoke"))
    assert "weights that ship, not trained here: vqvae-f4" in text
    assert "weights that ship, not taken: old.safetensors is no whole vqlib model" in text
    assert list(train_vqvae(VQVAE(smoke.vqvae), ws.dataset, smoke.vqvae_training, smoke.augment,
                            folder=ws.folder / "vqvae")) == []
    assert open_workspace("smoke", shipped=False).shipped == []


@pytest.mark.parametrize(("name", "folder"), [
    ("", "checkout"), ("  ", "checkout"), ("~/ü x/", "user/ü x"), ("a", "a")])
def test_the_home_is_what_its_variable_says(monkeypatch, tmp_path, name, folder):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr("vqlib.backend.paths.CHECKOUT", tmp_path / "checkout")
    monkeypatch.setenv("VQLIB_HOME", name)
    assert paths.home().absolute() == tmp_path / folder
