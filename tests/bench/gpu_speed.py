"""How fast one GPU trains and samples: `python -m tests.bench.gpu_speed --data DIR --out FILE`.

Each training is the one that `python -m vqlib train` runs, data on the GPU, plain and compiled. Its
speed also stands as a share of the rate of a matrix product in bfloat16. Rows are written as they
come. With `--tiny` the same runs on a CPU, at sizes where its results mean nothing.
"""
import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from vqlib import train
from vqlib.backend.files import write_atomically
from vqlib.cli.options import compile_parts
from vqlib.flow_decoder import FlowDecoder
from vqlib.gpt import GPT
from vqlib.vqvae import VQVAE
from vqlib.workspace import open_workspace

from .priors import trainer as prior_step
from .quantizing import trainer as vqvae_step
from .timing import flops

ENDLESS = {"steps": 10**6, "eval_every": 10**6, "save_every": 10**6}


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    flagship: str = "flagship"     # presets
    report: str = "report"
    side: int = 8192               # of the matrix product that stands for the chip
    updates: int = 30              # in a round
    rounds: int = 5
    samples: int = 64
    compiler: str = "inductor"


TINY = Scale("smoke", "smoke", side=64, updates=1, rounds=2, samples=2, compiler="eager")


@dataclass
class Speed:
    """One thing that was measured in one way."""

    what: str                  # "vqvae flagship", "sampling 64 images"
    way: str                   # plain or compiled
    unit: str                  # of what is counted: images or tokens
    per_second: float
    share: float               # of the rate of a matrix product in bfloat16
    seconds: float             # of an update, or of one call
    first: float               # seconds of the first three updates or calls, compilation included

    def __str__(self):
        return (f"{self.what}, {self.way}: {self.per_second:,.0f} {self.unit}/s, "
                f"{self.share:.2%} of a product's rate, {1000 * self.seconds:.2f} ms each, "
                f"the first three {self.first:.1f} s")


