"""The quantizer alone, and one training step of the VQ-VAE around it."""
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from vqlib.presets import PRESETS
from vqlib.quantizer import Quantizer

from .peers import Lucidrains, OneHot, vqvae_around
from .timing import Row, between, compare, flops, peak_bytes, products, shares

# name: (class, target of the quantizer alone, target of a training step around it)
PEERS = {"vector-quantize-pytorch, EMA": (Lucidrains, ">= 6", ">= 1.5"),
         "one-hot, as in tutorials": (OneHot, ">= 3.5", ">= 1.25")}


def forward_and_step(layer, z):                                  # (B, D, h, w)
    layer(z)
    layer.step()


def alone(batch: int, D: int, K: int, rounds: int):
    """Forward pass and codebook step on (B, D, 32, 32); there is no backward pass."""
    z = torch.randn(batch, D, 32, 32)
    layers = {"ours": Quantizer(K, D, reset_threshold=0.0)}
    layers |= {name: cls(K, D) for name, (cls, *_) in PEERS.items()}
    runs = {name: partial(forward_and_step, layer.train(), z) for name, layer in layers.items()}
    seconds = compare(rounds, **runs)
    what = f"quantizer, N {z[:, 0].numel():,}, D {D}, K {K}, forward + update"
    for name, (_, target, _) in PEERS.items():
        yield Row(what, name, target, seconds[name] / seconds["ours"],
                  between(seconds["ours"], seconds[name]))
    ours, theirs = (peak_bytes(runs[name]) / 2**20 for name in ("ours", "one-hot, as in tutorials"))
    yield Row("its peak extra memory", "one-hot's", "<= 0.25", [ours / theirs],
              f"{ours:.0f} MiB : {theirs:.0f} MiB")


def trainer(model, images):
    """One step as `train_vqvae` takes it: squared error plus beta times the commitment, AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step():
        optimizer.zero_grad(set_to_none=True)
        x = model.normalise(images)
        x_hat, q = model(x)
        (F.mse_loss(x_hat, x) + model.cfg.beta * q.commit).backward()
        optimizer.step()
        model.quantizer.step()
    return step


def training_step(batch: int, rounds: int, image_size=128):
    cfg = replace(PRESETS["report"].vqvae, image_size=image_size)
    x = torch.rand(batch, 3, image_size, image_size)
    steps = {"ours": trainer(vqvae_around(None, cfg), x)}
    steps |= {name: trainer(vqvae_around(cls, cfg), x) for name, (cls, *_) in PEERS.items()}
    work = flops(steps["ours"])
    seconds = compare(rounds, **products(), **steps)
    what = f"VQ-VAE training step, preset `report`, batch {batch}"
    for name, (_, _, target) in PEERS.items():
        yield Row(what, f"same nets around {name}", target, seconds[name] / seconds["ours"],
                  between(seconds["ours"], seconds[name]))
    yield from shares(what, work, seconds, ">= 0.8", f"{work / 1e9:.1f} GFLOP a step")


def bench(tiny=False):
    if tiny:
        yield from alone(batch=1, D=8, K=16, rounds=1)
        yield from training_step(batch=1, rounds=1, image_size=16)
    else:
        yield from alone(batch=32, D=128, K=512, rounds=15)
        yield from training_step(batch=32, rounds=7)
