"""Laws of the command line: it gives the library's own figures, and a fault is one line that names the thing."""
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SIZES, TINY, loud, picture
from PIL import Image
from torch._dynamo.utils import counters
from torchvision.transforms.functional import pil_to_tensor

from vqlib import metrics
from vqlib.__main__ import main
from vqlib.checkpoint import load_model, save_model
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import open_source
from vqlib.entropy_constrained import EntropyConstrainedEncoder
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig, StochasticDecoder
from vqlib.gpt import GPT, GPTConfig
from vqlib.presets import PRESETS
from vqlib.train import TrainConfig
from vqlib.windowed_gpt import WindowedGPTConfig

pytestmark = pytest.mark.usefixtures("home")
CARD = {"preset": "smoke", "geometry": {"crop": 16, "resize": 16}, "classes": ["bcc", "mel", "nv"]}


@pytest.fixture
def weights(tmp_path, vqvae):
    with torch.no_grad():
        vqvae.decoder[-1].weight *= 30                                # an untrained decoder paints everything grey
    save_model(tmp_path / "w" / "vqvae.safetensors", vqvae, **CARD)
    gpt = loud(GPT(GPTConfig(grid=4, n_codes=16, n_classes=3, width=16, heads=2, layers=1)))
    save_model(tmp_path / "w" / "prior.safetensors", gpt, **CARD)
    return tmp_path / "w" / "vqvae.safetensors", tmp_path / "w" / "prior.safetensors"


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


def fails(capsys, *args):
    """The single line on stderr of a command that must exit with 1."""
    assert main([str(a) for a in args]) == 1
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("vqlib: ")
    assert "Traceback" not in captured.out
    return lines[0]


