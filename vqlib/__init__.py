"""Discrete image synthesis on skin lesions: a VQ-VAE turns images into codes, a prior draws codes.

Read quantizer, vqvae, gpt, train in this order: that is the core. Then flow_decoder (a second
decoder for the same codes), windowed_gpt (the prior of the course report that this
project mends), metrics, presets, workspace. How a run survives: trainer (one update), runs (its
folder), checkpoint (its files), identity (what it learnt from), shipped (weights that ship).
Below: `data` (files -> images), `evaluation` (are samples lesions?), `studies` (one change at a
time), `explorers` (pictures that answer), `backend` (ranks, CPU), `cli` (python -m vqlib).
`pipeline` loads the three models together, such as the weights that ship.

    from vqlib import open_workspace, load_model, VQVAE, GPT, train_vqvae, train_prior
"""
import importlib

HOMES = {
    "VQVAE": "vqvae", "VQVAEConfig": "vqvae", "Quantizer": "quantizer",
    "GPT": "gpt", "GPTConfig": "gpt", "FlowDecoder": "flow_decoder",
    "StochasticDecoder": "flow_decoder", "TrainConfig": "train", "train_vqvae": "train",
    "train_prior": "train", "train_flow_decoder": "train", "PRESETS": "presets",
    "open_workspace": "workspace", "load_model": "checkpoint", "save_model": "checkpoint",
}
__all__ = [*HOMES]


def __getattr__(name):
    """Names are loaded when they are first used: `import vqlib` itself loads nothing."""
    if name not in HOMES:
        raise AttributeError(f"module 'vqlib' has no attribute {name!r}")
    return getattr(importlib.import_module(f"vqlib.{HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *HOMES])
