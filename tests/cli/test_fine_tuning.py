"""Laws of `train --init`: a run starts from the weights given, and goes on as it began."""
import pytest
import torch
from conftest import METADATA, fails, loud, runs

from vqlib.checkpoint import load_model, save_model
from vqlib.cli.fine_tuning import rows_of, start_from
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig
from vqlib.gpt import GPT, GPTConfig
from vqlib.vqvae import VQVAE

pytestmark = pytest.mark.usefixtures("home", "short")


def test_a_model_starts_as_the_file_left_it(weights):
    source = load_model(weights[0])[0]
    model = VQVAE(source.cfg, seed=7)
    start_from(weights[0], model, [])
    for name, w in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], w), name


def test_classes_are_found_by_their_names(weights):
    old = torch.arange(4.0)[:, None]                             # of bcc, mel, nv and any
    rows = rows_of(old, ["bcc", "mel", "nv"], ["nv", "rash", "bcc"])
    assert rows.flatten().tolist() == [2, 3, 0, 3]


def test_a_prior_with_other_classes_can_be_fine_tuned(weights):
    gpt = GPT(GPTConfig(grid=4, n_codes=16, n_classes=2, width=16, heads=2, layers=1))
    start_from(weights[1], gpt, ["mel", "rash"])
    source = load_model(weights[1])[0].class_embedding.weight
    assert torch.equal(gpt.class_embedding.weight, source[[1, 3, 3]])


def test_all_three_are_fine_tuned_from_a_folder(weights, ham, home):
    flow = loud(FlowDecoder(FlowDecoderConfig(code_dim=4, width=8, layers=1, steps=2)))
    save_model(weights[0].with_name("flow-decoder.safetensors"), flow, **METADATA)
    runs("train", "all", "--preset", "smoke", "--data", ham[0], "--init", weights[0].parent,
         "--steps", "1")
    for name in ("vqvae", "flow-decoder"):
        path, = home.rglob(f"{name}.safetensors")
        before = load_model(weights[0].with_name(path.name))[0].state_dict()
        after = load_model(path)[0].state_dict()
        name = "decoder.0.weight" if name == "vqvae" else "code_vectors.weight"
        change = (after[name] - before[name]).abs().max()
        assert 0 < change < 0.02                                 # an update away, not a fresh start


def test_a_run_that_began_otherwise_is_not_taken_over(weights, ham, tmp_path, capsys):
    command = ["train", "vqvae", "--preset", "smoke", "--data", ham[0], "--out",
               tmp_path / "v.safetensors"]
    runs(*command, "--init", weights[0])
    runs(*command, "--init", weights[0])                         # goes on: it is finished
    capsys.readouterr()
    assert "init was" in fails(capsys, *command)
    other, metadata = load_model(weights[0])
    other.decoder[0].weight.data.add_(1)
    save_model(tmp_path / "other.safetensors", other, **metadata)
    line = fails(capsys, *command, "--init", tmp_path / "other.safetensors")
    assert "v/state.pt is of another run: init was" in line


def test_weights_of_other_sizes_name_their_preset(weights, tmp_path, ham, capsys):
    other = VQVAE(load_model(weights[0])[0].cfg.__class__(image_size=16, n_down=2, hidden=16))
    save_model(tmp_path / "big.safetensors", other, **METADATA | {"preset": "flagship"})
    line = fails(capsys, "train", "vqvae", "--preset", "smoke", "--data", ham[0], "--init",
                 tmp_path / "big.safetensors")
    assert "--preset flagship" in line


@pytest.mark.parametrize("other", [{"width": 8}, {"heads": 4}], ids=str)
def test_a_prior_of_other_sizes_is_refused_before_the_vqvae_is_trained(
        weights, ham, home, capsys, other):
    sizes = {"grid": 4, "n_codes": 16, "n_classes": 3, "width": 16, "heads": 2, "layers": 1}
    save_model(weights[1], GPT(GPTConfig(**sizes | other)), **METADATA)
    flow = FlowDecoder(FlowDecoderConfig(code_dim=4, width=8, layers=1, steps=2))
    save_model(weights[0].with_name("flow-decoder.safetensors"), flow, **METADATA)
    line = fails(capsys, "train", "all", "--preset", "smoke", "--data", ham[0], "--init",
                 weights[0].parent)
    assert "prior.safetensors has the sizes of preset smoke" in line
    assert not home.exists()


def test_weights_of_another_kind_are_refused_before_the_data_is_opened(
        weights, ham, home, capsys):
    line = fails(capsys, "train", "prior", "--preset", "smoke", "--data", ham[0], "--init",
                 weights[0])
    assert "vqvae.safetensors holds a vqvae, a gpt is needed" in line
    assert not home.exists()


def test_all_needs_a_folder_and_every_file_of_it_before_anything_is_trained(
        weights, ham, home, capsys):
    data = ["--preset", "smoke", "--data", ham[0]]
    assert "folder" in fails(capsys, "train", "all", *data, "--init", weights[0])
    line = fails(capsys, "train", "all", *data, "--init", weights[0].parent)
    assert "flow-decoder.safetensors is missing" in line
    assert not home.exists()