def test_evaluate_writes_the_librarys_own_figures_for_every_layout(data, weights, tmp_path, capsys):
    path, n = data
    out = tmp_path / "out" / "figures.json"
    assert main(["evaluate", "--vqvae", str(weights[0]), "--prior", str(weights[1]), "--data", str(path), "--split", "all",
                 "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == result
    dataset = Dataset(open_source(path), Geometry(16, 16), cache=tmp_path / "cache")
    vqvae, gpt = (load_model(w)[0] for w in weights)
    assert result["reconstruction"] == metrics.evaluate_vqvae(vqvae, dataset, "all")
    assert result["reconstruction"]["images"] == n
    prior = metrics.evaluate_prior(gpt, vqvae, dataset, "all", CARD["classes"])
    assert result["prior"] == {"file": "prior.safetensors", **prior}
    assert result["data"] == dataset.title


def test_evaluate_counts_what_it_skipped(ham, weights, tmp_path, capsys):
    (ham[0] / "HAM10000_images_part_1" / "ISIC_0000000.jpg").write_bytes(b"")
    (ham[0] / "HAM10000_images_part_1" / "ISIC_0000001.jpg").unlink()
    assert main(["evaluate", "--vqvae", str(weights[0]), "--data", str(ham[0]), "--split", "all"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["reconstruction"]["images"], result["images_skipped"]) == (38, 2)


def test_sample_writes_the_images_that_the_prior_draws(weights, tmp_path, capsys):
    out = tmp_path / "mel.png"
    settings = ["--class", "mel", "--n", "2", "--seed", "5", "--top-k", "4"]
    assert main(["sample", *arguments(weights), *settings, "--out", str(out)]) == 0
    vqvae, gpt = (load_model(w)[0] for w in weights)
    expected = vqvae.decode(gpt.generate(torch.tensor([1, 1]), top_k=4, seed=5).view(2, 4, 4))
    written = pil_to_tensor(Image.open(out)).float() / 255            # two images with a margin of 2 px
    assert (written[:, 2:18, 2:18] - expected[0]).abs().max() < 1 / 255
    assert (written[:, 2:18, 20:36] - expected[1]).abs().max() < 1 / 255
    assert "2 images of class mel, seed 5" in capsys.readouterr().out


def test_sample_can_look_sharply_at_the_same_codes(short, weights, ham, tmp_path):
    sharp = tmp_path / "sharp.safetensors"
    train = ["train-sharp", "--preset", "smoke", "--data", str(ham[0]), "--vqvae", str(weights[0]), "--out", str(sharp)]
    assert main(train) == 0
    assert main(["sample", *arguments(weights), "--n", "1", "--sharp", str(sharp), "--out", str(tmp_path / "a.png")]) == 0
    vqvae, gpt = (load_model(w)[0] for w in weights)
    expected = StochasticDecoder(vqvae, load_model(sharp)[0]).decode(gpt.generate(torch.tensor([3])).view(1, 4, 4))
    written = pil_to_tensor(Image.open(tmp_path / "a.png")).float() / 255
    assert (written - expected[0]).abs().max() < 1 / 255


def test_a_sharp_look_at_other_codes_is_refused(weights, tmp_path, capsys):
    save_model(tmp_path / "other.safetensors", FlowDecoder(FlowDecoderConfig(code_dim=8, width=8, layers=1)), **CARD)
    line = fails(capsys, "sample", *arguments(weights), "--sharp", tmp_path / "other.safetensors", "--out", tmp_path / "a.png")
    assert "other.safetensors is for codes of width 8, the VQ-VAE's have 4" in line


def arguments(weights):
    return ["--vqvae", str(weights[0]), "--prior", str(weights[1])]


def test_sample_without_a_class_draws_any(weights, tmp_path):
    both = [tmp_path / name for name in ("default.png", "any.png")]
    assert main(["sample", *arguments(weights), "--n", "1", "--out", str(both[0])]) == 0
    assert main(["sample", *arguments(weights), "--n", "1", "--class", "any", "--out", str(both[1])]) == 0
    assert both[0].read_bytes() == both[1].read_bytes()


def test_an_unknown_class_is_named_with_the_known_ones(weights, tmp_path, capsys):
    line = fails(capsys, "sample", *arguments(weights), "--class", "melanoma", "--out", tmp_path / "a.png")
    assert "'melanoma'" in line
    assert "bcc, mel, nv, any" in line
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(("settings", "named"), [(["--temperature", "0"], "temperature 0"), (["--top-k", "99"], "top_k 99"),
                                                 (["--top-p", "0"], "top_p 0")])
def test_a_senseless_setting_is_named(weights, tmp_path, capsys, settings, named):
    assert named in fails(capsys, "sample", *arguments(weights), *settings, "--out", tmp_path / "a.png")


def test_missing_weights_are_named(tmp_path, capsys):
    assert "nowhere.safetensors" in fails(capsys, "evaluate", "--vqvae", tmp_path / "nowhere.safetensors")
    assert "nowhere.safetensors" in fails(capsys, "sample", "--vqvae", tmp_path / "nowhere.safetensors", "--prior", "p")


def test_damaged_weights_are_named(weights, capsys):
    weights[0].write_bytes(weights[0].read_bytes()[:-5])
    assert "vqvae.safetensors" in fails(capsys, "evaluate", "--vqvae", weights[0])


def test_a_prior_given_as_vqvae_is_named(weights, capsys):
    assert "prior.safetensors holds a gpt" in fails(capsys, "evaluate", "--vqvae", weights[1])


def test_missing_data_is_named(weights, tmp_path, capsys):
    assert "no_data_here" in fails(capsys, "evaluate", "--vqvae", weights[0], "--data", tmp_path / "no_data_here")


def test_a_split_without_images_is_named(weights, class_folders, capsys):
    for path in sorted(class_folders.rglob("*.jpg"))[1:]:
        path.unlink()
    for split in ("validation", "test", "train"):
        data = Dataset(open_source(class_folders), Geometry(16, 16))
        if not len(data.splits[split]):
            break
    assert f"split {split}" in fails(capsys, "evaluate", "--vqvae", weights[0], "--data", class_folders, "--split", split)


@pytest.fixture
def short(monkeypatch):
    """The smoke preset, shortened, so that the training commands take no time."""
    prior = TrainConfig(steps=4, batch=8, eval_every=2, eval_images=8)
    smoke = replace(PRESETS["smoke"], geometry=Geometry(16, 16), vqvae=TINY, vqvae_training=TrainConfig(steps=4, batch=8), gpt_training=prior,
                    gpt=GPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=1), windowed_training=prior, n_synthetic=40,
                    sharp=FlowDecoderConfig(code_dim=4, width=8, layers=1, steps=2), flow_decoder_training=TrainConfig(steps=4, batch=8),
                    windowed=WindowedGPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=1))
    monkeypatch.setitem(PRESETS, "smoke", smoke)


@pytest.mark.parametrize("kind", ["gpt", "windowed"])
def test_the_commands_train_what_evaluate_and_sample_read(short, ham, home, tmp_path, capsys, kind):
    data = ["--preset", "smoke", "--data", str(ham[0])]
    assert main(["train-vqvae", *data]) == 0
    assert main(["train-prior", *data, "--kind", kind]) == 0
    vqvae, = home.rglob("vqvae.safetensors")
    prior, = home.rglob(f"{kind}.safetensors")
    assert load_model(prior)[1]["classes"] == ["bcc", "mel", "nv"]
    capsys.readouterr()
    assert main(["evaluate", "--vqvae", str(vqvae), "--prior", str(prior), "--data", str(ham[0]), "--split", "all"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["reconstruction"]["images"] == result["prior"]["images"] == 40


def test_compiled_commands_give_what_plain_ones_give(short, ham, tmp_path):
    """The backend `eager` runs the graphs that Dynamo finds in the models; all else is what a GPU runs."""
    data, found = ["--preset", "smoke", "--data", str(ham[0])], {}
    for flag in ([], ["--compile", "eager"]):
        v, p, png = (str(tmp_path / f"{name}{len(flag)}{end}") for name, end in
                     (("v", ".safetensors"), ("p", ".safetensors"), ("a", ".png")))
        for command in (["train-vqvae", *data, "--out", v], ["train-prior", *data, "--vqvae", v, "--out", p],
                        ["sample", "--vqvae", v, "--prior", p, "--n", "2", "--out", png]):
            torch._dynamo.reset()
            counters.clear()
            assert main([*command, *flag]) == 0
            assert (counters["stats"]["unique_graphs"] > 0) == bool(flag)
        found[len(flag)] = [load_model(path)[0].state_dict() for path in (v, p)], Path(png).read_bytes()
    for plain, compiled in zip(found[0][0], found[2][0]):
        torch.testing.assert_close(compiled, plain, rtol=1e-5, atol=1e-5)
    assert found[0][1] == found[2][1]


def test_the_vqvae_is_normalised_by_its_training_data(short, ham, tmp_path):
    assert main(["train-vqvae", "--preset", "smoke", "--data", str(ham[0]), "--out", str(tmp_path / "v.safetensors")]) == 0
    model, _ = load_model(tmp_path / "v.safetensors")
    dataset = Dataset(open_source(ham[0]), Geometry(16, 16))
    x = model.normalise(dataset[dataset.splits["train"]])
    assert x.mean((0, 2, 3)).abs().max() < 1e-4
    assert (x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-4


def test_a_training_command_can_be_run_again(short, ham, tmp_path):
    run = ["train-vqvae", "--preset", "smoke", "--data", str(ham[0]), "--out", str(tmp_path / "v.safetensors")]
    assert main(run) == 0
    first = load_model(tmp_path / "v.safetensors")[0]
    assert main(run) == 0                                             # finds its finished state
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(),
                                                 load_model(tmp_path / "v.safetensors")[0].state_dict().values()))
    shutil.rmtree(tmp_path / "v")
    assert main(run) == 0                                             # starts afresh, under the same seed
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(),
                                                 load_model(tmp_path / "v.safetensors")[0].state_dict().values()))


