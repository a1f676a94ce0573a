"""Seconds to 30 dB and to 2.6 nats per code on two cores: `python -m tests.bench.speedrun`.

For each seed a VQ-VAE and the prior on its codes are trained with a preset's settings, schedule
included. The clock of the VQ-VAE counts its updates, up to the first evaluation of all validation
images that reaches the PSNR; evaluations, every 50 updates, do not count. Then it is trained to its
end. The clock of the prior counts encoding the data set, updates, and the evaluations that its
training makes anyway, up to the first that reaches the nats per held-out code.
"""
import argparse
import json
import os
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from vqlib import metrics, train
from vqlib.backend.device import default_device
from vqlib.backend.files import write_atomically
from vqlib.data.dataset import in_chunks, statistics
from vqlib.gpt import GPT
from vqlib.presets import PRESETS
from vqlib.vqvae import VQVAE
from vqlib.workspace import Workspace, open_workspace

from .results import key, machine

RESULTS = Path(__file__).with_name("speedrun.json")
EVERY = 50  # updates of the VQ-VAE between evaluations


class Clock:
    """Seconds since it was made, without those in `with clock.paused():`."""

    def __init__(self):
        self.start = self.now()

    @staticmethod
    def now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.now() - self.start

    @contextmanager
    def paused(self):
        before = self.now()
        yield
        self.start += self.now() - before


def two_cores() -> None:
    """Keep this process on two cores, where it has more."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    torch.set_num_threads(min(2, torch.get_num_threads()))


def validation_psnr(vqvae, dataset) -> float:
    """Mean over the validation images, in dB; `evaluate` adds SSIM, which takes longer."""
    vqvae.eval()
    batches = (dataset[rows] for rows in in_chunks(dataset.splits["validation"], 128))
    return float(torch.cat([metrics.psnr(vqvae.decode(vqvae.encode(x)), x)
                            for x in batches]).mean())


def run_vqvae(ws: Workspace, stats: dict, seed: int, target: float) -> tuple[VQVAE, dict]:
    """A trained VQ-VAE, when it reached `target` dB (None: never), and its PSNR in the end."""
    p, clock, reached = ws.preset, Clock(), {"seconds": None, "updates": None}
    config = replace(p.vqvae_training, seed=seed)
    model = VQVAE(p.vqvae, stats["mean"], stats["std"], seed).to(ws.device)
    variance = stats["variance"] if p.divide_by_pixel_variance else 1.0
    for step, _ in train.train_vqvae(model, ws.dataset, config, p.augment, variance):
        sought = reached["updates"] is None
        if (sought and step % EVERY == 0) or step == config.steps:
            seconds = clock.seconds
            with clock.paused():
                psnr = validation_psnr(model, ws.dataset)
            if sought and psnr >= target:
                reached = {"seconds": seconds, "updates": step}
    return model, reached | {"final": psnr, "steps": config.steps}


def run_prior(ws: Workspace, vqvae: VQVAE, seed: int, target: float) -> dict:
    """When the prior on the codes of a VQ-VAE reached `target` nats (None: never), and its last."""
    p, clock = ws.preset, Clock()
    codes = train.encode_dataset(vqvae, ws.dataset, "train", p.prior_augmentations)
    held_out = train.encode_dataset(vqvae, ws.dataset, "validation")
    prior = GPT(replace(p.prior, n_classes=len(ws.dataset.classes)), seed).to(ws.device)
    config = replace(p.prior_training, seed=seed)
    for step, losses in train.train_prior(prior, codes, held_out, config):
        if "held_out" in losses:
            nats = float(losses["held_out"])
            if nats <= target:
                return {"seconds": clock.seconds, "updates": step, "final": nats, "steps": step}
    return {"seconds": None, "updates": None, "final": nats, "steps": step}


def cell(found: dict) -> str:
    """Seconds (updates), or what was reached instead."""
    if found["updates"] is None:
        return f"not in {found['steps']:,}: {found['final']:.2f}"
    return f"{found['seconds']:.1f} ({found['updates']:,})"


def table(entry: dict) -> str:
    head = ("seed", f"seconds to {entry['psnr']:g} dB (updates)",
            f"seconds to {entry['nats']:g} nats per code (updates)", "final PSNR, dB")
    rows = [(str(r["seed"]), cell(r["vqvae"]), cell(r["prior"]), f"{r['vqvae']['final']:.2f}")
            for r in entry["seeds"]]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def save(path: Path, name: str, entry: dict) -> None:
    """Replace the results of a machine, data and preset in a file."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    write_atomically(path, (json.dumps(kept | {name: entry}, indent=1) + "\n").encode())


def options(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.speedrun", description=__doc__)
    parser.add_argument("--data", help="folder or .npz; default: as every command")
    parser.add_argument("--preset", choices=PRESETS, default="quick")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    parser.add_argument("--psnr", type=float, default=30.0, metavar="DB")
    parser.add_argument("--nats", type=float, default=2.6, metavar="N")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    return parser.parse_args(argv)


def main(argv=None):
    args = options(argv)
    if default_device() == "cpu":
        two_cores()
    ws = open_workspace(args.preset, args.data, shipped=False)
    ws.require("prior")
    here = machine(ws.device)
    name = f"{key(here)}; {ws.dataset.title}; preset {ws.preset.name}"
    print(f"{ws}\n{name}", flush=True)
    stats = statistics(ws.dataset)
    ws.dataset.images = ws.dataset.images.to(ws.device)
    entry = {"machine": here, "images": len(ws.dataset), "fingerprint": ws.dataset.fingerprint,
             "psnr": args.psnr, "nats": args.nats, "seeds": []}
    for seed in args.seeds:
        vqvae, found = run_vqvae(ws, stats, seed, args.psnr)
        print(f"seed {seed}: {args.psnr:g} dB {cell(found)}", flush=True)
        prior = run_prior(ws, vqvae, seed, args.nats)
        print(f"seed {seed}: {args.nats:g} nats {cell(prior)}", flush=True)
        entry["seeds"].append({"seed": seed, "vqvae": found, "prior": prior})
        save(args.results, name, entry)
    print(f"\n{table(entry)}")


if __name__ == "__main__":
    main()
