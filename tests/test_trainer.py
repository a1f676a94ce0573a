"""Laws of a run: it survives whatever ends a process, and is never taken for another run.

This file, as a program, is the process that the slow tests kill: `python test_trainer.py MODEL
FOLDER KILLS SEED`.
"""
import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY
from test_train import (
    CONFIG,
    FLOW_SIZE,
    GPT_SIZE,
    MODELS,
    coded,
    fresh,  # noqa: F401 (a fixture)
    prior_loop,
    same,
    same_run,
    train,
)

from vqlib.backend.files import FileError, Lock
from vqlib.backend.interrupts import Interrupted
from vqlib.checkpoint import load_model, load_state, save_model
from vqlib.data.augment import Augment
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import read_synthetic
from vqlib.flow_decoder import FlowDecoder
from vqlib.gpt import GPT
from vqlib.runs import Run
from vqlib.train import (
    TrainConfig,
    encode_dataset,
    train_flow_decoder,
    train_prior,
    train_vqvae,
)
from vqlib.trainer import Trainer
from vqlib.vqvae import VQVAE

ROOT = Path(__file__).resolve().parents[1]
RARE = replace(CONFIG, save_every=100)  # no checkpoint but the first and the last


def signals_in(monkeypatch, update, number):
    """Have a signal come while an update is made."""
    clip = Trainer.limit_gradient

    def signalled(trainer, logged):
        clip(trainer, logged)
        if trainer.step + 1 == update:
            signal.raise_signal(number)

    monkeypatch.setattr(Trainer, "limit_gradient", signalled)


# stopping -----------------------------------------------------------------------------------------

def test_a_run_has_a_checkpoint_before_its_first_update(fresh, tmp_path):  # noqa: F811
    model, loop = fresh()
    steps = loop(model, RARE, tmp_path / "run")
    next(steps)
    shutil.copy(tmp_path / "run" / "state.pt", tmp_path)         # of the moment, not of the end
    fresh_model, _ = fresh()
    state = load_state(tmp_path / "state.pt")
    assert state["step"] == 0
    assert same(state["weights"], fresh_model.state_dict())


def test_a_cell_that_is_run_again_starts_where_a_killed_one_was_saved(
        fresh, tmp_path):  # noqa: F811
    """Its model has been trained meanwhile; what is on the disk counts."""
    whole, seen = train(fresh, tmp_path / "whole", RARE)
    model, loop = fresh()
    for step, _ in loop(model, RARE, tmp_path / "alive"):
        if step == 3:
            shutil.copytree(tmp_path / "alive", tmp_path / "killed")
            break
    rest = [(step, {k: float(v) for k, v in losses.items()})
            for step, losses in loop(model, RARE, tmp_path / "killed")]
    assert same(rest, seen)
    assert same(model.state_dict(), whole.state_dict())
    assert same_run(tmp_path / "whole", tmp_path / "killed")


def test_ctrl_c_ends_a_run_in_one_line_after_the_update_that_it_came_in(
        fresh, tmp_path, monkeypatch):  # noqa: F811
    whole, seen = train(fresh, tmp_path / "whole", RARE)
    with monkeypatch.context() as patch:
        signals_in(patch, 7, signal.SIGINT)
        with pytest.raises(Interrupted, match=r"cut stopped after update 7 of 20: run it again"):
            train(fresh, tmp_path / "cut", RARE)
    assert load_state(tmp_path / "cut" / "state.pt")["step"] == 7
    resumed, rest = train(fresh, tmp_path / "cut", RARE)
    assert same(rest, seen[7:])
    assert same(resumed.state_dict(), whole.state_dict())
    assert same_run(tmp_path / "whole", tmp_path / "cut")


def test_sigterm_too_is_obeyed_after_a_save(fresh, tmp_path, monkeypatch, capsys):  # noqa: F811
    numbers, before = [], signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda number, frame: numbers.append(number))
    signals_in(monkeypatch, 7, signal.SIGTERM)
    model, loop = fresh()
    for step, _ in loop(model, RARE, tmp_path):
        if step == 7:
            break
    signal.signal(signal.SIGTERM, before)
    assert numbers == [signal.SIGTERM]
    assert "stopped after update 7 of 20" in capsys.readouterr().err
    assert load_state(tmp_path / "state.pt")["step"] == 7


