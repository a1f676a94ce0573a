"""A quarter of an hour of one GPU: `python -m tests.bench.gpu --data DIR --out FOLDER [stage ...]`.

Stages, in this order; none means all. What each prints, and what it makes, lies in FOLDER as soon
as it is there.

    tests    tests/test_gpu.py
    speed    images/s and tokens/s, plain and compiled (gpu_speed.py)
    train    `python -m vqlib train all --preset flagship`, compiled if `speed` found that it pays
    report   the VQ-VAE of preset `report`, as far as the time goes

A stage that outlasts its limit is ended, and all end before --minutes are over. A training that was
ended goes on with the same command. `--tiny` runs the same chain in a minute on any machine:
synthetic images, preset `smoke`, a few updates.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from vqlib.backend.files import write_atomically
from vqlib.presets import PRESETS
from vqlib.workspace import open_workspace

from .gpu_speed import pays

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("tests", "speed", "train", "report")
LEAST = 30                     # seconds below which no stage is begun
CLOSING = 10                   # seconds that are kept for the end


@dataclass
class Chain:
    """Commands one after another, each with a limit, until `end`; FOLDER/stages.json has them."""

    out: Path
    end: float                                   # time.monotonic() at which all must be over
    env: dict = field(default_factory=dict)      # beside this process's
    least: float = LEAST
    done: list[dict] = field(default_factory=list)

    def __post_init__(self):
        kept = self.out / "stages.json"                          # of a command before this one
        self.earlier = json.loads(kept.read_text()) if kept.exists() else []

    def left(self) -> float:
        return self.end - time.monotonic()

    def run(self, stage: str, command: list, limit: float, watch: Callable = lambda: None) -> None:
        """Run a command of Python into FOLDER/stage.log; `watch` is called each second."""
        limit = min(limit, self.left())
        command = [sys.executable, *map(str, command)]
        line = {"stage": stage, "command": command[1:], "limit": round(limit)}
        if limit < self.least:
            return self.note(line | {"ended": "not begun"})
        start = time.monotonic()
        with (self.out / f"{stage}.log").open("a") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                                       env=os.environ | self.env, start_new_session=True)
            try:
                ended = wait(process, start + limit, watch)
            finally:
                stop(process)
        watch()
        self.note(line | {"ended": ended, "seconds": round(time.monotonic() - start, 1)})

    def note(self, line: dict) -> None:
        self.done.append(line)
        text = json.dumps(self.earlier + self.done, indent=1) + "\n"
        write_atomically(self.out / "stages.json", text.encode())
        print(line["stage"], line["ended"], f"{line.get('seconds', 0)} s", flush=True)


def wait(process, end: float, watch: Callable) -> str:
    """How a process ended: its status, or "cut off" at `end`."""
    while time.monotonic() < end:
        try:
            return f"status {process.wait(min(1, max(0.01, end - time.monotonic())))}"
        except subprocess.TimeoutExpired:
            watch()
    return "cut off"


def stop(process) -> None:
    """End a process and all that it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, how)
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                continue


def copy_new(folder: Path, out: Path) -> None:
    """Copy what is new among a run's weights and logs, and checkpoints of what is not finished.

    NAME/log.jsonl becomes NAME-log.jsonl.
    """
    for path in [*folder.glob("*.safetensors"), *folder.glob("*/log.jsonl"),
                 *folder.glob("*/state.pt")]:
        finished = path.name == "state.pt" and path.parent.with_suffix(".safetensors").exists()
        there = out / "-".join(path.relative_to(folder).parts)
        old = there.exists() and there.stat().st_mtime >= path.stat().st_mtime
        if finished:
            there.unlink(missing_ok=True)
        elif not old:
            part = there.with_name(f"{there.name}.part")
            shutil.copy2(path, part)
            os.replace(part, there)


@dataclass
class Stages:
    """What is run, on which data; each method is a stage."""

    chain: Chain
    data: str | None
    tiny: bool = False

    def __post_init__(self):
        self.flagship, self.report_preset = ("smoke",) * 2 if self.tiny else ("flagship", "report")
        self.options = [*(["--data", self.data] if self.data else []),
                        *(["--steps", 6] if self.tiny else [])]
        self.speeds = self.chain.out / "speed.json"

    def tests(self) -> None:
        some = ["-k", "cpu_trains or nearest"] if self.tiny else []
        self.chain.run("tests", ["-m", "pytest", "-m", "gpu", "tests/test_gpu.py", "-v",
                                 "--durations=0", "-p", "no:cacheprovider", *some], 180)

    def speed(self) -> None:
        options = ["--tiny"] if self.tiny else []
        options += ["--data", self.data] if self.data else []
        self.chain.run("speed", ["-m", "tests.bench.gpu_speed", "--out", self.speeds, *options],
                       200)

    def train(self) -> None:
        folder = open_workspace(self.flagship, self.data, shipped=False).folder
        self.chain.run("train", ["-m", "vqlib", "train", "all", "--preset", self.flagship,
                                 *self.options, *self.compiled(self.flagship, "vqvae", "prior")],
                       self.chain.left(), partial(copy_new, folder, self.chain.out))

    def report(self) -> None:
        self.chain.run("report", ["-m", "vqlib", "train", "vqvae", "--preset", self.report_preset,
                                  *self.options, *self.compiled(self.report_preset, "vqvae"),
                                  "--out", self.chain.out / "report-vqvae.safetensors"],
                       self.chain.left())

    def compiled(self, preset: str, *models: str) -> list[str]:
        """The option, if that is faster for a preset's trainings by what `speed` found."""
        updates = {f"{name} {preset}": getattr(PRESETS[preset], f"{name}_training").steps
                   for name in models}
        return ["--compile"] if not self.tiny and pays(self.speeds, updates) else []


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="stage", help=", ".join(STAGES))
    parser.add_argument("--data", help="as for vqlib train")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=14, help="default: 14")
    parser.add_argument("--tiny", action="store_true", help="the same on a CPU, in a minute")
    args = parser.parse_args()
    start = time.monotonic()
    if unknown := set(args.stages) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    if not (args.tiny or torch.cuda.is_available()):
        parser.error("no CUDA device; --tiny runs the chain on a CPU")
    out, data, env = args.out.resolve(), args.data, {"PYTHONUNBUFFERED": "1"}
    out.mkdir(parents=True, exist_ok=True)
    if data and Path(data).exists():
        data = str(Path(data).resolve())                         # stages run in another folder
    if args.tiny:
        data, os.environ["VQLIB_HOME"] = data or "synthetic", str(out / "home")
        env |= {"VQLIB_GPU_TESTS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))        # ends the stage that runs, too
    stages = Stages(Chain(out, start + 60 * args.minutes - CLOSING, env), data, args.tiny)
    for name in STAGES:
        if name in (args.stages or STAGES):
            getattr(stages, name)()
    failed = {"status 0", "cut off", "not begun"}.isdisjoint
    return int(any(failed({line["ended"]}) for line in stages.chain.done))


if __name__ == "__main__":
    sys.exit(main())
