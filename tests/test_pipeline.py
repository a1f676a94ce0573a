"""Laws of the models that work together: what is missing is named, what does not fit is refused."""
from types import SimpleNamespace

import pytest
import torch
from conftest import METADATA, TINY, loud

from vqlib.checkpoint import FileError, save_model
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig, StochasticDecoder
from vqlib.gpt import GPT, GPTConfig
from vqlib.pipeline import FLOW, LEAST_SQUARES, load_pipeline, models_of, sampling_for
from vqlib.presets import PRESETS
from vqlib.vqvae import VQVAE
from vqlib.workspace import Workspace

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def folder(weights):
    """Weights of all three models."""
    flow = loud(FlowDecoder(FlowDecoderConfig(code_dim=4, width=8, layers=1, steps=2)))
    save_model(weights[0].with_name("flow-decoder.safetensors"), flow, **METADATA)
    return weights[0].parent


@pytest.fixture
def grids():
    """(5, 4, 4) codes of K = 16."""
    return torch.randint(16, (5, 4, 4), generator=torch.Generator().manual_seed(0))


def test_a_folder_gives_all_that_lies_in_it(folder):
    found = load_pipeline(folder, needs=("prior",))
    assert found.decoders == [FLOW, LEAST_SQUARES]
    assert found.labels == ["bcc", "mel", "nv", "any"]
    assert found.geometry.crop == 16
    assert len(found.notes) == 2                                 # these files name no VQ-VAE
    assert all("does not say which VQ-VAE it learnt from" in note for note in found.notes)


def test_without_a_need_the_vqvae_is_loaded_and_no_prior(folder):
    found = load_pipeline(folder)
    assert (found.gpt, found.labels) == (None, ["any"])
    assert found.decoders == [FLOW, LEAST_SQUARES]


def test_images_do_not_depend_on_the_batch_they_are_decoded_in(folder, grids):
    found = load_pipeline(folder)
    stochastic = StochasticDecoder(found.vqvae, found.flow_decoder, seed=3)
    for name, decoder in ((LEAST_SQUARES, found.vqvae), (FLOW, stochastic)):
        images = found.decode(grids, name, seed=3, batch=2)
        torch.testing.assert_close(images, decoder.decode(grids), rtol=0, atol=1e-3)
    assert torch.equal(found.decode(grids.flatten(1), FLOW, seed=3, batch=2), images)


def test_a_flow_decoder_that_does_not_work_is_left_out_with_a_note(folder):
    path = folder / "flow-decoder.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    found = load_pipeline(folder)
    assert found.decoders == [LEAST_SQUARES]
    assert "flow-decoder.safetensors" in found.notes[0]
    with pytest.raises(FileError, match=r"flow-decoder\.safetensors"):
        load_pipeline(folder, flow_decoder=path)                 # which was asked for


def test_a_vqvae_of_ones_own_is_not_mixed_with_models_of_a_folder(folder, tmp_path):
    other = tmp_path / "mine.safetensors"
    save_model(other, VQVAE(TINY, seed=1), **METADATA)
    assert load_pipeline(folder, vqvae=other).decoders == [LEAST_SQUARES]
    with pytest.raises(FileError, match="--prior"):
        load_pipeline(folder, vqvae=other, needs=("prior",))


def test_models_that_do_not_fit_are_refused(folder, tmp_path):
    other = GPT(GPTConfig(grid=8, n_codes=16, n_classes=3, width=16, heads=2, layers=1))
    save_model(tmp_path / "other.safetensors", other, **METADATA)
    with pytest.raises(ValueError, match="grid"):
        load_pipeline(folder, prior=tmp_path / "other.safetensors", needs=("prior",))


@pytest.mark.parametrize(("missing", "notebook"), [("vqvae", "02"), ("prior", "04")])
def test_a_missing_file_is_told_with_every_way_on(folder, missing, notebook):
    (folder / f"{missing}.safetensors").unlink()
    with pytest.raises(FileError) as error:
        load_pipeline(folder, needs=("prior",))
    for way in (f"{missing}.safetensors", "without --weights", "train all",
                f"notebook {notebook}", "make notebooks"):
        assert way in str(error.value)


def test_unknown_decoders_and_classes_are_named(weights):
    found = load_pipeline(weights[0].parent, needs=("prior",))
    with pytest.raises(ValueError, match="no flow decoder"):
        found.decoder(FLOW)
    with pytest.raises(ValueError, match="'sharp'"):
        found.decoder("sharp")
    with pytest.raises(ValueError, match="bcc, mel, nv, any"):
        found.label("melanoma")


def test_a_class_is_guided_and_any_is_not_unless_it_is_said():
    assert sampling_for("mel")["guidance"] == 2.0
    assert sampling_for("any")["guidance"] == 1.0
    given = sampling_for("any", guidance=3.0, top_k=5, temperature=None)
    assert given == {"temperature": 1.0, "top_k": 5, "top_p": 1.0, "first_top_p": 0.95,
                     "guidance": 3.0}


@pytest.mark.parametrize("codes", [
    torch.full((1, 4, 4), -1), torch.full((1, 4, 4), 16), torch.zeros(1, 15, dtype=torch.long),
    torch.zeros(1, 4, 4), torch.zeros(0, 4, 4, dtype=torch.long),
    torch.zeros(1, 1, 4, 4, dtype=torch.long)],
    ids=["negative", "above", "no square", "fractions", "none", "4-d"])
def test_what_are_no_codes_is_named(pipeline, codes):
    with pytest.raises(ValueError, match=r"codes (are whole numbers|0\.\.15, got)"):
        pipeline.decode(codes)


def test_codes_of_any_whole_numbers_are_decoded(pipeline):
    codes = torch.arange(16).view(1, 4, 4)
    assert torch.equal(pipeline.decode(codes.short()), pipeline.decode(codes))


@pytest.mark.parametrize("images", [
    torch.zeros(1, 1, 16, 16), torch.zeros(3, 16, 16), torch.full((1, 3, 16, 16), torch.nan),
    torch.zeros(1, 3, 16, 16, dtype=torch.uint8)], ids=["grey", "3-d", "NaN", "bytes"])
def test_what_are_no_images_is_named(pipeline, images):
    with pytest.raises(ValueError, match=r"images are \(B, 3, H, W\)"):
        pipeline.encode(images)


def test_files_may_be_named_by_text(weights):
    vqvae = str(weights[0])
    with pytest.raises(FileError, match=r"vqvae\.safetensors holds a vqvae"):
        load_pipeline(vqvae=vqvae, prior=vqvae, needs=("prior",))


def test_figures_of_weights_whose_data_is_not_here_name_the_weights(home):
    other = SimpleNamespace(title="synthetic, n 3000", fingerprint="0123")
    workspace = Workspace(PRESETS["flagship"], other, "cpu")
    assert workspace.source == "synthetic, n 3000, preset flagship"
    assert models_of(workspace)[1] is None
    assert workspace.source == ("weights that ship, of HAM10000 (CC BY-NC 4.0), "
                                "preset flagship")