def test_without_a_folder_ctrl_c_says_that_nothing_was_kept(fresh, monkeypatch):  # noqa: F811
    signals_in(monkeypatch, 2, signal.SIGINT)
    with pytest.raises(Interrupted, match="after update 2 of 20: nothing was kept"):
        train(fresh)


def test_leftovers_of_a_killed_run_do_not_outlive_the_next(fresh, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    train(fresh, folder, stop=7)
    for name in ("state.pt.0123456789abcdef.part", "log.jsonl.0123456789abcdef.part", "lock"):
        (folder / name).write_bytes(b"left by a process that was killed")
    (tmp_path / "run.safetensors.0123456789abcdef.part").write_bytes(b"left, too")
    train(fresh, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "state.pt"]
    assert os.listdir(tmp_path) == ["run"]


def test_a_line_that_was_cut_in_two_is_made_again(fresh, tmp_path):  # noqa: F811
    train(fresh, tmp_path / "whole")
    model, loop = fresh()
    for step, _ in loop(model, CONFIG, tmp_path / "alive"):
        if step == 14:
            shutil.copytree(tmp_path / "alive", tmp_path / "cut")
            break
    with (tmp_path / "cut" / "log.jsonl").open("a") as f:
        f.write('{"step": 15, "lr": 0.0')                        # the disk was full
    train(fresh, tmp_path / "cut")
    assert same_run(tmp_path / "whole", tmp_path / "cut")


# two at once --------------------------------------------------------------------------------------

def test_a_folder_that_another_process_trains_in_is_refused(fresh, tmp_path):  # noqa: F811
    tmp_path.joinpath("run").mkdir()
    with Lock(tmp_path / "run" / "lock"), pytest.raises(FileError, match=r"run/ is in use by .*"):
        train(fresh, tmp_path / "run")
    assert not (tmp_path / "run" / "state.pt").exists()


def test_a_cell_that_is_run_again_takes_the_folder_from_its_former_loop(
        fresh, tmp_path):  # noqa: F811
    whole, seen = train(fresh, tmp_path / "whole", RARE)
    model, loop = fresh()
    former = loop(model, RARE, tmp_path / "run")
    for _ in range(3):
        next(former)
    resumed, rest = train(fresh, tmp_path / "run", RARE)         # `former` was never closed
    assert same(rest, seen[3:])
    assert same(resumed.state_dict(), whole.state_dict())
    with pytest.raises(FileError, match="opened by another loop"):
        next(former)
    assert same_run(tmp_path / "whole", tmp_path / "run")


# identity -----------------------------------------------------------------------------------------

@pytest.mark.parametrize(("changes", "said"), [
    ({"lrs": (2e-3,)}, r"training\.lrs was \[0\.001\], now \[0\.002\]"),
    ({"steps": 40}, r"training\.steps was 20, now 40"),
    ({"batch": 4, "seed": 1}, r"training\.batch was 8, now 4; training\.seed was 0, now 1")])
def test_a_run_with_other_settings_is_refused_with_the_difference(
        fresh, tmp_path, changes, said):  # noqa: F811
    train(fresh, tmp_path / "run", stop=5)
    with pytest.raises(FileError, match=rf"run/state\.pt is of another run: {said}; .*--fresh"):
        train(fresh, tmp_path / "run", replace(CONFIG, **changes))


def other_weights(vqvae):
    other = VQVAE(vqvae.cfg, seed=5)
    other.load_state_dict(vqvae.state_dict())
    other.quantizer.codebook[0] += 1
    return other


def training_of(name, vqvae, dataset, folder, other=None):
    """A loop of each kind, which learns from something else if `other` names that."""
    augment = Augment(flip=0.1) if other == "augmentation" else Augment()
    source = other_weights(vqvae) if other == "vqvae" else vqvae
    if name == "vqvae":
        variance = 0.05 if other == "variance" else 1.0
        return train_vqvae(VQVAE(TINY), dataset, CONFIG, augment, variance, folder)
    if name == "flow decoder":
        return train_flow_decoder(FlowDecoder(FLOW_SIZE), source, dataset, CONFIG, augment, folder)
    codes = encode_dataset(source, dataset, "train", (0,) if other == "augmentations" else (0, 4))
    held_out = encode_dataset(source, dataset, "test" if other == "split" else "validation")
    size = replace(GPT_SIZE, layers=2 if other == "layers" else 1)
    return train_prior(GPT(size), codes, held_out, CONFIG, folder)


@pytest.mark.parametrize(("name", "other", "said"), [
    ("vqvae", "augmentation", r"augmentation\.flip was 0\.4, now 0\.1"),
    ("vqvae", "variance", r"variance was 1\.0, now 0\.05"),
    ("prior", "vqvae", r"vqvae was [0-9a-f]{8}, now [0-9a-f]{8}"),
    ("prior", "augmentations", r"codes\.augmentations was \[0, 4\], now \[0\]"),
    ("prior", "split", r"held-out codes\.split was validation, now test"),
    ("prior", "layers", r"model\.layers was 1, now 2"),
    ("flow decoder", "vqvae", r"vqvae was [0-9a-f]{8}, now [0-9a-f]{8}"),
    ("flow decoder", "augmentation", r"augmentation\.flip was 0\.4, now 0\.1")])
@pytest.mark.parametrize("stop", [3, None], ids=["half done", "finished"])
def test_a_run_that_learnt_from_something_else_is_refused_with_the_difference(
        vqvae, dataset, tmp_path, name, other, said, stop):
    for step, _ in training_of(name, vqvae, dataset, tmp_path / "run"):
        if step == stop:
            break
    with pytest.raises(FileError, match=rf"run/state\.pt is of another run: {said}"):
        next(training_of(name, vqvae, dataset, tmp_path / "run", other))


def test_codes_of_no_known_origin_are_told_apart_by_themselves(tmp_path):
    list(train_prior(GPT(GPT_SIZE), coded(40, 1), coded(20, 2), CONFIG, tmp_path, "data"))
    with pytest.raises(FileError, match="codes was"):
        list(train_prior(GPT(GPT_SIZE), coded(40, 3), coded(20, 2), CONFIG, tmp_path, "data"))
    with pytest.raises(FileError, match="data was data, now other"):
        list(train_prior(GPT(GPT_SIZE), coded(40, 1), coded(20, 2), CONFIG, tmp_path, "other"))


def test_training_and_held_out_codes_come_from_one_vqvae(vqvae, dataset):
    codes = encode_dataset(vqvae, dataset, "train")
    held_out = encode_dataset(other_weights(vqvae), dataset, "validation")
    with pytest.raises(ValueError, match="held-out codes are of another vqvae"):
        next(train_prior(GPT(GPT_SIZE), codes, held_out, CONFIG))


@pytest.mark.parametrize(("size", "said"), [
    ({"grid": 8}, "for 64 codes in 0..15, given are 16"), ({"n_codes": 8}, "16 codes in 0..7"),
    ({"n_classes": 2}, "knows 2 classes, the data has 7")], ids=str)
@pytest.mark.parametrize("name", ["gpt", "windowed"])
def test_a_prior_is_not_trained_on_codes_of_another_grid_or_codebook(name, size, said):
    if name == "windowed" and "n_classes" in size:
        pytest.skip("it knows no classes")
    model, _ = MODELS[name](None, None)
    model = type(model)(replace(model.cfg, **size))
    with pytest.raises(ValueError, match=said.replace("16 codes in 0..7", "for 16 codes in 0..7")):
        next(train_prior(model, coded(40, 1), coded(20, 2), CONFIG))


def test_a_prior_can_learn_images_of_any_class_and_knows_no_class_above(tmp_path):
    """The last label means any class, as in `GPT.generate`."""
    sets = [(codes, torch.full_like(labels, GPT_SIZE.n_classes))
            for codes, labels in (coded(40, 1), coded(20, 2))]
    step, losses = next(train_prior(GPT(GPT_SIZE), *sets, CONFIG))
    assert step == 1
    assert math.isfinite(losses["loss"])
    above = [(codes, labels + 1) for codes, labels in sets]
    with pytest.raises(ValueError, match="knows 7 classes, the data has 9"):
        next(train_prior(GPT(GPT_SIZE), *above, CONFIG))


def test_a_vqvae_is_not_trained_on_images_of_another_size(dataset):
    with pytest.raises(ValueError, match="for images of 32 px, the data has 16"):
        next(train_vqvae(VQVAE(replace(TINY, image_size=32)), dataset, CONFIG, Augment()))


# what fails at the end ----------------------------------------------------------------------------

def failing(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stop", [3, None], ids=["broken off", "finished"])
def test_a_failure_at_the_end_does_not_keep_the_folder(dataset, tmp_path, monkeypatch, stop):
    def training():
        return train_vqvae(VQVAE(TINY), dataset, RARE, Augment(), folder=tmp_path / "run")

    def fail(patch):
        patch.setattr("vqlib.train.picture_filter", failing)
        for step, _ in (steps := training()):
            if step == stop:
                patch.setattr(Trainer, "save", failing)
                steps.close()

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        fail(patch)
    assert Run.opened == {}
    assert sorted(os.listdir(tmp_path / "run")) == ["log.jsonl", "state.pt"]   # no lock
    assert [step for step, _ in training()] == ([*range(1, 21)] if stop else [])


# finished models without a checkpoint -------------------------------------------------------------

@pytest.fixture
def finished(fresh, tmp_path):  # noqa: F811
    """A finished model's file whose folder is gone."""
    model, _ = train(fresh, tmp_path / "v1.2")
    save_model(tmp_path / "v1.2.safetensors", model)
    shutil.rmtree(tmp_path / "v1.2")
    return tmp_path / "v1.2.safetensors"


def test_a_finished_model_of_the_same_run_is_its_end(fresh, finished):  # noqa: F811
    kept = finished.read_bytes()
    model, seen = train(fresh, finished.with_name("v1.2"))
    assert seen == []
    assert same(model.state_dict(), load_model(finished)[0].state_dict())
    assert not (finished.with_name("v1.2") / "state.pt").exists()  # it was not trained here
    save_model(finished, model)
    assert finished.read_bytes() == kept                         # and says so still


def test_a_finished_model_brings_its_filter_of_pictures(dataset, tmp_path, monkeypatch):
    """Nobody makes it again, which would read the whole training split."""
    model, loop = MODELS["vqvae"](None, dataset)
    list(loop(model, CONFIG, None))
    save_model(tmp_path / "run.safetensors", model)
    monkeypatch.setattr("vqlib.train.picture_filter", failing)
    again, _ = MODELS["vqvae"](None, dataset)
    assert list(loop(again, CONFIG, tmp_path / "run")) == []
    assert again.origin == model.origin
    assert again.origin["pictures"]


def test_a_finished_model_of_another_run_is_neither_taken_nor_replaced(
        fresh, finished):  # noqa: F811
    kept = finished.read_bytes()
    with pytest.raises(FileError, match=r"v1\.2\.safetensors is of another run: training\.seed"):
        train(fresh, finished.with_name("v1.2"), replace(CONFIG, seed=1))
    assert finished.read_bytes() == kept


def test_a_finished_model_that_does_not_say_what_it_learnt_from_is_left_alone(tmp_path):
    model, loop = prior_loop(GPT, GPT_SIZE)
    save_model(tmp_path / "prior.safetensors", model)
    with pytest.raises(FileError, match=r"prior\.safetensors is there and does not say"):
        next(loop(model, CONFIG, tmp_path / "prior"))


def test_a_damaged_model_beside_a_new_run_counts_for_nothing(tmp_path):
    model, loop = prior_loop(GPT, GPT_SIZE)
    (tmp_path / "prior.safetensors").write_bytes(b"cut")
    assert next(loop(model, CONFIG, tmp_path / "prior"))[0] == 1
    assert (tmp_path / "prior.safetensors.old").read_bytes() == b"cut"


def test_a_model_says_what_it_learnt_from_only_when_it_has(fresh):  # noqa: F811
    model, loop = fresh()
    next(loop(model, CONFIG, None))
    assert model.origin == {}
    model, _ = train(fresh)
    assert model.origin["identity"]["training"]["steps"] == CONFIG.steps


# numbers that are none ----------------------------------------------------------------------------

def test_a_gradient_that_is_no_number_stops_a_run_before_the_update_and_is_named(
        fresh, tmp_path):  # noqa: F811
    model, loop = fresh()
    steps = loop(model, CONFIG, tmp_path)
    for _ in range(3):
        next(steps)
    name, p = next(iter(model.named_parameters()))
    hook = p.register_hook(lambda gradient: gradient * math.inf)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    with pytest.raises(FloatingPointError, match=rf"update 4: the gradient of {name} is NaN or "):
        next(steps)
    hook.remove()
    trained = {name for name, _ in model.named_parameters()}
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items()
               if name in trained)
    assert load_state(tmp_path / "state.pt")["step"] == 0


def test_a_weight_that_is_no_number_is_named(fresh):  # noqa: F811
    model, loop = fresh()
    name, p = next(iter(model.named_parameters()))
    p.data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=rf"update 1: weight {name} is NaN"):
        next(loop(model, CONFIG, None))


