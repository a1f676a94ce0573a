"""Training the prior: tokens per second of ours, a plain model in nanoGPT's style, and GPT-2."""
from dataclasses import replace

import torch

from vqlib.gpt import GPT, GPTConfig

from .peers import PlainGPT, gpt2
from .timing import Row, between, compare, flops, products, shares


def trainer(model, loss):
    """One update as `train_prior` makes it: AdamW, gradients clipped."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return step


def contestants(cfg: GPTConfig, batch: int) -> dict:
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(cfg.n_codes, (batch, cfg.grid**2), generator=rng)
    labels = torch.arange(batch) % cfg.n_classes
    start = torch.full((batch, 1), cfg.n_codes)                  # theirs is one more code
    tokens = torch.cat([start, codes], 1)
    sizes = cfg.n_codes + 1, cfg.grid**2 + 1, cfg.width, cfg.heads, cfg.layers, cfg.dropout
    ours, plain, theirs = GPT(cfg), PlainGPT(*sizes), gpt2(*sizes)
    return {"ours": trainer(ours, lambda: ours.loss(codes, labels, rng)),
            "plain": trainer(plain, lambda: plain(tokens[:, :-1], codes)),
            "gpt2": trainer(theirs, lambda: theirs(input_ids=tokens, labels=tokens).loss)}


def training(cfg: GPTConfig, batch: int, rounds: int):
    steps = contestants(cfg, batch)
    work = flops(steps["ours"])
    seconds = compare(rounds, **products(), **steps)
    what = f"GPT training, tokens/s, batch {batch}, dropout {cfg.dropout}"
    peers = {"plain": "a plain model in nanoGPT's style", "gpt2": "`transformers` GPT-2"}
    for name, peer in peers.items():
        yield Row(what, peer, ">= 1.2", seconds[name] / seconds["ours"],
                  between(seconds["ours"], seconds[name]))
    tokens = batch * cfg.grid**2 / torch.tensor(seconds["ours"]).median()
    yield from shares(what, work, seconds, ">= 0.7",
                      f"{work / 1e9:.1f} GFLOP a step, {tokens:,.0f} tokens/s")


def bench(tiny=False):
    if tiny:
        cfg = GPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=1)
        yield from training(cfg, batch=2, rounds=1)
        return
    yield from training(GPTConfig(), batch=32, rounds=7)
    # the peers' dropout in the attention leaves the fused kernel, so once without
    yield from training(replace(GPTConfig(), dropout=0.0), batch=32, rounds=7)
