"""Laws of training: a stop changes nothing, a step is an update, chance is seeded."""

import json
import math
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import TINY
from torch.utils._python_dispatch import TorchDispatchMode

import vqlib.train
from vqlib.backend.files import FileError
from vqlib.checkpoint import load_state
from vqlib.data.augment import Augment, dihedral
from vqlib.data.batches import batches
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig
from vqlib.gpt import GPT, GPTConfig
from vqlib.quantizer import Quantizer
from vqlib.train import (
    TrainConfig,
    encode_dataset,
    held_out_nats,
    read_log,
    train_flow_decoder,
    train_prior,
    train_vqvae,
)
from vqlib.vqvae import VQVAE
from vqlib.windowed_gpt import WindowedGPT, WindowedGPTConfig

CONFIG = TrainConfig(steps=20, batch=8, lrs=(1e-3,), weight_decay=0.01, clip=1.0, eval_every=3,
                     eval_images=20, save_every=5, patience=0)
GPT_SIZE = GPTConfig(grid=4, n_codes=16, n_classes=7, width=16, heads=2, layers=1, dropout=0.2)
WINDOWED_SIZE = WindowedGPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=1, dropout=0.2)
FLOW_SIZE = FlowDecoderConfig(code_dim=4, width=8, layers=1, patch=2, steps=2)


def coded(n, seed, low=0, high=16):
    """Codes (n, 2, 16) of two augmentations, and labels (n,)."""
    rng = torch.Generator().manual_seed(seed)
    codes = torch.randint(low, high, (n, 2, 16), generator=rng).short()
    return codes, torch.randint(7, (n,), generator=rng)


def vqvae_loop(dataset):
    def loop(model, config, folder):
        return train_vqvae(model, dataset, config, Augment(), folder=folder)
    return VQVAE(replace(TINY, reset_threshold=0.3), seed=0), loop


def prior_loop(cls, cfg):
    def loop(model, config, folder):
        return train_prior(model, coded(40, 1), coded(20, 2), config, folder, "data")
    return cls(cfg, seed=0), loop


def flow_loop(vqvae, dataset):
    def loop(model, config, folder):
        return train_flow_decoder(model, vqvae, dataset, config, Augment(), folder)
    return FlowDecoder(FLOW_SIZE, seed=0), loop


MODELS = {"vqvae": lambda vqvae, dataset: vqvae_loop(dataset),
          "gpt": lambda vqvae, dataset: prior_loop(GPT, GPT_SIZE),
          "windowed": lambda vqvae, dataset: prior_loop(WindowedGPT, WINDOWED_SIZE),
          "flow decoder": flow_loop}


@pytest.fixture(params=MODELS)
def fresh(request, dataset, vqvae):
    """Gives (model, loop) anew at each call; loop(model, config, folder) trains."""
    return partial(MODELS[request.param], vqvae, dataset)


def train(fresh, folder=None, config=CONFIG, stop=None, disturb=lambda: None):
    """Train to the end, or break after update `stop`; all yielded (step, losses)."""
    model, loop = fresh()
    seen = []
    for step, losses in loop(model, config, folder):
        seen.append((step, {k: float(v) for k, v in losses.items()}))
        disturb()
        if step == stop:
            break
    return model, seen


