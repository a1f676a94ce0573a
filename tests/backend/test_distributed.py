"""Laws of many processes and many passes: they train what one process trains in one pass.

`torchrun` runs this file, too: `work` is what each of two ranks does; the tests compare it with
one process.
"""
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch._dynamo  # the optimiser brings it
from conftest import TINY
from test_train import same
from torch.distributed.launcher import LaunchConfig, elastic_launch

from vqlib.__main__ import main
from vqlib.backend.distributed import joined
from vqlib.checkpoint import load_model, load_state, save_model
from vqlib.data.augment import Augment
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import read_synthetic
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig
from vqlib.gpt import GPT, GPTConfig
from vqlib.presets import PRESETS
from vqlib.train import TrainConfig, read_log, train_flow_decoder, train_prior, train_vqvae
from vqlib.vqvae import VQVAE
from vqlib.windowed_gpt import WindowedGPT, WindowedGPTConfig

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 600  # seconds after which a launch has hung; on a busy core it takes a fifth of that
BETWEEN = "---- a prior above, all three below ----"
CONFIG = TrainConfig(steps=8, batch=8, lrs=(1e-3,), weight_decay=0.01, clip=1.0, eval_every=4,
                     eval_images=20, save_every=3, patience=0, seed=5)
FLOW_SIZE = FlowDecoderConfig(code_dim=TINY.code_dim, width=8, layers=1, patch=2)
# no dropout: passes draw their own
SIZE = {"grid": 4, "n_codes": 16, "width": 16, "heads": 2, "layers": 1, "dropout": 0.0}


def spread(model):
    """Encoder outputs far enough apart that no rounding decides which code is nearest."""
    model.encoder[-1].weight.data *= 30
    return model


MODELS = {
    "vqvae": lambda: spread(VQVAE(replace(TINY, reset_threshold=0.5, decay=0.3))),
    "gpt": lambda: GPT(GPTConfig(**SIZE)),
    "windowed": lambda: WindowedGPT(WindowedGPTConfig(**SIZE)),
    "flow decoder": lambda: FlowDecoder(FLOW_SIZE),
}
WAYS = [(name, passes) for name in MODELS for passes in (1, 2)]


def coded(n, seed):
    rng = torch.Generator().manual_seed(seed)
    codes = torch.randint(16, (n, 2, 16), generator=rng).short()
    return codes, torch.randint(7, (n,), generator=rng)


def loop(model, cache, folder=None, passes=1, config=CONFIG):
    """(step, losses) after each update of this rank."""
    if isinstance(model, GPT | WindowedGPT):
        data = coded(40, 1), coded(20, 2)
        return train_prior(model, *data, config, folder, accumulate=passes)
    data = Dataset(read_synthetic(90, 16, seed=0), Geometry(16, 16), cache=cache)
    if isinstance(model, VQVAE):
        return train_vqvae(model, data, config, Augment(), folder=folder, accumulate=passes)
    vqvae = spread(VQVAE(TINY))
    return train_flow_decoder(model, vqvae, data, config, Augment(), folder, passes)


def train(name, passes, cache, folder=None):
    """(losses and buffers of the codebook, if there is one, after each update; final weights)."""
    model, seen = MODELS[name](), []
    for _, losses in loop(model, cache, folder, passes):
        buffers = model.quantizer.state_dict() if name == "vqvae" else {}
        seen.append({k: v.clone() for k, v in (losses | buffers).items()})
    return seen, model.state_dict()


def work(folder: Path):
    """One rank: all ways to train; settings that differ; a run that is killed.

    In the latter rank 0 dies as it writes its second checkpoint.
    """
    me, first = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    try:
        with joined():
            if first:
                seen = {way: train(*way, folder, folder / f"{way}-rank{me}") for way in WAYS}
                with pytest.raises(ValueError, match="ranks differ"):
                    next(loop(MODELS["gpt"](), folder, config=replace(CONFIG, seed=int(me))))
                torch.save(seen, folder / f"rank{me}.pt")
            model = MODELS["vqvae"]()
            for step, _ in loop(model, folder, folder / "killed"):
                with (folder / f"steps-rank{me}").open("a") as f:
                    f.write(f"{step} ")
                if first and me == "0" and step == 5:
                    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            torch.save(model.state_dict(), folder / f"resumed-rank{me}.pt")
    except ConnectionError as e:
        (folder / f"error-rank{me}").write_text(str(e))
        raise


def command(what, folder: Path):
    out = folder / f"{what}.safetensors"
    return ["train", what, "--preset", "smoke", "--steps", "10", "--out", str(out)]


def start(home: Path, *command):
    """A Python process in a group of its own, which can be ended whole."""
    env = {k: v for k, v in os.environ.items() if k not in ("VQLIB_DATA", "VQLIB_PRESET")}
    env |= {"VQLIB_HOME": str(home), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process) -> str:
    """What it printed, once it ended well; a hang is a failure."""
    try:
        printed, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"no end after {LIMIT} s:\n{process.communicate()[0]}")
    assert process.returncode == 0, printed
    return printed


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """A folder in which two ranks did their `work`, and what each training printed there.

    They trained a prior and then all three; a real torchrun trained a VQ-VAE.
    """
    folder = tmp_path_factory.mktemp("launched")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    train_vqvae = ["-m", "vqlib", *command("vqvae", folder), "--accumulate", 2]
    processes = [start(folder, __file__, folder), start(folder, *torchrun, *train_vqvae)]
    try:
        forked, vqvae = [finish(process) for process in processes]
        prior, everything = forked.split(BETWEEN)
        yield folder, {"vqvae": vqvae, "prior": prior, "all": everything}
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def folder(launched):
    return launched[0]