def test_with_a_rate_the_guide_comes_first_and_chooses_the_codes_of_both_priors(short, ham, home, monkeypatch, capsys):
    smoke = PRESETS["smoke"]
    thrifty, longer = replace(smoke.gpt, rate=0.5), replace(smoke.gpt_training, steps=6)
    monkeypatch.setitem(PRESETS, "smoke", replace(smoke, gpt=thrifty, guide_run=longer, decoder_run=smoke.vqvae_training))
    data = ["--preset", "smoke", "--data", str(ham[0])]
    assert main(["train-vqvae", *data]) == 0
    assert "train-prior --kind guide" in fails(capsys, "train-prior", *data)
    for kind in ("guide", "gpt", "windowed"):
        assert main(["train-prior", *data, "--kind", kind]) == 0
    vqvae, guide, gpt, windowed = (next(home.rglob(f"{k}.safetensors")) for k in ("vqvae", "guide", "gpt", "windowed"))
    assert [(c["config"]["rate"], c["run"]["steps"]) for c in (load_model(p)[1] for p in (guide, gpt))] == [(0.0, 6), (0.5, 4)]
    capsys.readouterr()
    found = []
    for more in (["--prior", gpt], ["--prior", gpt, "--guide", guide], ["--prior", windowed, "--guide", gpt]):
        assert main([str(a) for a in ("evaluate", "--vqvae", vqvae, "--data", ham[0], "--split", "all", *more)]) == 0
        found.append(json.loads(capsys.readouterr().out))
    dataset = Dataset(open_source(ham[0]), Geometry(16, 16))
    thrifty = EntropyConstrainedEncoder(load_model(vqvae)[0], load_model(gpt)[0], 0.5)
    expected = metrics.evaluate_vqvae(thrifty, dataset, "all")["psnr"]
    assert found[0]["prior"]["psnr"] == found[2]["prior"]["psnr"] == expected
    assert found[1]["prior"]["psnr"] == found[1]["reconstruction"]["psnr"]  # the guide itself is for nearest codes
    assert main(["train-decoder", *data, "--steps", "3"]) == 0
    old, new = (load_model(next(home.rglob(f"{k}.safetensors"))) for k in ("vqvae", "finished"))
    assert {k.split(".")[0] for k, v in new[0].state_dict().items() if not torch.equal(v, old[0].state_dict()[k])} == {"decoder"}
    assert new[1]["run"] == old[1]["run"]                             # so that notebooks take it for their own
    assert new[1]["finished"]["steps"] == 3