def same(a, b):
    """Equal to the last bit, through nested dicts and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    return a == b


def same_run(a, b):
    """Whether two folders hold the same checkpoint and log to the last bit."""
    states = [load_state(folder / "state.pt") for folder in (a, b)]
    return same(*states) and (a / "log.jsonl").read_bytes() == (b / "log.jsonl").read_bytes()


@pytest.mark.parametrize("stop", [5, 13], ids=["at a checkpoint", "between two"])
def test_a_run_that_was_stopped_and_resumed_is_the_run_that_was_not(fresh, tmp_path, stop):
    whole, seen = train(fresh, tmp_path / "whole")
    train(fresh, tmp_path / "halves", stop=stop)
    torch.rand(5)  # another process has another state
    resumed, rest = train(fresh, tmp_path / "halves")
    # weights, and the codebook with its averages
    assert same(whole.state_dict(), resumed.state_dict())
    assert same(seen[stop:], rest)                               # who breaks off loses nothing
    assert same_run(tmp_path / "whole", tmp_path / "halves")


@pytest.mark.parametrize("moment", [1, 5, 13])
def test_a_run_that_was_killed_and_resumed_is_the_run_that_was_not(fresh, tmp_path, moment):
    """What a killed process leaves is what its files are at that moment."""
    whole, seen = train(fresh, tmp_path / "whole")
    model, loop = fresh()
    for step, _ in loop(model, CONFIG, tmp_path / "alive"):
        if step == moment:
            shutil.copytree(tmp_path / "alive", tmp_path / "killed")
            break
    resumed, rest = train(fresh, tmp_path / "killed")
    assert same(whole.state_dict(), resumed.state_dict())
    assert same(seen[moment // 5 * 5 :], rest)
    assert same_run(tmp_path / "whole", tmp_path / "killed")


def test_a_finished_run_does_no_more_updates_and_gives_its_weights(fresh, tmp_path):
    whole, _ = train(fresh, tmp_path)
    again, seen = train(fresh, tmp_path)
    assert seen == []
    assert same(whole.state_dict(), again.state_dict())


def test_every_yielded_step_is_an_update(fresh):
    model, loop = fresh()
    before = [p.clone() for p in model.parameters()]
    for count, (step, _) in enumerate(loop(model, CONFIG, None), 1):
        assert step == count
        assert (
            sum(not torch.equal(a, b) for a, b in zip(before, model.parameters())) > len(before) / 2
        )
        before = [p.clone() for p in model.parameters()]
    assert count == CONFIG.steps


def test_the_same_seed_twice_is_the_same_run_and_another_seed_another(fresh, tmp_path):
    a, b, c = (
        train(fresh, tmp_path / str(i), replace(CONFIG, seed=seed))[0]
        for i, seed in enumerate((0, 0, 1))
    )
    assert same(a.state_dict(), b.state_dict())
    assert read_log(tmp_path / "0") == read_log(tmp_path / "1") != read_log(tmp_path / "2")
    assert not same(a.state_dict(), c.state_dict())


def test_what_the_caller_draws_between_updates_changes_nothing(fresh):
    def disturb():
        torch.rand(3)
        np.random.default_rng().random(3)

    assert same(train(fresh, disturb=disturb)[0].state_dict(), train(fresh)[0].state_dict())


def test_what_the_caller_draws_is_not_changed_by_training(fresh):
    model, loop = fresh()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    next(loop(model, CONFIG, None))
    assert torch.equal(torch.rand(1), expected)


def test_the_caller_may_evaluate_between_updates(fresh, codes, dataset):
    def run(evaluate):
        model, loop = fresh()
        for _ in loop(model, CONFIG, None):
            if evaluate:
                model.eval()
        return model.state_dict()
    assert same(run(True), run(False))


def test_training_leaves_the_model_ready_for_use(fresh):
    assert not train(fresh)[0].training


def test_training_lowers_the_loss(fresh):
    _, seen = train(fresh, config=replace(CONFIG, steps=60, lrs=(5e-3,), eval_every=100))
    key = "recon" if "recon" in seen[0][1] else "loss"
    first, last = (np.mean([losses[key] for _, losses in part]) for part in (seen[:10], seen[-10:]))
    assert last < first - 0.02


def test_the_loss_of_the_mean_image_is_one(dataset):
    """The report divides by the variance of other pixels, which only scales the same error."""
    x = dataset[dataset.splits["train"]]
    model = VQVAE(TINY, x.mean((0, 2, 3)), x.std((0, 2, 3), correction=0))
    for p in model.decoder.parameters():
        p.data.zero_()  # answers the mean image whatever it sees
    config = replace(CONFIG, steps=1, batch=len(x))
    off = Augment(0.0, 0.0)
    assert float(next(train_vqvae(model, dataset, config, off))[1]["recon"]) == pytest.approx(
        1, abs=1e-4
    )


def test_the_given_variance_divides_the_error(dataset):
    one, twentieth = (
        float(next(train_vqvae(VQVAE(TINY), dataset, CONFIG, Augment(), v))[1]["recon"])
        for v in (1.0, 0.05)
    )
    assert twentieth == pytest.approx(20 * one, rel=1e-5)


@pytest.mark.parametrize("data_init", [True, False])
def test_the_codebook_is_placed_once_before_the_first_update_or_never(
        dataset, tmp_path, monkeypatch, data_init):
    steps, place = [], Quantizer.init_from
    monkeypatch.setattr(Quantizer, "init_from", lambda q, z: steps.append(q.steps) or place(q, z))
    for stop in (7, None):                                       # again, after a resume
        model = VQVAE(replace(TINY, data_init=data_init))
        for step, _ in train_vqvae(model, dataset, CONFIG, Augment(), folder=tmp_path):
            if step == stop:
                break
    assert steps == [0] * data_init


def test_a_vqvae_too_sees_rare_classes_more_often_where_it_is_asked(dataset, monkeypatch):
    seen = []
    monkeypatch.setattr(vqlib.train, "batches", lambda *a: seen.append(a[-1]) or batches(*a))
    next(train_vqvae(VQVAE(TINY), dataset, replace(CONFIG, class_balance=0.5), Augment()))
    assert seen == [0.5]


def test_without_held_out_images_a_prior_is_not_trained():
    empty = torch.zeros(0, 1, 16).short(), torch.zeros(0).long()
    with pytest.raises(ValueError, match="0 held-out images"):
        next(train_prior(GPT(GPT_SIZE), coded(40, 1), empty, CONFIG))


def test_a_codebook_that_is_no_number_is_not_saved(dataset, tmp_path):
    model = VQVAE(TINY)
    loop = train_vqvae(model, dataset, CONFIG, Augment(), folder=tmp_path)
    for _ in range(9):
        next(loop)
    model.quantizer.ema_sum[3] = math.nan                        # of a code that nobody may pick
    with pytest.raises(FloatingPointError, match="update 10"):
        next(loop)
    assert load_state(tmp_path / "state.pt")["step"] == 5


# schedule -----------------------------------------------------------------------------------------

def test_rates_are_held_for_equal_parts_of_the_run():
    config = TrainConfig(steps=600_000, lrs=(4e-4, 4e-4, 5e-5), cosine=False)
    rates = [config.lr(s) for s in (0, 199_999, 200_000, 399_999, 400_000, 599_999)]
    assert rates == [4e-4, 4e-4, 4e-4, 4e-4, 5e-5, 5e-5]


def test_a_cosine_starts_at_its_rate_ends_at_2_percent_and_never_rises():
    config = TrainConfig(steps=1000, lrs=(1e-3,))
    rates = [config.lr(s) for s in range(1000)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[500] == pytest.approx(0.51e-3)
    assert rates[-1] == pytest.approx(2e-5, rel=1e-3)
    assert rates == sorted(rates, reverse=True)


def test_warmup_rises_linearly_and_then_does_not_matter():
    plain = TrainConfig(steps=100, lrs=(1.0,), cosine=False)
    config = replace(plain, warmup=10)
    assert [config.lr(s) for s in range(10)] == pytest.approx([(s + 1) / 10 for s in range(10)])
    assert [config.lr(s) for s in range(10, 100)] == [plain.lr(s) for s in range(10, 100)]


def test_the_log_says_the_rate_of_the_update_that_was_made(fresh, tmp_path):
    config = replace(CONFIG, lrs=(1e-3, 1e-4), cosine=False)
    train(fresh, tmp_path, config)
    assert {line["step"]: line["lr"] for line in read_log(tmp_path)}.items() >= {
        10: 1e-3,
        20: 1e-4,
    }.items()


# faults -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("when", [7, 9, 10, 14])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(
    fresh, tmp_path, when
):
    config = replace(CONFIG, clip=0.0)
    model, loop = fresh()
    steps = loop(model, config, tmp_path)
    for _ in range(when):
        next(steps)
    next(model.parameters()).data.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"update \d+.*learning rate"):
        list(steps)
    state = load_state(tmp_path / "state.pt")
    assert state["step"] == when // 5 * 5
    assert all(v.isfinite().all() for v in state["weights"].values())
    assert all(math.isfinite(v) for line in read_log(tmp_path) for v in line.values())


def test_a_damaged_checkpoint_is_refused_by_name(fresh, tmp_path):
    train(fresh, tmp_path, stop=5)
    data = bytearray((tmp_path / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "state.pt").write_bytes(data)
    with pytest.raises(FileError, match=r"state\.pt"):
        train(fresh, tmp_path)


def test_without_a_folder_nothing_is_written(fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(fresh)
    assert list(tmp_path.iterdir()) == []


# the path of a GPU, on a CPU ----------------------------------------------------------------------

class Asked(TorchDispatchMode):
    """Which operations were called, of those for which the host waits for a GPU."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        # _local_scalar_dense: item(), float(), bool(), int()
        if (name := op._overloadpacket.__name__) in self.WAITS:
            self.names.append(name)
        return op(*args, **kwargs or {})


