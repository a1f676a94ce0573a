"""From the report's prior to ours, one change at a time, and single swaps beside it."""
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vqlib import metrics, train
from vqlib.backend.paths import pretrained
from vqlib.checkpoint import load_model
from vqlib.data.dataset import Dataset, Geometry
from vqlib.evaluation import layout_stats
from vqlib.gpt import GPTConfig
from vqlib.presets import PRESETS
from vqlib.studies.priors import PriorRow, build
from vqlib.studies.rows import path, swaps
from vqlib.studies.study import Study, open_dataset, training_setup
from vqlib.vqvae import VQVAE

QUICK = PRESETS["quick"]
TRAINING = replace(QUICK.prior_training, steps=300, batch=16, eval_every=300, eval_images=64)
SAMPLED = ("window", "whole", "class", "ours")  # rows that also draw images
SUBSET = "prior study"                          # of the training split, the same for all rows

REPORT = PriorRow("window", "the report's window", window=True, positions="1-D", neighbours=False,
                  class_token=False, order="raster")
ROWS = path(
    REPORT,
    ("whole", "+ the whole grid as context", {"window": False}),
    ("positions", "+ row and column positions", {"positions": "row + column"}),
    ("neighbours", "+ neighbouring codes as inputs", {"neighbours": True}),
    ("class", "+ class token", {"class_token": True}),
    ("ours", "+ coarse-to-fine order = ours", {"order": "coarse to fine"}))
WITH_CLASS, OURS = ROWS[-2:]
ROWS += swaps(
    OURS,
    ("shared", "heads share keys and values", {"kv_heads": 1}),
    ("dropout", "dropout 0.1", {"dropout": 0.1}),
    ("corruption", "a tenth of the inputs random", {"corruption": 0.1}),
    ("one-augmentation", "one augmentation instead of eight", {"augmentations": 1}),
    ("average", "weights averaged", {"average": 0.98}))
ROWS += swaps(WITH_CLASS, ("annealed", "raster, random orders at first", {"order": "annealed"}))
COLUMNS = {"nats": ("nats/code", 3), "bits": ("bits/code", 3),
           "train_nats": ("in training", 3), "structure": ("structure, x real", 1)}


def config(vqvae: VQVAE, n_classes: int) -> GPTConfig:
    """Smaller nets than those of `quick`, for the grid and the codes of a VQ-VAE."""
    return GPTConfig(vqvae.cfg.grid, vqvae.cfg.n_codes, n_classes, width=64, heads=2, layers=2)


@dataclass
class PriorStudy(Study):
    """The codes of the VQ-VAE that ships; optimiser of `quick`, smaller nets, fewer updates."""

    vqvae: VQVAE
    dataset: Dataset
    cfg: GPTConfig
    training: train.TrainConfig = TRAINING
    n_train: int = 1000
    n_samples: int = 64

    name = "prior"
    rows = ROWS
    columns = COLUMNS

    @classmethod
    def open(cls, data):
        shipped = pretrained() / "vqvae-f8.safetensors"
        vqvae, metadata = load_model(shipped, "vqvae")
        dataset = open_dataset(data, Geometry(**metadata["geometry"]), QUICK.n_synthetic)
        return cls(vqvae, dataset, config(vqvae, len(dataset.classes)))

    def __post_init__(self):
        shuffled = np.random.default_rng(0).permutation(self.dataset.splits["train"])
        self.dataset.splits[SUBSET] = shuffled[: self.n_train]
        self.train = train.encode_dataset(self.vqvae, self.dataset, SUBSET, range(8))
        self.held_out = train.encode_dataset(self.vqvae, self.dataset, "validation")

    @property
    def setup(self) -> dict:
        return {**training_setup(self.dataset, self.training),
                "training_images": len(self.train[0]), "width": self.cfg.width,
                "heads": self.cfg.heads, "layers": self.cfg.layers, "samples": self.n_samples}

    def measure(self, row: PriorRow, seed: int) -> dict:
        """`nats` and `bits` per held-out code, `train_nats` on as many training images.

        Rows in SAMPLED also have `structure` and `structure_parts`.
        """
        train_codes, train_labels = self.train                   # (n, 8, T), (n,)
        train_codes = train_codes[:, : row.augmentations]        # (n, V, T)
        held_out_codes, held_out_labels = self.held_out          # (m, 1, T), (m,)
        if not row.class_token:
            any_class = self.cfg.n_classes
            train_labels = torch.full_like(train_labels, any_class)
            held_out_labels = torch.full_like(held_out_labels, any_class)
        prior = self.trained(row, seed, (train_codes, train_labels),
                             (held_out_codes, held_out_labels))
        m = len(held_out_codes)
        nats = train.held_out_nats(prior, held_out_codes[:, 0], held_out_labels)
        r = metrics.likelihood(nats, 3 * self.dataset.geometry.crop**2)
        train_nats = train.held_out_nats(prior, train_codes[:m, 0], train_labels[:m]).mean()
        measured = {"nats": r["nats_per_code"], "bits": r["bits_per_code"],
                    "train_nats": float(train_nats)}
        if row.key in SAMPLED:
            measured |= self.structure(prior, row, held_out_labels, seed)
        return measured

    def trained(self, row: PriorRow, seed: int, train_set, held_out):
        """The prior of a row after training on (codes, labels), its weights averaged if asked."""
        training = replace(self.training, seed=seed)
        cfg = replace(self.cfg, dropout=row.dropout, kv_heads=row.kv_heads)
        prior, average = build(row, cfg, training.steps, seed), None
        if row.average:
            average = AveragedModel(prior, multi_avg_fn=get_ema_multi_avg_fn(row.average))
        for _ in train.train_prior(prior, train_set, held_out, training):
            if average:
                average.update_parameters(prior)
        return average.module if average else prior

    def structure(self, prior, row: PriorRow, labels: Tensor, seed: int) -> dict:  # (m,)
        """How many times farther samples are from held-out images than training images are.

        `structure_parts` has one ratio for each measure of `layout_stats`, `structure` is their
        geometric mean; 1 is best.
        """
        n, grid = self.n_samples, self.cfg.grid
        rng = torch.Generator().manual_seed(seed)
        pick = torch.randperm(len(labels), generator=rng)[:n]
        if row.window:
            codes = prior.generate(len(pick), seed=seed)         # (n, T)
        else:
            codes = prior.generate(labels[pick], seed=seed)
        samples = self.vqvae.decode(codes.view(-1, grid, grid))  # (n, 3, H, W)
        compared = layout_stats.compare([layout_stats.describe(samples)],
                                        layout_stats.describe(self.some_images("validation", 256)),
                                        layout_stats.describe(self.some_images(SUBSET, n)))
        ratios = compared["ratio"]
        mean = np.exp(np.mean(np.log([*ratios.values()])))
        return {"structure": float(mean), "structure_parts": ratios}

    def some_images(self, split: str, n: int) -> Tensor:         # -> (n, 3, H, W) in [0, 1]
        shuffled = np.random.default_rng(0).permutation(self.dataset.splits[split])
        return self.dataset[shuffled[:n]]