def test_a_decoder_without_a_rate_has_nothing_to_be_finished_on(short, ham, capsys):
    data = ["--preset", "smoke", "--data", str(ham[0])]
    assert main(["train-vqvae", *data]) == 0
    assert "smoke has no rate" in fails(capsys, "train-decoder", *data)


def test_a_gpt_goes_on_where_its_guide_stopped(short, ham, tmp_path, monkeypatch):
    smoke, data = PRESETS["smoke"], ["--preset", "smoke", "--data", str(ham[0])]
    thrifty, still = replace(smoke.gpt, rate=0.5), replace(smoke.gpt_training, lrs=(0.0,))
    monkeypatch.setitem(PRESETS, "smoke", replace(smoke, gpt=thrifty, gpt_training=still))
    v, g, p, again = (str(tmp_path / f"{name}.safetensors") for name in "vgpa")
    assert main(["train-vqvae", *data, "--out", v]) == 0
    assert main(["train-prior", *data, "--vqvae", v, "--kind", "guide", "--out", g]) == 0
    assert main(["train-prior", *data, "--vqvae", v, "--guide", g, "--out", p]) == 0
    assert main(["train-prior", *data, "--vqvae", v, "--guide", p, "--out", again]) == 0  # the next round
    a, b, c = (load_model(path)[0].state_dict() for path in (g, p, again))
    assert all(torch.equal(a[k], b[k]) and torch.equal(a[k], c[k]) for k in a)


def test_a_prior_without_its_vqvae_says_what_to_run(short, ham, capsys):
    line = fails(capsys, "train-prior", "--preset", "smoke", "--data", ham[0])
    assert "vqvae.safetensors is missing" in line
    assert "train-vqvae" in line


def test_evaluate_brings_other_sizes_to_the_geometry_of_the_model(weights, npz, capsys):
    assert main(["evaluate", "--vqvae", str(weights[0]), "--data", str(npz), "--split", "all"]) == 0
    assert json.loads(capsys.readouterr().out)["reconstruction"]["bits_per_image_fixed"] == 64


@pytest.mark.parametrize("size", [{"grid": 8}, {"n_codes": 8}])
def test_a_prior_of_other_codes_is_refused(weights, ham, tmp_path, capsys, size):
    other = GPT(GPTConfig(**{"grid": 4, "n_codes": 16, "n_classes": 3, "width": 16, "heads": 2, "layers": 1} | size))
    save_model(tmp_path / "other.safetensors", other, **CARD)
    pair = ["--vqvae", weights[0], "--prior", tmp_path / "other.safetensors"]
    assert "the VQ-VAE has (4, 16)" in fails(capsys, "evaluate", *pair, "--data", ham[0])
    assert "the VQ-VAE has (4, 16)" in fails(capsys, "sample", *pair, "--out", tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_a_model_that_does_not_know_its_geometry_is_named(vqvae, ham, tmp_path, capsys):
    save_model(tmp_path / "bare.safetensors", vqvae)
    assert "bare.safetensors" in fails(capsys, "evaluate", "--vqvae", tmp_path / "bare.safetensors", "--data", ham[0])


def test_an_output_that_cannot_be_written_is_named(weights, ham, tmp_path, capsys):
    line = fails(capsys, "evaluate", "--vqvae", weights[0], "--data", ham[0], "--split", "all", "--json", tmp_path)
    assert tmp_path.name in line


@pytest.mark.parametrize("flag", [["sample", "--n", "0"], ["train-vqvae", "--steps", "0"], ["train-prior", "--steps", "-3"]])
def test_numbers_below_one_are_refused(flag, capsys):
    with pytest.raises(SystemExit):
        main(flag)
    assert f"{flag[-1]} is below 1" in capsys.readouterr().err