def test_images_of_one_colour_are_said_to_be(dataset):
    with pytest.raises(ValueError, match=r"a colour channel of synthetic.* is the same everywhere"):
        next(train_vqvae(VQVAE(TINY, std=(0.2, 0.0, 0.2)), dataset, CONFIG, Augment()))


def test_a_codebook_that_collapsed_is_warned_of(dataset, tmp_path):
    collapsed = VQVAE(replace(TINY, data_init=False, reset_threshold=0.0, n_codes=256))
    with pytest.warns(UserWarning, match=r"poor: the codebook has collapsed.* of 256 codes"):
        list(train_vqvae(collapsed, dataset, replace(RARE, steps=100), Augment(),
                         folder=tmp_path / "poor"))


@pytest.mark.parametrize(("setting", "value"), [
    ("batch", 0), ("seed", -1), ("seed", 2**64), ("clip", math.nan), ("weight_decay", math.inf),
    ("warmup", -1), ("save_every", 0), ("lrs", ()), ("lrs", (math.nan,)), ("lrs", (0.0,)),
    ("betas", (0.9, 1.0)), ("betas", (0.9,)), ("batch", 2.5), ("batch", "8"), ("seed", True),
    ("lrs", 1e-3), ("lrs", ("fast",)), ("class_balance", 1e9)])