def test_nothing_asks_a_gpu_for_a_number_between_records(fresh, monkeypatch):
    model, loop = fresh()
    start = vqlib.train.Trainer.__init__

    def on_a_gpu(trainer, *args):
        start(trainer, *args)
        trainer.checks_gradients = False

    monkeypatch.setattr(vqlib.train.Trainer, "__init__", on_a_gpu)
    steps = loop(model, replace(CONFIG, eval_every=100, save_every=100), None)
    next(steps)  # what is measured before the first update
    with Asked() as asked, monkeypatch.context() as patch:
        for name in ("cpu", "numpy", "tolist"):  # on a CPU they call no operation
            patch.setattr(torch.Tensor, name, lambda *_, name=name: asked.names.append(name))
        for _ in range(8):
            next(steps)
        assert asked.names == []
        next(steps)                                                   # update 10 is recorded
        assert set(asked.names) == {"_local_scalar_dense"}


def in_precision(fresh, monkeypatch, precision=None):
    """Losses of a run, and the dtypes that encoder, prior and quantizer gave in training."""

    class Other(vqlib.train.Trainer):
        def __init__(self, *args):
            super().__init__(*args)
            self.precision = precision or self.precision

    monkeypatch.setattr(vqlib.train, "Trainer", Other)
    (model, loop), nets, codes = fresh(), set(), set()
    net = getattr(model, "encoder", getattr(model, "residual", model))  # of a flow decoder: the end
    net.register_forward_hook(
        lambda net, _, y: nets.add(y.dtype) if net.training else None
    )
    if hasattr(model, "quantizer"):
        model.quantizer.register_forward_hook(
            lambda q, _, y: codes.update((y.e.dtype, y.commit.dtype, q.codebook.dtype))
        )
    losses = [losses.get("recon", losses.get("loss")) for _, losses in loop(model, CONFIG, None)]
    return torch.stack(losses), nets, codes


