"""Laws of devices: nothing lies on the wrong one, and a GPU is asked for a number only to record.

The GPU here is pretended: its tensors have shapes and no values, so any machine can run this. What
values a GPU computes is tests/test_gpu.py's.
"""
from copy import copy
from dataclasses import replace
from itertools import count, islice
from threading import get_ident

import pytest
import torch
from test_train import CONFIG, MODELS
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vqlib.runs
import vqlib.train
import vqlib.workspace
from vqlib.__main__ import main
from vqlib.backend.device import ahead, to_device
from vqlib.checkpoint import load_model
from vqlib.data.augment import Augment, pixels_from
from vqlib.metrics import evaluate_vqvae
from vqlib.train import noise_and_times, train_vqvae


class PretendedGPU(TorchDispatchMode):
    """Operations on "cuda" give shapes, those on a CPU values, those on both an error.

    What comes back to the CPU is zeros. waits: operations for which the host would wait.
    """

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves, name = tree_leaves((args, kwargs)), op._overloadpacket.__name__
        there = any(isinstance(x, FakeTensor) for x in leaves)
        if name == "_local_scalar_dense" and there:              # item(), float(), bool(), int()
            self.waits.append(name)
            return 1
        to = kwargs.get("device") if name == "_to_copy" else None
        if to and (there or to.type == "cuda") and not kwargs.get("non_blocking"):
            self.waits.append(f"copy to {to.type}")
        if to and there and to.type == "cpu":
            with unset_fake_temporarily():
                return torch.zeros(args[0].shape, dtype=kwargs.get("dtype", args[0].dtype))
        if there or any(isinstance(x, torch.device) and x.type == "cuda" for x in leaves):
            return op(*args, **kwargs)                           # FakeTensorMode, one mode below
        with unset_fake_temporarily():
            return op(*args, **kwargs)


@pytest.fixture
def gpu(monkeypatch):
    """The pretended GPU; gradients on it are given, not computed, and states are not written."""
    for name in ("get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: x)
    monkeypatch.setattr(vqlib.runs, "save_state", lambda path, state: None)
    start = vqlib.train.Trainer.__init__

    def remember(trainer, model, *rest):
        start(trainer, model, *rest)

        def backward(loss):
            for p in model.parameters():
                p.grad = torch.zeros_like(p)
        monkeypatch.setattr(torch.Tensor, "backward", backward)

    monkeypatch.setattr(vqlib.train.Trainer, "__init__", remember)
    with FakeTensorMode(allow_non_fake_inputs=True), PretendedGPU() as pretended:
        yield pretended
    pixels_from.cache_clear()


def moved(dataset):
    """The data set with its pixels on the GPU."""
    there = copy(dataset)
    there.images = dataset.images.to("cuda")
    return there


QUARTER_TURNS = Augment(dihedral=True, rotate=0.0)
LONG = replace(CONFIG, steps=100, eval_every=100, save_every=100)


def updates(loop, gpu) -> list[str]:
    """What the host waits for in eight updates after the first."""
    next(loop)                                                   # with what is measured before it
    gpu.waits.clear()
    assert [step for step, _ in islice(loop, 8)] == [*range(2, 10)]
    return gpu.waits


@pytest.mark.parametrize("name", MODELS)
def test_an_update_stays_on_the_gpu_and_does_not_wait_for_it(name, vqvae, dataset, gpu):
    model, loop = MODELS[name](vqvae.to("cuda"), moved(dataset))
    assert updates(loop(model.to("cuda"), LONG, None), gpu) == []


@pytest.mark.parametrize("where", [moved, copy], ids=["gpu", "cpu"])
@pytest.mark.parametrize("augment", [QUARTER_TURNS, Augment(), Augment(rotate=0.0)], ids=str)
def test_images_may_lie_on_either_and_turn_in_any_way(augment, where, vqvae, dataset, gpu):
    assert updates(train_vqvae(vqvae.to("cuda"), where(dataset), LONG, augment), gpu) == []


def test_the_three_trainings_run_on_a_gpu_from_data_to_files(
        short, ham, home, gpu, monkeypatch, capsys):
    monkeypatch.setattr(vqlib.workspace, "default_device", lambda: "cuda")
    # all pixels of a pretended GPU are 0, which has no statistics
    monkeypatch.setattr("vqlib.cli.train.statistics", lambda dataset: {
        "mean": dataset[[0]].mean((0, 2, 3)).cpu().tolist(), "std": [1.0] * 3, "variance": 1.0})
    assert main(["train", "all", "--preset", "smoke", "--data", str(ham[0])]) == 0
    assert "device cuda" in capsys.readouterr().out
    for name in ("vqvae", "prior", "flow-decoder"):
        path, = home.rglob(f"{name}.safetensors")
        assert load_model(path)[1]["training"]["steps"] == 4


def test_a_vqvae_on_a_gpu_is_evaluated_on_images_that_lie_there(vqvae, dataset, gpu):
    found = evaluate_vqvae(vqvae.to("cuda"), moved(dataset), "validation")
    assert found["images"] == len(dataset.splits["validation"])


def test_dropout_draws_from_the_gpu_what_the_caller_did_not_lose(gpu, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: calls.append(device) or 7)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *state: calls.append(state))
    model, loop = MODELS["gpt"](None, None)
    next(loop(model.to("cuda"), LONG, None))
    there = torch.device("cuda", 0)
    assert calls == [there, (7, there)]


# drawing ahead ------------------------------------------------------------------------------------

def test_what_is_made_ahead_is_the_same_in_the_same_order():
    assert list(islice(ahead(count(3)), 5)) == [3, 4, 5, 6, 7]


def test_another_thread_is_one_ahead_and_no_more():
    made = []
    items = ahead(made.append(i) or get_ident() for i in count())
    assert next(items) != get_ident()
    items.close()                                                # waits for what is being made
    assert made == [0, 1]


def test_what_goes_wrong_ahead_goes_wrong_where_it_is_used():
    items = ahead(1 / x for x in (1, 0, 1))
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError):
        next(items)


def test_on_a_cpu_nothing_is_copied():
    x = torch.ones(3)
    assert to_device(x, torch.device("cpu")) is x


def test_noise_depends_on_seed_and_update_only():
    noise, t = zip(*islice(noise_and_times(CONFIG, 4, 0), 5))
    later, s = next(noise_and_times(CONFIG, 4, 3))
    assert torch.equal(noise[3], later)
    assert torch.equal(t[3], s)
    assert not torch.equal(noise[2], later)
    assert noise[0].shape == (CONFIG.batch, 3, 4, 4)