def test_settings_that_cannot_be_are_refused_by_name(setting, value):
    with pytest.raises(ValueError, match=setting):
        TrainConfig(**{"steps": 1, setting: value})


# killed at any moment -----------------------------------------------------------------------------

OFTEN = replace(CONFIG, steps=30, save_every=1)  # most of the time it saves


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_killed_at_random_moments_a_run_ends_as_if_it_never_was(name, tmp_path):
    """VQLIB_KILLS (50) times."""
    kills = os.environ.get("VQLIB_KILLS", "50")
    command = [sys.executable, __file__, name, tmp_path, kills, "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1",
                   "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(run.stdout)["killed"] == int(kills)


def child(name, folder):
    """Train in a process of its own; its number."""
    if number := os.fork():
        return number
    code = 1
    try:
        data = Dataset(read_synthetic(90, 16, 0), Geometry(16, 16), cache=folder.parent / "cache")
        model, loop = MODELS[name](VQVAE(TINY).eval(), data)
        for _ in loop(model, OFTEN, folder):
            pass
        code = 0
    finally:
        os._exit(code)


def kill_at_random(name, folder, kills, rng):
    """Kill runs until that has been done so often; each that ends is as one that was not killed."""
    start = time.monotonic()
    assert os.waitpid(child(name, folder / "whole"), 0)[1] == 0
    length, killed, runs, ended = time.monotonic() - start, 0, 0, False
    while killed < kills or not ended:
        process = child(name, folder / f"killed-{runs}")
        if killed < kills:
            time.sleep(rng.uniform(0, length))
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        status = os.waitpid(process, 0)[1]
        ended = status == 0
        killed += status == signal.SIGKILL
        assert status in (0, signal.SIGKILL)
        if ended:
            assert same_run(folder / "whole", folder / f"killed-{runs}")
            names = {path.name for path in (folder / f"killed-{runs}").iterdir()}
            assert names == {"state.pt", "log.jsonl"}
            runs += 1
    print(json.dumps({"killed": killed, "runs": runs}))


if __name__ == "__main__":
    torch.set_num_threads(1)                                     # forked children have one
    kill_at_random(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), random.Random(sys.argv[4]))
