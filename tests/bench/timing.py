"""How this suite measures: contestants take turns in one process; results are ratios in a round.

The speed of a shared machine drifts by more than the differences of interest. Turns of one round
drift together, so their ratio does not.
"""
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

SIDE = 1024  # of the matrix product that stands for what the machine can do


@dataclass
class Row:
    """One row of the table: a value per round, and what their median should be."""

    what: str
    against: str
    target: str                # ">= 30" or "<= 1.7"; "" for a value without one
    values: list[float]
    note: str = ""             # the seconds behind the ratio, what was extrapolated
    machine: dict = field(default_factory=dict)

    def __post_init__(self):
        self.values = [float(v) for v in self.values]

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def met(self) -> bool | None:
        if not self.target:
            return None
        sense, bound = self.target.split()
        return self.median >= float(bound) if sense == ">=" else self.median <= float(bound)

    @property
    def spread(self) -> str:
        """Minimum / median / maximum."""
        return " / ".join(f"{v:.3g}" for v in (min(self.values), self.median, max(self.values)))

    def cells(self) -> list[str]:
        reached = {True: "yes", False: "no", None: ""}[self.met]
        return [self.what, self.against, self.target, self.spread, reached, self.note]


def compare(rounds: int, rest=lambda: None, **contestants) -> dict[str, np.ndarray]:
    """Seconds (rounds,) of each contestant.

    Each runs once to warm up, then one after another, round by round. `rest` is called before each
    run: it waits for what others left behind, such as workers that go on after their turn.
    """
    seconds = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            rest()
            start = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(s) for name, s in seconds.items()}


def between(a: np.ndarray, b: np.ndarray) -> str:
    """The note behind a ratio b / a: the median seconds of both."""
    return f"{np.median(a):.3g} s : {np.median(b):.3g} s"


def products(side=SIDE) -> dict:
    """Contestants: ten square float32 matrix products, and the same as 1 x 1 convolutions.

    On a CPU each has a library of its own.
    """
    a, b = torch.randn(2, side, side)
    pixels = a[None, None].permute(0, 3, 1, 2)                   # (1, side, 1, side)
    kernels = b.T.contiguous()[:, :, None, None]
    return {"matrix product": lambda: [a @ b for _ in range(10)],
            "1 x 1 convolution": lambda: [F.conv2d(pixels, kernels) for _ in range(10)]}


def shares(what: str, work: int, seconds: dict, target: str, note: str):
    """Rows: at which share of the rates of `products` ours does its `work` operations.

    Both were timed in the same rounds.
    """
    for name, goal in (("matrix product", target), ("1 x 1 convolution", "")):
        rate = 10 * 2 * SIDE**3 / seconds[name]
        yield Row(what, f"its share of a {name}'s rate", goal, work / seconds["ours"] / rate,
                  f"{rate.mean() / 1e9:.0f} GFLOP/s; {note}")


def attention_flops(q, k, v, *args, **kwargs) -> int:            # shapes (B, H, t, c)
    """Of causal attention: two products over half of the t x t square, backward five."""
    return 2 * q[0] * q[1] * q[2] * k[2] * q[3]


def attention_backward_flops(out, q, k, *args, **kwargs) -> int:
    return 5 * q[0] * q[1] * q[2] * k[2] * q[3]


def flops(run) -> int:
    """Floating-point operations of matrix products, convolutions and attention in one call.

    PyTorch's counter does not know attention on a CPU.
    """
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    known = {forward: attention_flops, backward: attention_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        run()
    return counter.get_total_flops()


def peak_bytes(run) -> int:
    """Most bytes of tensors that one call holds at a time beyond those that were there.

    On the CPU, by PyTorch's own accounting.
    """
    run()                                                        # what it keeps for good is no peak
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    with tempfile.TemporaryDirectory() as folder:
        record.export_chrome_trace(str(Path(folder) / "trace.json"))
        events = json.loads((Path(folder) / "trace.json").read_text())["traceEvents"]
    steps = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    held = np.cumsum([step for _, step in steps], dtype=np.int64)
    return int(max(0, held.max(initial=0)))
