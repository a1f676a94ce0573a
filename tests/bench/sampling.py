"""Sampling 64 images: ours with cached keys and values, the report's full pass per code, GPT-2.

GPT-2 is that of `transformers` with its `generate`. Ours is also timed against a single pass over
codes that are there: what drawing many codes at once could gain at most.
"""
from dataclasses import replace

import torch

from vqlib.gpt import GPT, GPTConfig, draw
from vqlib.presets import PRESETS
from vqlib.windowed_gpt import WindowedGPT, WindowedGPTConfig

from .peers import gpt2
from .timing import Row, between, compare


@torch.no_grad()
def reports_way(model: WindowedGPT, n: int, steps):
    """The report's loop at some steps only: a pass over the last window of codes, then a draw."""
    tokens = torch.zeros(n, model.cfg.window, dtype=torch.long)
    rng = torch.Generator().manual_seed(0)
    for t in steps:
        logits = model(tokens[:, : t + 1])[:, -1, : model.cfg.n_codes]
        draw(logits, 1.0, 0, 1.0, rng)


def spaced(T: int, n: int) -> list[int]:
    """n of the steps 0..T-1 at even distances, in the middle of equal parts."""
    return [int((i + 0.5) * T / n) for i in range(n)]


def against_the_report(grid: int, n: int, rounds: int, target: str, timed: int):
    ours, report = GPT(GPTConfig(grid=grid)).eval(), WindowedGPT(WindowedGPTConfig()).eval()
    T, labels = grid**2, torch.arange(n) % 7
    seconds = compare(rounds, ours=lambda: ours.generate(labels),
                      peer=lambda: reports_way(report, n, spaced(T, timed)))
    peer = seconds["peer"] * T / timed
    note = f"{between(seconds['ours'], peer)}; theirs from {timed} evenly spaced steps of {T:,}"
    return Row(f"sampling {n} images of {T:,} codes",
               f"the report's way, window {report.cfg.window}, no cache", target,
               peer / seconds["ours"], note)


def against_transformers(grid: int, n: int, rounds: int):
    cfg = GPTConfig(grid=grid)
    ours, labels = GPT(cfg).eval(), torch.arange(n) % cfg.n_classes
    peer = gpt2(cfg.n_codes + 1, grid**2 + 1, cfg.width, cfg.heads, cfg.layers).eval()
    start = torch.full((n, 1), cfg.n_codes)
    settings = {"max_new_tokens": grid**2, "do_sample": True, "top_k": 0, "use_cache": True}
    seconds = compare(rounds, ours=lambda: ours.generate(labels),
                      guided=lambda: ours.generate(labels, guidance=2.0),
                      peer=lambda: peer.generate(start, **settings))
    yield Row(f"sampling {n} images of {grid**2:,} codes",
              "`transformers` GPT-2, same size, `generate` with cache", ">= 2.5",
              seconds["peer"] / seconds["ours"], between(seconds["ours"], seconds["peer"]))
    yield Row("the same, guided", "unguided: time", "<= 1.7",
              seconds["guided"] / seconds["ours"], between(seconds["guided"], seconds["ours"]))


def bound_of_parallel_decoding(grid: int, n: int, rounds: int):
    """Drawing codes in groups takes one pass at least: all of them in one group."""
    gpt = GPT(replace(PRESETS["flagship"].prior, grid=grid)).eval()
    labels = torch.arange(n) % gpt.cfg.n_classes
    prefix = torch.randint(gpt.cfg.n_codes, (n, grid**2 - 1))    # all codes but the last

    @torch.no_grad()
    def one_pass():
        gpt(prefix, labels)

    seconds = compare(rounds, one_pass=one_pass, sampling=lambda: gpt.generate(labels))
    return Row(f"bound of parallel decoding: sampling {n} images of {grid**2:,} codes",
               "one teacher-forced pass over such codes: time", "",
               seconds["sampling"] / seconds["one_pass"],
               between(seconds["one_pass"], seconds["sampling"]))


def bench(tiny=False):
    n = 2 if tiny else 64
    yield against_the_report(4 if tiny else 16, n, 1 if tiny else 5, ">= 30", 16)
    yield from against_transformers(4 if tiny else 16, n, 1 if tiny else 15)
    yield bound_of_parallel_decoding(4 if tiny else 16, n, 1 if tiny else 7)
    if not tiny:
        yield against_the_report(32, n, 3, ">= 25", 16)
