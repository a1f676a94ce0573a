"""What an evaluation shares: networks, held-out images and training images, with what they give.

Letters: n held-out images (and as many of each other kind), N training images, T codes per image.
"""
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from vqlib.data.dataset import Dataset
from vqlib.entropy_constrained import encoder_for
from vqlib.evaluation import layout_stats
from vqlib.evaluation.chunks import in_batches, over_rows
from vqlib.evaluation.distances import distances
from vqlib.evaluation.features import dataset_features, features
from vqlib.gpt import SAMPLING
from vqlib.metrics import assert_fits


def pick(rows: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """n of the rows (None: all) in a random order: files are sorted by class."""
    return np.random.default_rng(seed).permutation(rows)[:n]


@dataclass
class EvaluationContext:
    """What is evaluated and on what: networks, held-out images with features, training images.

    `class_names` has the prior's classes first, then those that only a data set knows. Raises
    ValueError for an empty split, a prior that does not fit the VQ-VAE, a prior whose classes are
    not known, and a `lambda_` without a prior.
    """

    vqvae: nn.Module
    prior: nn.Module | None
    dataset: Dataset
    split: str
    stochastic_decoder: object = None   # decodes the same codes; results call it "flow"
    n: int | None = None                # held-out images; None: all
    seed: int = 0
    classes: list[str] | None = None    # the prior's; None: those of the training data
    train: tuple[Dataset, str] | None = None  # None: "train" of `dataset`, unless held out
    sampling: dict = field(default_factory=dict)  # see GPT.generate
    lambda_: float = 0.0                # Lagrange multiplier of entropy-constrained encoding

    def __post_init__(self):
        held_out = self.dataset.splits[self.split]
        if not len(held_out):
            raise ValueError(
                f"split {self.split} of {self.dataset.title} has no image; "
                "'all' takes the whole folder for it"
            )
        if self.lambda_ and self.prior is None:
            raise ValueError("entropy-constrained encoding needs a prior; without one lambda is 0")
        self.device = self.vqvae.mean.device
        self.sampling = SAMPLING | self.sampling
        self._set_training_rows(held_out)
        self._set_classes()
        held_out = pick(held_out, self.n, self.seed)
        self.images = self.dataset[held_out]                         # (n, 3, H, W) in [0, 1]
        self.labels = self.labels_of(self.dataset, held_out)         # (n,)
        self.features = self.embed(self.images)                      # (n, 1280)

    def _set_training_rows(self, held_out: np.ndarray) -> None:
        """No rows if some of them are held out, as in split "all"."""
        self.train_dataset, split = self.train or (self.dataset, "train")
        rows = self.train_dataset.splits[split]
        same_data = self.train_dataset.fingerprint == self.dataset.fingerprint
        leaks = same_data and np.isin(rows, held_out).any()
        self.train_rows = rows[:0] if leaks else rows

    def _set_classes(self) -> None:
        self.classes = list(self.classes or self.train_dataset.classes)
        if self.prior is not None:
            assert_fits(self.prior, self.vqvae)
            known = self.prior.cfg.n_classes
            if len(self.classes) != known:
                raise ValueError(
                    f"the prior knows {known} classes, not {self.classes}: name them in classes="
                )
        others = {*self.dataset.classes, *self.train_dataset.classes} - {*self.classes}
        self.class_names = self.classes + sorted(others)

    def labels_of(self, dataset, rows) -> Tensor:                    # (n,) -> (n,)
        """Labels of a data set's rows as places in `class_names`."""
        places = torch.tensor([self.class_names.index(name) for name in dataset.classes])
        return places[dataset.labels[rows]]

    def embed(self, images: Tensor) -> Tensor:                       # (n, 3, H, W) -> (n, 1280)
        return features(images, device=self.device)

    def distances(self, images: Tensor, paired: bool = False) -> dict:
        """Distances to the held-out images."""
        return distances(self.embed(images), self.features, self.seed, paired)

    def encoder_at(self, lambda_: float):
        """The encoder at a Lagrange multiplier: 0 is the VQ-VAE, whose codes are the nearest."""
        return encoder_for(self.vqvae, self.prior, lambda_)

    @cached_property
    def encoders(self) -> dict:
        """By the suffix of a result's name; nearest codes have none."""
        encoders = {"": self.vqvae}
        if self.lambda_:
            encoders[", entropy-constrained codes"] = self.encoder_at(self.lambda_)
        return encoders

    @cached_property
    def decoders(self) -> dict:
        decoders = {"least-squares": self.vqvae}
        if self.stochastic_decoder is not None:
            decoders["flow"] = self.stochastic_decoder
        return decoders

    @property
    def sample_decoder(self):
        """The decoder that samples are shown with: the flow, if there is one."""
        return self.vqvae if self.stochastic_decoder is None else self.stochastic_decoder

    def encode(self, images: Tensor, encoder=None) -> Tensor:        # (n, 3, H, W) -> (n, h, w)
        encoder = encoder or self.vqvae
        return in_batches(lambda x: encoder.encode(x.to(self.device)), images)

    def decode(self, codes: Tensor, decoder=None) -> Tensor:         # (n, T) or (n, h, w)
        """Images (n, 3, H, W) in [0, 1]."""
        decoder, grid = decoder or self.vqvae, self.vqvae.cfg.grid
        return in_batches(lambda c: decoder.decode(c.view(-1, grid, grid).to(self.device)), codes)

    def generate(self, labels: Tensor, seed: int, **sampling) -> Tensor:  # (n,) -> (n, T)
        """Codes of classes in `class_names`; one that the prior does not know is drawn as "any"."""
        options = self.sampling | sampling
        batches = labels.clamp(max=len(self.classes)).split(64)
        codes = [
            self.prior.generate(batch, seed=1_000_003 * seed + i, **options).cpu()
            for i, batch in enumerate(batches)
        ]
        return torch.cat(codes)

    @cached_property
    def train_sample(self) -> Tensor:                                # (n, 3, H, W)
        """As many training images as are held out."""
        return self.train_dataset[pick(self.train_rows, len(self.images), self.seed)]

    @cached_property
    def train_layout(self) -> dict | None:
        """Of all training images, see layout_stats.describe; None without any."""
        if not len(self.train_rows):
            return None
        parts = over_rows(layout_stats.describe, self.train_dataset, self.train_rows)
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    @cached_property
    def train_codes(self) -> Tensor:                                 # (N, h, w)
        """Of all training images, by the encoder at `lambda_`."""
        encoder = self.encoder_at(self.lambda_)
        parts = over_rows(lambda x: self.encode(x, encoder), self.train_dataset, self.train_rows)
        return torch.cat(parts)

    @cached_property
    def train_features(self) -> tuple[Tensor, Tensor]:               # (N, 1280), (N,)
        """Features and labels of all training images."""
        rows = self.train_rows
        found = dataset_features(self.train_dataset, rows, device=self.device)
        return found, self.labels_of(self.train_dataset, rows)