def finish(device) -> None:
    """Wait for what the device has been asked to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def seconds_of(run: Callable, times: int, device) -> float:
    """Of one call among `times` in a row."""
    finish(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    finish(device)
    return (time.perf_counter() - start) / times


def product_rate(side: int, device) -> float:
    """Operations per second of a square matrix product in bfloat16."""
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    seconds_of(lambda: a @ b, 3, device)
    return 2 * side**3 / float(np.median([seconds_of(lambda: a @ b, 10, device)
                                          for _ in range(5)]))


# what is measured: (its loop or call, items each time, operations each time) ----------------------

def vqvae_training(ws, compiler):
    p, model = ws.preset, VQVAE(ws.preset.vqvae).to(ws.device)
    compile_parts(model, compiler)
    config = replace(p.vqvae_training, **ENDLESS)
    side, B = p.vqvae.image_size, config.batch
    work = B * flops(vqvae_step(VQVAE(p.vqvae).train(), torch.rand(1, 3, side, side)))
    return train.train_vqvae(model, ws.dataset, config, p.augment).__next__, B, work


def prior_training(ws, compiler):
    """On random codes: how many there are decides, not which."""
    p, rng = ws.preset, torch.Generator().manual_seed(0)
    config, T = replace(p.prior_training, **ENDLESS), p.prior.grid**2
    codes = torch.randint(p.prior.n_codes, (4096, len(p.prior_augmentations), T), generator=rng)
    labels = torch.arange(4096) % p.prior.n_classes
    model, other = GPT(p.prior).to(ws.device), GPT(p.prior)
    compile_parts(model, compiler)
    step = prior_step(other, lambda: other.loss(codes[:1, 0], labels[:1], rng))
    data = codes.short(), labels
    loop = train.train_prior(model, data, data, config)
    return loop.__next__, config.batch * T, config.batch * flops(step)


def flow_training(ws, compiler):
    p = ws.preset
    config = replace(p.flow_decoder_training, **ENDLESS)
    flow, vqvae = FlowDecoder(p.flow_decoder), VQVAE(p.vqvae).eval()
    x = torch.rand(1, 3, p.vqvae.image_size, p.vqvae.image_size)

    def step():
        e, x_hat, residual = train.least_squares(vqvae, x)
        flow.loss(e, x_hat, residual, x, torch.zeros(1)).backward()

    work = config.batch * flops(step)
    loop = train.train_flow_decoder(flow.to(ws.device), vqvae.to(ws.device), ws.dataset, config,
                                    p.augment)
    return loop.__next__, config.batch, work


def sampling(n: int):
    def prepare(ws, compiler):
        cfg = ws.preset.prior
        model, one = GPT(cfg).to(ws.device), GPT(cfg)
        compile_parts(model, compiler)
        labels = torch.arange(n) % cfg.n_classes
        work = n * flops(lambda: one.generate(labels[:1]))
        return lambda: model.generate(labels), n * cfg.grid**2, work
    return prepare


def jobs(scale: Scale):
    """(name, way, preset, unit, how to prepare it, compiler); first all that need none."""
    a, b = scale.flagship, scale.report
    trainings = [(f"vqvae {a}", a, "images", vqvae_training),
                 (f"prior {a}", a, "tokens", prior_training),
                 (f"vqvae {b}", b, "images", vqvae_training),
                 (f"sampling {scale.samples} images", a, "tokens", sampling(scale.samples)),
                 (f"flow-decoder {a}", a, "images", flow_training)]
    for name, *how in trainings:
        yield name, "plain", *how, None
    for name, *how in trainings[:-1]:                            # no command compiles the last
        yield name, "compiled", *how, scale.compiler


def measure(run, items: int, work: int, scale: Scale, rate: float, device) -> dict:
    """The numbers of a Speed; a round lasts half a second or `updates` calls, what is shorter."""
    first = 3 * seconds_of(run, 3, device)
    times = max(1, min(scale.updates, int(0.5 / seconds_of(run, 1, device))))
    each = float(np.median([seconds_of(run, times, device) for _ in range(scale.rounds)]))
    return {"per_second": items / each, "share": work / each / rate, "seconds": each,
            "first": first}


def busiest(run, device) -> str:
    """What the device and the host do during an update, the longest first."""
    there = torch.device(device).type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if there else [])]
    with profile(activities=kinds) as record:
        each = seconds_of(run, 1, device)
    events = record.key_averages()
    busy = sum(event.self_device_time_total for event in events
               if event.device_type != DeviceType.CPU and not event.is_user_annotation) / 1e6
    by = "self_device_time_total" if there else "self_cpu_time_total"
    return (f"{1000 * each:.2f} ms an update, profiled; kernels take {busy / each:.0%} of it\n"
            + events.table(sort_by=by, row_limit=12, max_name_column_width=60))


class Measuring:
    """What is measured, one after another, and the file that has all so far."""

    def __init__(self, scale: Scale, data, out: Path):
        self.scale, self.data, self.out, self.spaces = scale, data, out, {}
        self.rate, self.rows, self.errors = None, [], []

    def space(self, preset: str):
        """Preset and data, pixels on the device."""
        if preset not in self.spaces:
            self.spaces[preset] = ws = open_workspace(preset, self.data, shipped=False)
            ws.dataset.images = ws.dataset.images.to(ws.device)
        return self.spaces[preset]

    def one(self, name, way, preset, unit, prepare, compiler) -> Speed:
        ws = self.space(preset)
        self.rate = self.rate or product_rate(self.scale.side, ws.device)
        torch._dynamo.reset()
        run, items, work = prepare(ws, compiler)
        found = measure(run, items, work, self.scale, self.rate, ws.device)
        with self.out.with_suffix(".profile.txt").open("a") as f:
            f.write(f"{name}, {way}: {busiest(run, ws.device)}\n\n")
        return Speed(name, way, unit, **found)

    def __iter__(self):
        """Each Speed, or a line that says why there is none."""
        for name, way, *how in jobs(self.scale):
            try:
                self.rows.append(self.one(name, way, *how))
                yield self.rows[-1]
            except Exception as e:                               # the next may work
                self.errors.append(f"{name}, {way}: {type(e).__name__}: {e}")
                yield self.errors[-1]
            self.save()

    def save(self) -> None:
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
        result = {"device": device, "torch": torch.__version__, "product_rate": self.rate,
                  "rows": [asdict(row) for row in self.rows], "errors": self.errors}
        write_atomically(self.out, (json.dumps(result, indent=1) + "\n").encode())


def pays(path: Path, updates: dict[str, int]) -> bool:
    """Whether so many updates of these trainings are a tenth faster when compiled, by a file."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    by = {(row["what"], row["way"]): row for row in rows}
    seconds = {"plain": 0.0, "compiled": 0.0}
    for what, n in updates.items():
        for way in seconds:
            if (what, way) not in by:
                return False
            seconds[way] += by[what, way]["first"] + n * by[what, way]["seconds"]
    return seconds["compiled"] < 0.9 * seconds["plain"]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu_speed", description=__doc__)
    parser.add_argument("--data", help="as for vqlib train")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .json")
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    for found in Measuring(TINY if args.tiny else Scale(), args.data, args.out):
        print(found, flush=True)


if __name__ == "__main__":
    main()
