"""Laws of the command line: the library's own metrics, and faults in one line that names them."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import METADATA, SIZES, TINY, arguments, fails, picture, runs
from PIL import Image
from test_trainer import signals_in
from torch._dynamo.utils import counters
from torchvision.transforms.functional import pil_to_tensor

from vqlib import metrics
from vqlib.__main__ import main
from vqlib.backend.files import Lock
from vqlib.checkpoint import load_model, save_model
from vqlib.cli import parser
from vqlib.cli.options import compile_parts
from vqlib.data.catalogue import CATALOGUE, File, Published
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import open_source
from vqlib.entropy_constrained import EntropyConstrainedEncoder
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig, StochasticDecoder
from vqlib.gpt import GPT, GPTConfig
from vqlib.pictures import settings_of
from vqlib.presets import PRESETS
from vqlib.train import read_log
from vqlib.vqvae import VQVAE
from vqlib.windowed_gpt import WindowedGPT, WindowedGPTConfig

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def class_folders(tmp_path):
    for i in range(24):
        place = tmp_path / "isic9" / ("Train" if i % 3 else "Test") / ("melanoma", "nevus")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        picture(i).save(place / f"{i:03d}.jpg")
    return tmp_path / "isic9"


@pytest.fixture(params=["ham10000", "medmnist", "folders"])
def data(request):
    """A path in each layout, and its number of images."""
    if request.param == "ham10000":
        return request.getfixturevalue("ham")[0], 40
    if request.param == "medmnist":
        return request.getfixturevalue("npz"), sum(SIZES.values())
    return request.getfixturevalue("class_folders"), 24


def test_evaluate_writes_the_librarys_own_metrics_for_every_layout(data, weights, tmp_path, capsys):
    path, n = data
    out = tmp_path / "out" / "metrics.json"
    runs("evaluate", *arguments(weights), "--data", path, "--split", "all", "--json", out)
    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == result
    dataset = Dataset(open_source(path), Geometry(16, 16), cache=tmp_path / "cache")
    vqvae, gpt = (load_model(w)[0] for w in weights)
    assert result["reconstruction"] == metrics.evaluate_vqvae(vqvae, dataset, "all")
    assert result["reconstruction"]["images"] == n
    prior = metrics.evaluate_prior(gpt, vqvae, dataset, "all", METADATA["classes"])
    assert result["prior"] == {"file": "prior.safetensors", "lambda": 0.0, **prior}
    assert result["data"] == dataset.title


def test_evaluate_encodes_at_the_lambda_asked_for(weights, ham, capsys):
    gpt, _ = load_model(weights[1])
    runs("evaluate", *arguments(weights), "--data", ham[0], "--split", "all", "--lambda", 0.5)
    found = json.loads(capsys.readouterr().out)
    vqvae, dataset = load_model(weights[0])[0], Dataset(open_source(ham[0]), Geometry(16, 16))
    encoder = EntropyConstrainedEncoder(vqvae, gpt, 0.5)
    expected = metrics.evaluate_prior(gpt, encoder, dataset, "all", METADATA["classes"])
    assert found["prior"] == {"file": "prior.safetensors", "lambda": 0.5, **expected}
    assert found["prior"]["psnr"] != found["reconstruction"]["psnr"]
    runs("evaluate", *arguments(weights), "--data", ham[0], "--split", "all")
    nearest = json.loads(capsys.readouterr().out)
    assert nearest["prior"]["psnr"] == nearest["reconstruction"]["psnr"]


def test_a_window_cannot_choose_codes(weights, ham, tmp_path, capsys):
    window = WindowedGPT(WindowedGPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=1))
    save_model(tmp_path / "window.safetensors", window, **METADATA)
    line = fails(capsys, "evaluate", "--vqvae", weights[0], "--prior",
                 tmp_path / "window.safetensors", "--data", ham[0], "--lambda", 0.5)
    assert "lambda 0.5" in line
    assert "whole-grid" in line


def test_evaluate_counts_what_it_skipped(ham, weights, tmp_path, capsys):
    (ham[0] / "HAM10000_images_part_1" / "ISIC_0000000.jpg").write_bytes(b"")
    (ham[0] / "HAM10000_images_part_1" / "ISIC_0000001.jpg").unlink()
    runs("evaluate", "--vqvae", weights[0], "--data", ham[0], "--split", "all")
    result = json.loads(capsys.readouterr().out)
    assert (result["reconstruction"]["images"], result["images_skipped"]) == (38, 2)


def test_sample_writes_the_images_that_the_prior_draws(weights, tmp_path, capsys):
    out = tmp_path / "mel.png"
    settings = ["--class", "mel", "--n", "2", "--seed", "5", "--top-k", "4"]
    runs("sample", *arguments(weights), *settings, "--out", out)
    vqvae, gpt = (load_model(w)[0] for w in weights)
    expected = vqvae.decode(gpt.generate(
        torch.tensor([1, 1]), first_top_p=0.95, guidance=2.0, top_k=4, seed=5).view(2, 4, 4))
    written = pil_to_tensor(Image.open(out)).float() / 255       # two images with a margin of 2 px
    assert (written[:, 2:18, 2:18] - expected[0]).abs().max() < 1 / 255
    assert (written[:, 2:18, 20:36] - expected[1]).abs().max() < 1 / 255
    assert "2 images of class mel, least-squares decoder" in capsys.readouterr().out
    assert settings_of(out) == {
        "class": "mel", "n": 2, "decoder": "least-squares", "temperature": 1.0, "top_k": 4,
        "top_p": 1.0, "first_top_p": 0.95, "guidance": 2.0, "seed": 5}


def test_sample_can_decode_with_a_flow_decoder(short, weights, ham, tmp_path):
    flow, out = tmp_path / "flow.safetensors", tmp_path / "a.png"
    runs("train", "flow-decoder", "--preset", "smoke", "--data", ham[0], "--vqvae", weights[0],
         "--out", flow)
    runs("sample", *arguments(weights), "--n", "1", "--flow-decoder", flow, "--out", out)
    vqvae, gpt = (load_model(w)[0] for w in weights)
    codes = gpt.generate(torch.tensor([3]), first_top_p=0.95).view(1, 4, 4)
    expected = StochasticDecoder(vqvae, load_model(flow)[0]).decode(codes)
    written = pil_to_tensor(Image.open(out)).float() / 255
    assert (written - expected[0]).abs().max() < 1 / 255


def test_a_flow_decoder_for_other_codes_is_refused(weights, tmp_path, capsys):
    other = FlowDecoder(FlowDecoderConfig(code_dim=8, width=8, layers=1))
    save_model(tmp_path / "other.safetensors", other, **METADATA)
    line = fails(capsys, "sample", *arguments(weights), "--flow-decoder",
                 tmp_path / "other.safetensors", "--out", tmp_path / "a.png")
    assert "other.safetensors" in line
    assert "for codes of width 8, the VQ-VAE's have 4" in line


def test_sample_without_a_class_draws_any(weights, tmp_path):
    both = [tmp_path / name for name in ("default.png", "any.png")]
    runs("sample", *arguments(weights), "--n", "1", "--out", both[0])
    runs("sample", *arguments(weights), "--n", "1", "--class", "any", "--out", both[1])
    assert both[0].read_bytes() == both[1].read_bytes()


def test_an_unknown_class_is_named_with_the_known_ones(weights, tmp_path, capsys):
    out = tmp_path / "a.png"
    line = fails(capsys, "sample", *arguments(weights), "--class", "melanoma", "--out", out)
    assert "'melanoma'" in line
    assert "bcc, mel, nv, any" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["--temperature", "0"], "temperature 0"),
        (["--top-k", "99"], "top_k 99"),
        (["--top-p", "0"], "top_p 0"),
    ],
)
def test_a_senseless_setting_is_named(weights, tmp_path, capsys, settings, named):
    assert named in fails(
        capsys, "sample", *arguments(weights), *settings, "--out", tmp_path / "a.png"
    )


def test_missing_weights_are_named(tmp_path, capsys):
    assert "nowhere.safetensors" in fails(
        capsys, "evaluate", "--vqvae", tmp_path / "nowhere.safetensors"
    )
    assert "nowhere.safetensors" in fails(
        capsys, "sample", "--vqvae", tmp_path / "nowhere.safetensors", "--prior", "p"
    )


def test_damaged_weights_are_named(weights, capsys):
    weights[0].write_bytes(weights[0].read_bytes()[:-5])
    assert "vqvae.safetensors" in fails(capsys, "evaluate", "--vqvae", weights[0])


def test_a_prior_given_as_vqvae_is_named(weights, capsys):
    assert "prior.safetensors holds a gpt" in fails(capsys, "evaluate", "--vqvae", weights[1])


def test_missing_data_is_named(weights, tmp_path, capsys):
    assert "no_data_here" in fails(
        capsys, "evaluate", "--vqvae", weights[0], "--data", tmp_path / "no_data_here"
    )


def test_a_split_without_images_is_named(weights, class_folders, capsys):
    for path in sorted(class_folders.rglob("*.jpg"))[1:]:
        path.unlink()
    for split in ("validation", "test", "train"):
        data = Dataset(open_source(class_folders), Geometry(16, 16))
        if not len(data.splits[split]):
            break
    assert f"split {split}" in fails(
        capsys, "evaluate", "--vqvae", weights[0], "--data", class_folders, "--split", split
    )


@pytest.mark.parametrize("name", ["prior", "windowed"])
def test_the_commands_train_what_evaluate_reads(short, ham, home, capsys, name):
    data = ["--preset", "smoke", "--data", ham[0]]
    runs("train", "vqvae", *data)
    runs("train", name, *data)
    vqvae, = home.rglob("vqvae.safetensors")
    prior, = home.rglob(f"{name}.safetensors")
    assert load_model(prior)[1]["classes"] == ["bcc", "mel", "nv"]
    capsys.readouterr()
    runs("evaluate", "--vqvae", vqvae, "--prior", prior, "--data", ham[0], "--split", "all")
    result = json.loads(capsys.readouterr().out)
    assert result["reconstruction"]["images"] == result["prior"]["images"] == 40


def test_train_all_makes_what_the_single_commands_make_and_says_how_to_sample(
        short, ham, home, tmp_path, monkeypatch, capsys):
    data = ["--preset", "smoke", "--data", ham[0]]
    runs("train", "all", *data)
    last = capsys.readouterr().out.splitlines()[-1]
    made = {name: next(home.rglob(f"{name}.safetensors")).read_bytes()
            for name in ("vqvae", "prior", "flow-decoder")}
    other = tmp_path / "other"
    monkeypatch.setenv("VQLIB_HOME", str(other))
    for name, expected in made.items():
        runs("train", name, *data)
        assert next(other.rglob(f"{name}.safetensors")).read_bytes() == expected, name
    command = last.partition("python -m vqlib ")[2].split()
    runs(*command, "--n", "1", "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


def test_train_all_goes_on_where_it_stopped(short, ham, home):
    data = ["--preset", "smoke", "--data", ham[0]]
    runs("train", "all", *data)
    made = {path: path.read_bytes() for path in home.rglob("*.safetensors")}
    flow_decoder, = home.rglob("flow-decoder.safetensors")
    flow_decoder.unlink()
    shutil.rmtree(flow_decoder.with_suffix(""))
    runs("train", "all", *data)
    assert {path: path.read_bytes() for path in home.rglob("*.safetensors")} == made


def test_a_preset_without_a_prior_trains_its_vqvae_and_says_so_of_the_rest(
        short, ham, home, monkeypatch, capsys):
    bare = replace(PRESETS["smoke"], prior=None, windowed=None, flow_decoder=None)
    monkeypatch.setitem(PRESETS, "smoke", bare)
    data = ["--preset", "smoke", "--data", ham[0]]
    runs("train", "all", *data)
    assert [path.stem for path in home.rglob("*.safetensors")] == ["vqvae"]
    for name in ("prior", "windowed", "flow-decoder"):
        assert f"preset smoke has no {name}" in fails(capsys, "train", name, *data)


@pytest.mark.parametrize("model", ["all", "vqvae"])
def test_who_trains_a_vqvae_takes_none(short, ham, weights, capsys, model):
    line = fails(capsys, "train", model, "--data", ham[0], "--vqvae", weights[0])
    assert "--vqvae" in line


@pytest.mark.parametrize("name", ["model", "folder.safetensors", "v1.pt"])
def test_an_output_that_is_no_model_file_is_refused_before_training(
        short, ham, home, tmp_path, capsys, name):
    (tmp_path / "folder.safetensors").mkdir()
    line = fails(capsys, "train", "vqvae", "--data", ham[0], "--out", tmp_path / name)
    assert name in line
    assert not home.exists()                                     # not even the data was opened


def test_model_files_whose_names_have_dots_keep_runs_of_their_own(short, ham, tmp_path):
    for name, steps in (("a.1", 3), ("a.2", 4)):
        runs("train", "vqvae", "--preset", "smoke", "--data", ham[0], "--steps", steps,
             "--out", tmp_path / f"{name}.safetensors")
        assert read_log(tmp_path / name)[-1]["step"] == steps


@pytest.mark.parametrize("name", ["prior", "windowed"])
def test_a_prior_is_not_trained_on_another_grid(short, ham, home, tmp_path, capsys, name):
    other = VQVAE(replace(TINY, n_down=1))
    save_model(tmp_path / "other.safetensors", other, **METADATA)
    line = fails(capsys, "train", name, "--preset", "smoke", "--data", ham[0],
                 "--vqvae", tmp_path / "other.safetensors")
    assert "the VQ-VAE has (8, 16)" in line
    assert not [*home.rglob(f"{name}*")]


def test_a_flow_decoder_whose_patches_do_not_divide_the_cells_is_refused(
        short, weights, ham, home, monkeypatch, capsys):
    coarse = replace(PRESETS["smoke"].flow_decoder, patch=8)
    monkeypatch.setitem(PRESETS, "smoke", replace(PRESETS["smoke"], flow_decoder=coarse))
    line = fails(capsys, "train", "flow-decoder", "--preset", "smoke", "--data", ham[0],
                 "--vqvae", weights[0])
    assert "patches of 8 px do not divide the VQ-VAE's cells of 4 px" in line


def test_a_vqvae_given_as_a_prior_and_a_lambda_without_one_are_named(weights, ham, capsys):
    command = ["evaluate", "--vqvae", weights[0], "--data", ham[0], "--split", "all"]
    line = fails(capsys, *command, "--prior", weights[0])
    assert "vqvae.safetensors holds a vqvae, a gpt or windowed_gpt is needed" in line
    assert "--lambda" in fails(capsys, *command, "--lambda", 1)


@pytest.mark.parametrize("lambda_", ["-1", "nan", "inf"])
def test_a_lambda_that_is_no_price_is_named(weights, ham, capsys, lambda_):
    line = fails(capsys, "evaluate", *arguments(weights), "--data", ham[0], "--split", "all",
                 "--lambda", lambda_)
    assert f"lambda {float(lambda_)}" in line


def test_train_all_takes_no_single_file(short, ham, tmp_path, capsys):
    line = fails(capsys, "train", "all", "--data", ham[0], "--out", tmp_path / "a.safetensors")
    assert "--out" in line


def test_compiled_commands_give_what_plain_ones_give(short, ham, tmp_path):
    """The backend `eager` runs the graphs that Dynamo finds; all else is what a GPU runs."""
    data, found = ["--preset", "smoke", "--data", ham[0]], {}
    for name, flag in {"plain": [], "compiled": ["--compile", "eager"]}.items():
        v, p, f = (tmp_path / f"{part}-{name}.safetensors" for part in "vpf")
        png = tmp_path / f"{name}.png"
        for command in (["train", "vqvae", *data, "--out", v],
                        ["train", "prior", *data, "--vqvae", v, "--out", p],
                        ["train", "flow-decoder", *data, "--vqvae", v, "--out", f],
                        ["sample", "--vqvae", v, "--prior", p, "--n", "2", "--out", png]):
            torch._dynamo.reset()
            counters.clear()
            runs(*command, *flag)
            assert (counters["stats"]["unique_graphs"] > 0) == bool(flag)
        found[name] = [load_model(path)[0].state_dict() for path in (v, p, f)], png.read_bytes()
    for plain, compiled in zip(found["plain"][0], found["compiled"][0]):
        torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-5)
    assert found["plain"][1] == found["compiled"][1]


def test_a_flow_decoder_starts_from_the_seed_of_its_training(short, weights, ham, monkeypatch):
    smoke, started = PRESETS["smoke"], []
    monkeypatch.setitem(PRESETS, "smoke", replace(
        smoke, flow_decoder_training=replace(smoke.flow_decoder_training, seed=3)))
    monkeypatch.setattr("vqlib.train.train_flow_decoder",
                        lambda model, *_: started.append(model.state_dict()) or [])
    runs("train", "flow-decoder", "--preset", "smoke", "--data", ham[0], "--vqvae", weights[0])
    for name, w in FlowDecoder(smoke.flow_decoder, seed=3).state_dict().items():
        assert torch.equal(started[0][name].cpu(), w), name


def test_a_compiled_sampler_is_not_compiled_for_each_cell_anew(gpt, codes):
    """Once for the first cell, once for the last, once for all between, and for all blocks."""
    expected = gpt.generate(codes[1])
    torch._dynamo.reset()
    counters.clear()
    compile_parts(gpt, "eager")
    assert torch.equal(gpt.generate(codes[1]), expected)
    assert counters["stats"]["unique_graphs"] <= 3


def test_the_vqvae_is_normalised_by_its_training_data(short, ham, tmp_path):
    out = tmp_path / "v.safetensors"
    runs("train", "vqvae", "--preset", "smoke", "--data", ham[0], "--out", out)
    model, _ = load_model(out)
    dataset = Dataset(open_source(ham[0]), Geometry(16, 16))
    x = model.normalise(dataset[dataset.splits["train"]])
    assert x.mean((0, 2, 3)).abs().max() < 1e-4
    assert (x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4


def test_a_training_command_can_be_run_again(short, ham, tmp_path):
    out = tmp_path / "v.safetensors"
    command = ["train", "vqvae", "--preset", "smoke", "--data", ham[0], "--out", out]

    def weights():
        return load_model(out)[0].state_dict()

    runs(*command)
    first = weights()
    runs(*command)                                               # finds its finished state
    assert all(torch.equal(a, b) for a, b in zip(first.values(), weights().values()))
    shutil.rmtree(tmp_path / "v")
    runs(*command)                                               # starts afresh, same seed
    assert all(torch.equal(a, b) for a, b in zip(first.values(), weights().values()))


@pytest.mark.parametrize("name", ["prior", "windowed", "flow-decoder"])
def test_a_model_without_its_vqvae_says_what_to_run(short, ham, capsys, name):
    line = fails(capsys, "train", name, "--preset", "smoke", "--data", ham[0])
    assert "vqvae.safetensors is missing" in line
    assert line.endswith("python -m vqlib train vqvae makes it, run that first")


def test_a_file_that_was_named_and_is_missing_is_made_by_no_command(
        short, weights, ham, tmp_path, capsys):
    missing = tmp_path / "nosuch.safetensors"
    line = fails(capsys, "train", "prior", "--preset", "smoke", "--data", ham[0],
                 "--vqvae", missing)
    assert line == f"vqlib: nosuch.safetensors is missing in {tmp_path}"
    line = fails(capsys, "sample", *arguments(weights), "--flow-decoder", missing)
    assert line == f"vqlib: nosuch.safetensors is missing in {tmp_path}"


def test_evaluate_brings_other_sizes_to_the_geometry_of_the_model(weights, npz, capsys):
    runs("evaluate", "--vqvae", weights[0], "--data", npz, "--split", "all")
    assert json.loads(capsys.readouterr().out)["reconstruction"]["bits_per_image_fixed"] == 64


@pytest.mark.parametrize("size", [{"grid": 8}, {"n_codes": 8}])
def test_a_prior_of_other_codes_is_refused(weights, ham, tmp_path, capsys, size):
    ours = {"grid": 4, "n_codes": 16, "n_classes": 3, "width": 16, "heads": 2, "layers": 1}
    save_model(tmp_path / "other.safetensors", GPT(GPTConfig(**ours | size)), **METADATA)
    pair = ["--vqvae", weights[0], "--prior", tmp_path / "other.safetensors"]
    assert "the VQ-VAE has (4, 16)" in fails(capsys, "evaluate", *pair, "--data", ham[0])
    assert "the VQ-VAE has (4, 16)" in fails(capsys, "sample", *pair, "--out", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_a_model_that_does_not_know_its_geometry_is_named(vqvae, ham, tmp_path, capsys):
    save_model(tmp_path / "bare.safetensors", vqvae)
    line = fails(capsys, "evaluate", "--vqvae", tmp_path / "bare.safetensors", "--data", ham[0])
    assert "bare.safetensors" in line


def test_an_output_that_cannot_be_written_is_named_after_the_metrics_are_printed(
        weights, ham, tmp_path, monkeypatch, capsys):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", path.name)
    monkeypatch.setattr("vqlib.cli.evaluate.write_atomically", full)
    command = ["evaluate", "--vqvae", weights[0], "--data", ham[0], "--split", "all"]
    assert main([str(a) for a in [*command, "--json", tmp_path / "m.json"]]) == 1
    captured = capsys.readouterr()
    assert "m.json" in captured.err
    assert len(captured.err.splitlines()) == 1
    assert json.loads(captured.out)["reconstruction"]["images"] == 40


@pytest.mark.parametrize(("options", "named"), [
    (["--json", "FOLDER"], "is a folder"), (["--json", "FILE/m.json"], "FILE"),
    (["--temperature", "0"], "temperature 0.0"), (["--top-k", "99"], "top_k 99"),
    (["--class-guidance", "nan"], "guidance nan"), (["--lambda", "-1"], "lambda -1.0")],
    ids=" ".join)
def test_what_cannot_be_evaluated_or_written_is_refused_before_anything_is_measured(
        weights, ham, tmp_path, monkeypatch, capsys, options, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "FILE").touch()
    monkeypatch.setattr("vqlib.metrics.evaluate_vqvae", lambda *_: pytest.fail("measured"))
    assert named in fails(capsys, "evaluate", *arguments(weights), "--data", ham[0], "--split",
                          "all", "--generation", *options)


def test_a_sweep_without_a_prior_is_refused_before_anything_is_measured(
        weights, ham, monkeypatch, capsys):
    monkeypatch.setattr("vqlib.metrics.evaluate_vqvae", lambda *_: pytest.fail("measured"))
    line = fails(capsys, "evaluate", "--vqvae", weights[0], "--data", ham[0], "--sweep")
    assert "--sweep needs a prior" in line


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "reconstruct", "inpaint",
                                     "encode", "decode", "explore"])
def test_the_help_of_a_command_fits_a_screen_and_says_defaults_and_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    example = lines[lines.index("example:") + 1]
    assert f"  python -m vqlib {command}" in example.replace("encode && python -m vqlib ", "")
    action = [a for a in parser()._subparsers._group_actions[0].choices[command]._actions
              if a.option_strings and a.nargs != 0]
    assert [a.dest for a in action if not re.search("default|instead of|, too", a.help)] == []


def test_a_command_without_options_works_with_the_weights_that_ship(weights, home, monkeypatch,
                                                                    tmp_path, capsys):
    (home / "data").mkdir(parents=True)
    shutil.copytree(weights[0].parent, home / "data" / "pretrained")
    monkeypatch.chdir(tmp_path)
    runs("sample")
    runs("reconstruct")
    runs("inpaint")
    runs("encode")
    runs("decode", "codes.npz")
    written = {path.name for path in tmp_path.iterdir()}
    assert {"samples.png", "reconstructed", "inpainted.png", "codes.npz", "decoded"} <= written


def test_missing_weights_are_told_with_every_way_on(home, tmp_path, capsys):
    line = fails(capsys, "sample")
    for way in ("data/pretrained", "train all", "notebook 02", "make notebooks"):
        assert way in line


@pytest.mark.parametrize("flag", [["sample", "--n", "0"], ["train", "vqvae", "--steps", "0"],
                                  ["train", "prior", "--steps", "-3"]])
def test_numbers_below_one_are_refused(flag, capsys):
    with pytest.raises(SystemExit):
        main(flag)
    assert f"{flag[-1]} is below 1" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value", "said"), [
    ("--n", "0", "below 1"), ("--n", "1" + 20 * "0", "above 10000"), ("--seed", "-1", "below 0"),
    ("--seed", str(2**64), "above 9007199254740991")])
def test_numbers_of_samples_and_seeds_have_a_range(option, value, said, capsys):
    with pytest.raises(SystemExit):
        main(["sample", "--vqvae", "v", "--prior", "p", option, value])
    assert f"{value} is {said}" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train", "vqvae"], ["evaluate", "--vqvae", "v"]], ids=str)
def test_data_from_a_variable_that_is_not_set_is_refused(command, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--data", ""])
    assert "argument --data: is empty" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [
    ("--temperature", "1e-40"), ("--top-p", "1e-300"), ("--guidance", "nan"), ("--guidance", "inf"),
    ("--first-top-p", "2"), ("--first-top-p", "nan"), ("--compile", "nonsense")])
def test_settings_out_of_range_are_named(weights, tmp_path, capsys, option, value):
    line = fails(capsys, "sample", *arguments(weights), "--n", "1", option, value, "--out",
                 tmp_path / "a.png")
    assert option.strip("-").replace("-", "_") in line.replace("--compile", "compile")


@pytest.mark.parametrize("name", ["a", "a.xyz", "folder.png"])
def test_a_picture_that_cannot_be_written_is_refused(weights, tmp_path, capsys, name):
    (tmp_path / "folder.png").mkdir()
    line = fails(capsys, "sample", *arguments(weights), "--n", "1", "--out", tmp_path / name)
    assert name in line


@pytest.fixture
def trained(short, ham, tmp_path):
    """VQ-VAE, prior and flow decoder that learnt from each other, and another VQ-VAE."""
    files = {name: tmp_path / "t" / f"{name}.safetensors"
             for name in ("vqvae", "prior", "flow-decoder", "other")}
    data = ["--preset", "smoke", "--data", ham[0]]
    runs("train", "vqvae", *data, "--out", files["vqvae"])
    runs("train", "vqvae", *data, "--steps", 3, "--out", files["other"])
    for name in ("prior", "flow-decoder"):
        runs("train", name, *data, "--vqvae", files["vqvae"], "--out", files[name])
    return files


def test_models_that_did_not_learn_from_each_other_are_refused_at_every_door(
        trained, ham, tmp_path, capsys):
    sample = ["sample", "--n", "1", "--out", tmp_path / "a.png", "--prior", trained["prior"]]
    evaluate = ["evaluate", "--data", ham[0], "--split", "all"]
    runs(*sample, "--vqvae", trained["vqvae"], "--flow-decoder", trained["flow-decoder"])
    for command in (sample, [*evaluate, "--prior", trained["prior"]]):
        line = fails(capsys, *command, "--vqvae", trained["other"])
        assert "prior.safetensors: the GPT learnt from another VQ-VAE" in line
    line = fails(capsys, *evaluate, "--flow-decoder", trained["flow-decoder"], "--vqvae",
                 trained["other"])
    assert "flow-decoder.safetensors: the FlowDecoder learnt from another VQ-VAE" in line


@pytest.mark.parametrize("name", ["prior", "flow-decoder"])
def test_a_model_is_not_taken_for_one_of_another_vqvae(trained, ham, capsys, name):
    command = ["train", name, "--preset", "smoke", "--data", ham[0], "--out", trained[name]]
    kept = trained[name].read_bytes()
    runs(*command, "--vqvae", trained["vqvae"])
    assert trained[name].read_bytes() == kept
    line = fails(capsys, *command, "--vqvae", trained["other"])
    assert "state.pt is of another run: vqvae was" in line
    shutil.rmtree(trained[name].with_suffix(""))
    line = fails(capsys, *command, "--vqvae", trained["other"])
    assert f"{name}.safetensors is of another run: vqvae was" in line
    assert trained[name].read_bytes() == kept
    runs(*command, "--vqvae", trained["other"], "--fresh")
    assert trained[name].read_bytes() != kept
    assert trained[name].with_name(f"{name}.safetensors.old").read_bytes() == kept


def test_a_prior_is_not_trained_on_a_vqvae_of_other_crops(short, ham, vqvae, tmp_path, capsys):
    other = METADATA | {"geometry": {"crop": 16, "resize": None}}
    save_model(tmp_path / "v.safetensors", vqvae, **other)
    line = fails(capsys, "train", "prior", "--preset", "smoke", "--data", ham[0],
                 "--vqvae", tmp_path / "v.safetensors")
    assert "v.safetensors was trained on crops {'crop': 16, 'resize': None}" in line


def test_pictures_that_were_trained_on_are_noticed_under_another_name(
        trained, ham, tmp_path, capsys):
    command = ["evaluate", "--vqvae", trained["vqvae"], "--prior", trained["prior"]]
    capsys.readouterr()
    runs(*command, "--data", ham[0], "--split", "test")
    result = json.loads(capsys.readouterr().out)
    assert result["images_trained_on"] == {"VQVAE": 0, "GPT": 0}
    assert not [note for note in result["notes"] if "trained on" in note]
    for i, path in enumerate(sorted(ham[0].rglob("*.jpg"))):
        place = tmp_path / "mine" / ("a", "b")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / f"holiday {i}.jpg")
    runs(*command, "--data", tmp_path / "mine", "--split", "all")
    result = json.loads(capsys.readouterr().out)
    n = len(Dataset(open_source(ham[0]), Geometry(16, 16)).splits["train"])
    assert result["images_trained_on"] == {"VQVAE": n, "GPT": n}
    assert f"the VQVAE was trained on {n} of these 40 images" in " ".join(result["notes"])


def test_models_too_old_to_say_what_they_learnt_from_are_used_and_it_is_said(
        weights, ham, tmp_path, capsys):
    runs("evaluate", *arguments(weights), "--data", ham[0], "--split", "all")
    result = json.loads(capsys.readouterr().out)
    assert result["images_trained_on"] == {"VQVAE": None, "GPT": None}
    assert "the GPT does not say which VQ-VAE it learnt from" in " ".join(result["notes"])
    runs("sample", *arguments(weights), "--n", "1", "--out", tmp_path / "a.png")
    assert "does not say which VQ-VAE" in capsys.readouterr().err


def test_ctrl_c_is_a_line_and_the_same_command_goes_on(short, ham, tmp_path, monkeypatch, capsys):
    out = tmp_path / "v.safetensors"
    command = ["train", "vqvae", "--preset", "smoke", "--data", ham[0], "--out", out]
    with monkeypatch.context() as patch:
        signals_in(patch, 2, signal.SIGINT)
        assert main([str(a) for a in command]) == 130
    assert capsys.readouterr().err == ("vqlib: v stopped after update 2 of 4: run it again to go "
                                       "on from there\n")
    runs(*command)
    runs(*command[:-1], tmp_path / "whole.safetensors")
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_ctrl_c_elsewhere_is_a_line_too(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr("vqlib.cli.train.open_workspace", interrupted)
    assert main(["train", "vqvae"]) == 130
    assert capsys.readouterr().err == "vqlib: interrupted\n"


def test_a_second_process_in_a_runs_folder_says_so(short, ham, tmp_path, capsys):
    (tmp_path / "v").mkdir()
    with Lock(tmp_path / "v" / "lock"):
        line = fails(capsys, "train", "vqvae", "--preset", "smoke", "--data", ham[0],
                     "--out", tmp_path / "v.safetensors")
    assert "v/ is in use by" in line


def test_a_codebook_that_hardly_anything_uses_is_said_to_be(ham, tmp_path, capsys):
    wide = VQVAE(replace(TINY, n_codes=64))
    wide.quantizer.codebook[1:] = 1e6                            # nothing is near these
    save_model(tmp_path / "v.safetensors", wide, **METADATA)
    runs("evaluate", "--vqvae", tmp_path / "v.safetensors", "--data", ham[0], "--split", "all")
    assert "only 1 of 64 codes are in use" in " ".join(json.loads(capsys.readouterr().out)["notes"])


def test_what_is_left_out_is_counted_and_listed_in_the_result_and_beside_it(
    ham, weights, tmp_path, capsys
):
    (ham[0] / "masks").mkdir()
    for i in range(5):
        picture(i).save(ham[0] / "masks" / f"ISIC_{i:07d}.png")
    out = tmp_path / "out" / "metrics.json"
    runs("evaluate", "--vqvae", weights[0], "--data", ham[0], "--split", "all", "--json", out)
    assert json.loads(capsys.readouterr().out)["skipped"] == [
        "5 x a mask by its name: masks/ISIC_0000000.png, masks/ISIC_0000001.png, "
        "masks/ISIC_0000002.png and 2 more"]
    lines = out.with_name("metrics.json.skipped.csv").read_text().splitlines()
    assert lines == ["name,reason", *[f"masks/ISIC_{i:07d}.png,a mask by its name"
                                      for i in range(5)]]


def test_columns_of_a_table_can_be_named(ham, weights, capsys):
    table = ham[0] / "HAM10000_metadata.csv"
    table.write_text(table.read_text().replace("image_id,dx,", "image_id,finding,"))
    command = ["evaluate", "--vqvae", weights[0], "--data", ham[0], "--split", "all"]
    assert "--label-column" in fails(capsys, *command)
    runs(*command, "--label-column", "finding")
    assert json.loads(capsys.readouterr().out)["reconstruction"]["images"] == 40


def test_download_lists_what_there_is_and_what_is_present(home, capsys):
    runs("download", "list")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *CATALOGUE]
    assert "10015  2.8 GB       CC BY-NC 4.0  -" in lines[1]
    (home / "data" / "dermamnist-28").mkdir(parents=True)
    (home / "data" / "dermamnist-28" / "dermamnist.npz.part").write_bytes(bytes(2_000_000))
    runs("download", "list")
    assert "2.0 MB of 19.7 MB" in capsys.readouterr().out


def test_a_failed_download_is_one_line(monkeypatch, capsys):
    file = File("a.npz", ("http://127.0.0.1:9/a.npz",), 10, "md5:00")
    monkeypatch.setitem(CATALOGUE, "dermamnist-28", Published("A", 1, ((file,),)))
    line = fails(capsys, "download", "DermaMNIST-28")
    assert "http://127.0.0.1:9/a.npz (10 bytes, md5:00)" in line


def test_ctrl_c_in_a_download_ends_as_everywhere(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr("vqlib.data.download.download", interrupted)
    assert main(["download", "dermamnist-28"]) == 130
    assert capsys.readouterr().err == "vqlib: stopped; the same command goes on from here\n"


@pytest.mark.parametrize("error", [
    MemoryError("unable to allocate 15 GiB"), torch.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")], ids=repr)
def test_too_little_memory_is_a_line(monkeypatch, capsys, error):
    def exhausted(*_, **__):
        raise error
    monkeypatch.setattr("vqlib.cli.train.open_workspace", exhausted)
    assert "not enough memory" in fails(capsys, "train", "vqvae")


def test_other_errors_of_torch_are_not_hidden(monkeypatch):
    def wrong(*_, **__):
        raise RuntimeError("shapes differ")
    monkeypatch.setattr("vqlib.cli.train.open_workspace", wrong)
    with pytest.raises(RuntimeError, match="shapes differ"):
        main(["train", "vqvae"])


def test_a_reader_that_goes_away_is_a_line(tmp_path):
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run([sys.executable, "-m", "vqlib", "download", "list"], stdout=write,
                           stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    os.close(write)
    assert (ended.returncode, ended.stderr) == (
        1, "vqlib: stopped, nobody reads the output any more\n")


def test_inpaint_draws_no_more_images_than_sample(capsys):
    with pytest.raises(SystemExit):
        main(["inpaint", "--n", "1000000000"])
    assert "1000000000 is above 10000" in capsys.readouterr().err