def test_a_cpu_computes_in_full_precision(fresh, monkeypatch):
    _, nets, codes = in_precision(fresh, monkeypatch)
    assert nets | codes == {torch.float32}


def test_autocast_halves_the_nets_spares_the_quantizer_and_keeps_the_loss(fresh, monkeypatch):
    plain, _, _ = in_precision(fresh, monkeypatch)
    half, nets, codes = in_precision(fresh, monkeypatch, torch.autocast("cpu", torch.bfloat16))
    assert nets == {torch.bfloat16}
    assert codes <= {torch.float32}
    assert torch.allclose(half, plain, rtol=0.02)


# priors -------------------------------------------------------------------------------------------

def overfitting(patience, steps=400):
    """A prior that learns its 8 training grids by heart.

    The held-out ones share only their unequal code frequencies.
    """
    config = replace(
        CONFIG,
        steps=steps,
        lrs=(1e-2,),
        cosine=False,
        patience=patience,
        eval_every=10,
        save_every=10,
    )
    model = GPT(replace(GPT_SIZE, dropout=0.0, class_dropout=0.0), seed=0)
    held_out = coded(8, 2, 0, 8)
    seen = list(train_prior(model, coded(8, 1, 0, 8), held_out, config))
    return model, seen, held_out


def test_a_prior_stops_without_gains_and_keeps_its_best_weights():
    model, seen, held_out = overfitting(patience=3)
    curve = {step: float(losses["held_out"]) for step, losses in seen if "held_out" in losses}
    best = min(curve, key=curve.get)
    assert seen[-1][0] == best + 30 < 400
    assert curve[seen[-1][0]] > curve[best] + 0.05
    assert float(held_out_nats(model, held_out[0][:, 0], held_out[1]).mean()) == pytest.approx(
        curve[best], rel=1e-5
    )


