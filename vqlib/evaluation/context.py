"""What an evaluation shares: networks, held-out images and training images, with what they give.

Letters: n held-out images (and as many of each other kind), N training images, T codes per image.
"""
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from vqlib.data.dataset import Dataset
from vqlib.evaluation import layout_stats
from vqlib.evaluation.chunks import in_batches
from vqlib.evaluation.distances import distances
from vqlib.evaluation.features import dataset_features, features
from vqlib.evaluation.parts import Parts
from vqlib.gpt import GPT, SAMPLING
from vqlib.metrics import assert_fits, psnr


def pick(rows: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """n of the rows (None: all) in a random order: files are sorted by class."""
    return np.random.default_rng(seed).permutation(rows)[:n]


@dataclass
class EvaluationContext:
    """What is evaluated and on what: networks, held-out images with features, training images.

    `class_names` has the prior's classes first, then those that only a data set knows. Raises
    ValueError for an empty split, a prior that does not fit the VQ-VAE, a windowed prior, and a
    prior whose classes are not known.
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
    parts: Parts = field(default_factory=Parts)  # told how many images were looked at

    def __post_init__(self):
        held_out = self.dataset.splits[self.split]
        if not len(held_out):
            raise ValueError(
                f"split {self.split} of {self.dataset.title} has no image; "
                "'all' takes the whole folder for it"
            )
        if self.prior is not None and not isinstance(self.prior, GPT):
            raise ValueError("a windowed prior has no classes and draws in another order: evaluate "
                             "its likelihood only")
        self.device = self.vqvae.mean.device
        self.sampling = SAMPLING | self.sampling
        self._set_training_rows(held_out)
        self._set_classes()
        self.held_out = pick(held_out, self.n, self.seed)            # (n,)
        self.images = self.dataset[self.held_out]                    # (n, 3, H, W) in [0, 1]
        self.labels = self.labels_of(self.dataset, self.held_out)    # (n,)

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
        """Features of images that a model or a codec made; these take most of the time."""
        parts = []
        for some in images.split(128):
            parts.append(features(some, device=self.device))
            self.parts.looked_at(len(some))
        return torch.cat(parts)

    def real_features(self, dataset, rows: np.ndarray, k: int = 0) -> Tensor:  # (n,) -> (n, 1280)
        """Features of photographs, in their k-th augmentation: computed once for a data set."""
        return dataset_features(dataset, rows, k, self.device, self.parts.photographs)

    @cached_property
    def features(self) -> Tensor:                                    # (n, 1280)
        """Of the held-out images."""
        return self.real_features(self.dataset, self.held_out)

    def distances(self, embedded: Tensor, paired: bool = False) -> dict:  # (n, 1280)
        """Distances of images, by their features, to the held-out images."""
        return distances(embedded, self.features, self.seed, paired)

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
    def reconstructed(self) -> dict[str, tuple[float, Tensor]]:
        """PSNR in dB and features (n, 1280) of the held-out images' reconstructions, by decoder."""
        codes, found = self.encode(self.images), {}
        for name, decoder in self.decoders.items():
            decoded = self.decode(codes, decoder)
            found[name] = float(psnr(decoded, self.images).mean()), self.embed(decoded)
        return found

    @cached_property
    def train_sample(self) -> np.ndarray:                            # (n,)
        """Rows of as many training images as are held out."""
        return pick(self.train_rows, len(self.images), self.seed)

    @cached_property
    def train_layout(self) -> dict | None:
        """Of all training images, see layout_stats.describe; None without any."""
        if not len(self.train_rows):
            return None
        return layout_stats.dataset_statistics(self.train_dataset, self.train_rows)

    @cached_property
    def train_features(self) -> tuple[Tensor, Tensor]:               # (N, 1280), (N,)
        """Features and labels of all training images."""
        found = self.real_features(self.train_dataset, self.train_rows)
        return found, self.labels_of(self.train_dataset, self.train_rows)
