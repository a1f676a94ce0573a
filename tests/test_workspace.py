"""Laws of the folders where results go: nothing stale is picked up, and what is missing says where it comes from."""

import dataclasses

import pytest

from vqlib import notes
from vqlib.checkpoint import load_model, save_model
from vqlib.data.augment import Augment
from vqlib.data.dataset import Dataset
from vqlib.data.sources import read_synthetic
from vqlib.presets import PRESETS, Workspace, open_workspace
from vqlib.train import train_vqvae
from vqlib.vqvae import VQVAE

pytestmark = pytest.mark.usefixtures("home")
SMOKE = dataclasses.replace(PRESETS["smoke"], n_synthetic=40)


@pytest.fixture
def workspace(tmp_path):
    return Workspace(
        SMOKE, Dataset(read_synthetic(40, 32, 0), SMOKE.geometry, cache=tmp_path), "cpu"
    )


def test_results_of_other_data_or_another_preset_lie_elsewhere(workspace, tmp_path):
    other = Workspace(
        SMOKE, Dataset(read_synthetic(40, 32, 1), SMOKE.geometry, cache=tmp_path), "cpu"
    )
    quick = Workspace(PRESETS["quick"], workspace.dataset, "cpu")
    assert len({w.folder for w in (workspace, other, quick)}) == 3


def test_kept_figures_come_back(workspace):
    notes.keep(workspace, "02_vqvae", "PSNR 30.1 dB", psnr={"mean": 30.1}, codes_used=512)
    assert notes.recall(workspace, "02_vqvae") == {
        "key_figure": "PSNR 30.1 dB",
        "psnr": {"mean": 30.1},
        "codes_used": 512,
    }


def test_what_has_not_run_is_asked_for_by_name(workspace):
    with pytest.raises(FileNotFoundError, match=r"02_vqvae.*synthetic.*smoke"):
        notes.recall(workspace, "02_vqvae")


def test_the_printed_workspace_says_source_sizes_and_preset(workspace):
    text = str(workspace)
    assert "synthetic, n 40, seed 0: 40 images, 32 px" in text
    assert "preset  smoke" in text
    assert all(
        f"{s} {len(workspace.dataset.splits[s])}" in text for s in ("train", "validation", "test")
    )


def test_a_real_folder_is_used_under_the_presets_limit_and_synthetic_data_whole(ham, monkeypatch):
    monkeypatch.setitem(PRESETS, "smoke", dataclasses.replace(SMOKE, limit=10))
    assert len(open_workspace("smoke", ham[0]).dataset) == 10
    assert len(open_workspace("smoke").dataset) == 40


def test_the_card_of_a_model_names_its_data(workspace):
    card = workspace.card
    assert (card["preset"], card["fingerprint"]) == ("smoke", workspace.dataset.fingerprint)
    assert card["classes"] == workspace.dataset.classes
    assert "synthetic" in card["data"]


def ship(home, workspace, seed=0, **card):
    """Put a VQ-VAE and a log where weights ship; `card` overrides what it says of its origin."""
    model = VQVAE(SMOKE.vqvae, seed=seed)
    path = home / "data" / "pretrained" / "vqvae-f4.safetensors"
    save_model(path, model, **{**workspace.card, "run": SMOKE.vqvae_training, **card})
    path.with_suffix(".jsonl").write_text('{"step": 150, "recon": 0.1}\n')
    return model


def test_weights_that_ship_are_a_finished_run_and_nothing_is_trained(workspace, home):
    shipped = ship(home, workspace)
    workspace.adopt_shipped()
    assert "vqvae-f4" in str(workspace)
    model = VQVAE(SMOKE.vqvae, seed=1)
    assert not list(
        train_vqvae(
            model,
            workspace.dataset,
            SMOKE.vqvae_training,
            Augment(),
            folder=workspace.folder / "vqvae",
        )
    )
    assert all(
        a.equal(b) for a, b in zip(shipped.state_dict().values(), model.state_dict().values())
    )
    assert (workspace.folder / "vqvae" / "log.jsonl").read_text() == '{"step": 150, "recon": 0.1}\n'


def test_a_shipped_run_of_other_length_is_trained_afresh(workspace, home):
    ship(home, workspace, run=dataclasses.replace(SMOKE.vqvae_training, steps=3))
    workspace.adopt_shipped()
    loop = train_vqvae(
        VQVAE(SMOKE.vqvae),
        workspace.dataset,
        SMOKE.vqvae_training,
        Augment(),
        folder=workspace.folder / "vqvae",
    )
    assert next(loop)[0] == 1


@pytest.mark.parametrize(
    "card", [{"preset": "quick"}, {"classes": ["nv"]}, {"data": "HAM10000"}], ids=str
)
def test_weights_for_something_else_are_left_alone(workspace, home, card):
    ship(home, workspace, **card)
    workspace.adopt_shipped()
    assert workspace.shipped == []
    assert not workspace.folder.exists()


def test_what_ships_never_replaces_a_run_of_ones_own(workspace, home):
    own = workspace.folder / "vqvae"
    list(
        train_vqvae(
            VQVAE(SMOKE.vqvae),
            workspace.dataset,
            dataclasses.replace(SMOKE.vqvae_training, steps=2),
            Augment(),
            folder=own,
        )
    )
    save_model(own.with_suffix(".safetensors"), VQVAE(SMOKE.vqvae, seed=5), mine=True)
    ship(home, workspace)
    workspace.adopt_shipped()
    assert load_model(own.with_suffix(".safetensors"))[1]["mine"]