def test_without_patience_a_prior_runs_to_the_end_and_still_keeps_its_best_weights():
    model, seen, held_out = overfitting(patience=0, steps=100)
    assert seen[-1][0] == 100
    curve = [float(losses["held_out"]) for _, losses in seen if "held_out" in losses]
    assert float(held_out_nats(model, held_out[0][:, 0], held_out[1]).mean()) == pytest.approx(
        min(curve), rel=1e-5
    )


def test_held_out_and_training_nats_are_those_of_the_image_itself_in_eval_mode():
    model, train, held_out = GPT(GPT_SIZE), coded(20, 1), coded(20, 2)
    for _, losses in train_prior(model, train, held_out, CONFIG):
        if "held_out" in losses:
            break
    expected = [float(held_out_nats(model, c[:, 0], y).mean()) for c, y in (train, held_out)]
    assert [float(losses["train"]), float(losses["held_out"])] == pytest.approx(expected, rel=1e-5)


def test_a_part_that_is_scored_during_training_holds_all_classes_of_sorted_files(monkeypatch):
    labels, scored = torch.arange(7).repeat_interleave(20), []
    monkeypatch.setattr(
        vqlib.train, "held_out_nats", lambda prior, c, y: scored.append(y) or torch.ones(1)
    )
    both = torch.zeros(140, 1, 16).short(), labels
    list(train_prior(GPT(GPT_SIZE), both, both, replace(CONFIG, steps=3, eval_images=50)))
    assert [len(y) for y in scored] == [50, 50]
    assert all(set(y.tolist()) == set(range(7)) for y in scored)


def test_all_augmentations_of_an_image_are_trained_on(monkeypatch):
    codes = (
        torch.arange(40)[:, None, None].expand(40, 2, 16) % 8 + 8 * torch.arange(2)[None, :, None]
    )
    model, seen = GPT(GPT_SIZE), set()
    monkeypatch.setattr(
        model, "loss", lambda c, y, d: seen.update(c.unique().tolist()) or GPT.loss(model, c, y, d)
    )
    list(train_prior(model, (codes.short(), torch.zeros(40).long()), coded(20, 2), CONFIG))
    assert seen == set(range(16))


def test_images_keep_their_labels_in_prior_training(monkeypatch):
    labels = torch.arange(40) % 7
    codes = labels[:, None, None].expand(40, 2, 16).short()           # the codes say the label
    model, pairs = GPT(GPT_SIZE), []
    monkeypatch.setattr(
        model, "loss", lambda c, y, d: pairs.append((c[:, 0], y)) or GPT.loss(model, c, y, d)
    )
    list(train_prior(model, (codes, labels), coded(20, 2), CONFIG))
    assert all(torch.equal(c, y) for c, y in pairs)


def test_the_codes_of_a_split_are_those_of_its_augmentations(vqvae, dataset):
    codes, labels = encode_dataset(vqvae, dataset, "validation", augmentations=(0, 4, 1), batch=3)
    rows = dataset.splits["validation"]
    for v, k in enumerate((0, 4, 1)):
        assert torch.equal(codes[:, v].long(), vqvae.encode(dihedral(dataset[rows], k)).flatten(1))
    assert torch.equal(labels, dataset.labels[rows])


def test_batches_do_not_change_held_out_nats(gpt, codes):
    x, labels = codes
    assert torch.allclose(
        held_out_nats(gpt, x.short(), labels, batch=4), gpt.nats(x, labels), atol=1e-5
    )


def test_the_log_is_one_json_object_per_line(fresh, tmp_path):
    train(fresh, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == read_log(tmp_path)
    assert lines[-1]["step"] == CONFIG.steps
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})


def test_a_prior_that_stopped_early_is_not_trained_again(tmp_path):
    config = replace(
        CONFIG, steps=400, lrs=(1e-2,), cosine=False, patience=3, eval_every=10, save_every=1000
    )
    size = replace(GPT_SIZE, dropout=0.0, class_dropout=0.0)
    first, again = GPT(size, seed=0), GPT(size, seed=0)
    data = coded(8, 1, 0, 8), coded(8, 2, 0, 8)
    steps = [step for step, _ in train_prior(first, *data, config, tmp_path)]
    assert steps[-1] < 400
    assert list(train_prior(again, *data, config, tmp_path)) == []
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values())
    )