@pytest.fixture(scope="module")
def ranks(folder):
    """{way: (after each update, final weights)} of both ranks."""
    return [torch.load(folder / f"rank{r}.pt") for r in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same of one process that takes every batch whole."""
    cache = tmp_path_factory.mktemp("cache")
    return {name: train(name, 1, cache) for name in MODELS}


def assert_close(seen, expected):
    """Losses and codebooks after every update, to 1e-5."""
    assert len(seen) == len(expected) == CONFIG.steps
    for step, (a, b) in enumerate(zip(seen, expected), 1):
        assert a.keys() == b.keys()
        for k in a:
            torch.testing.assert_close(
                a[k], b[k], rtol=1e-5, atol=1e-5, msg=lambda m, k=k, s=step: f"{k} at step {s}: {m}"
            )


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_all_ranks_hold_the_same_losses_codebook_and_model_after_every_update(ranks, way):
    assert same(ranks[0][way], ranks[1][way])


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_two_ranks_train_what_one_process_trains_on_the_whole_batch(ranks, alone, way):
    assert_close(ranks[0][way][0], alone[way[0]][0])


@pytest.mark.parametrize("passes", [2, 8])
@pytest.mark.parametrize("name", MODELS)
def test_many_passes_train_what_one_trains_on_the_whole_batch(alone, tmp_path, name, passes):
    assert_close(train(name, passes, tmp_path)[0], alone[name][0])


def test_dead_codes_are_reset_to_the_same_vectors_everywhere(ranks, alone):
    ways = [seen[way][0] for seen in ranks for way in WAYS if way[0] == "vqvae"]
    resets = [int(s["resets"]) for s in alone["vqvae"][0]]
    assert resets[-1] > 2
    for seen in ways:
        assert [int(s["resets"]) for s in seen] == resets
        assert all(
            torch.allclose(a["codebook"], b["codebook"], atol=1e-5)
            for a, b in zip(seen, alone["vqvae"][0])
        )


def test_only_rank_0_writes(folder):
    for way in WAYS:
        assert {p.name for p in (folder / f"{way}-rank0").iterdir()} == {"state.pt", "log.jsonl"}
        assert list((folder / f"{way}-rank1").iterdir()) == []


def test_when_a_rank_is_killed_the_other_says_so(folder):
    error = (folder / "error-rank1").read_text()
    assert "rank 1 of 2 lost another" in error
    assert "the same command again" in error


def test_a_killed_run_leaves_a_whole_checkpoint_from_which_torchrun_resumes_it(folder, ranks):
    """Rank 0 died with the checkpoint of update 6 half written: what counts is that of update 3."""
    assert (folder / "steps-rank0").read_text().split() == [*"12345", *"45678"]
    assert {p.name for p in (folder / "killed").iterdir()} == {"state.pt", "log.jsonl"}
    assert load_state(folder / "killed" / "state.pt")["step"] == CONFIG.steps
    for r, seen in enumerate(ranks):  # to the bit what it would have been
        assert same(torch.load(folder / f"resumed-rank{r}.pt"), seen["vqvae", 1][1])


@pytest.mark.parametrize("what", ["prior", "vqvae"])
def test_torchrun_runs_the_commands_as_one(launched, what):
    folder, printed = launched
    assert len(re.findall(rf"wrote \S*/{what}\.safetensors", printed[what])) == 1
    assert printed[what].count("preset  smoke") == 1
    metadata = load_model(folder / f"{what}.safetensors")[1]
    assert metadata["training"]["steps"] == load_state(folder / what / "state.pt")["step"] == 10
    assert [line["step"] for line in read_log(folder / what)] == [10]


def test_torchrun_trains_all_three_each_on_the_codes_of_the_one_before(launched):
    """On all ranks: none may look for the VQ-VAE before rank 0 has written it."""
    folder, printed = launched
    for name in ("vqvae", "prior", "flow-decoder"):
        assert len(re.findall(rf"wrote \S*/{name}\.safetensors", printed["all"])) == 1
        path, = (folder / "all").rglob(f"{name}.safetensors")
        assert load_model(path)[1]["training"]["steps"] == 4


if __name__ == "__main__":
    # what torchrun does, but its ranks are forked: they share the imports, which take longest
    torchrun = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
                            max_restarts=1, monitor_interval=1, start_method="fork")
    folder = Path(sys.argv[1])
    elastic_launch(torchrun, work)(folder)
    save_model(folder / "given.safetensors", VQVAE(PRESETS["smoke"].vqvae))
    given = ["--vqvae", str(folder / "given.safetensors")]
    elastic_launch(torchrun, main)([*command("prior", folder), *given])
    print(BETWEEN, flush=True)
    os.environ["VQLIB_HOME"] = str(folder / "all")
    elastic_launch(torchrun, main)(["train", "all", "--preset", "smoke", "--steps", "4"])
