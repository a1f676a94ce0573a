"""What photographs still teach after a codec has stored them: the ceiling of whatever is generated as its codes.

A probe learns the diagnosis from training images that went through the codec, and is asked about held-out ones that did not:
a classification accuracy score (Ravuri & Vinyals 2019) without a prior. Letters: n images, T codes per image, K classes.
"""
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vqlib.data.dataset import Dataset
from vqlib.entropy_constrained import encoder
from vqlib.evaluation import compression, probe
from vqlib.evaluation.features import dataset_features, features
from vqlib.metrics import psnr
from vqlib.studies.rows import CodecRow
from vqlib.train import held_out_nats

DRAWS = 200  # of the held-out images, with replacement


@dataclass
class Teacher:
    """Images, nets, and what photographs teach before any codec."""

    dataset: Dataset
    vqvaes: dict[str, object]     # "f8" and "f4"
    prior: object                 # of the codes of "f8": chooses thrifty ones, and says what they cost
    sharp: object                 # decodes codes of "f8"
    seen: dict = field(default_factory=dict)       # features of training images, by (codec, size, share, look)
    qualities: dict = field(default_factory=dict)  # of image formats, by (codec, size)

    def __post_init__(self):
        self.rows, held_out = self.dataset.splits["train"], self.dataset.splits["validation"]
        self.images, self.n_classes = self.dataset[held_out], len(self.dataset.classes)
        self.labels, self.held_out = self.dataset.labels[self.rows], (features(self.images), self.dataset.labels[held_out])
        self.real = probe.Probe(dataset_features(self.dataset, self.rows), self.labels, self.n_classes)

    def encode(self, row: CodecRow, images: Tensor) -> Tensor:       # (n, 3, H, W) -> (n, h, w)
        vqvae = self.vqvaes[row.codec]
        by = encoder(vqvae, self.prior, row.share * self.prior.cfg.rate) if row.share else vqvae
        return torch.cat([by.encode(x) for x in images.split(64)])

    def quality(self, row: CodecRow) -> int:
        """Of an image format, whose files of 64 held-out images come nearest to the row's size."""
        if (row.codec, row.size) not in self.qualities:
            some = self.images[:: max(1, len(self.images) // 64)]
            self.qualities[row.codec, row.size] = compression.quality_at(some, row.codec, row.size)
        return self.qualities[row.codec, row.size]

    def through(self, row: CodecRow, look: str, images: Tensor) -> Tensor:                # (n, 3, H, W) -> (n, 3, H, W)
        if row.codec not in self.vqvaes:
            return compression.transcode(images, row.codec, self.quality(row))[0]
        by = self.sharp if look == "sharp" else self.vqvaes[row.codec]
        return torch.cat([by.decode(codes) for codes in self.encode(row, images).split(64)])

    def taught(self, row: CodecRow, look: str) -> Tensor:            # -> (N, 1280) of all training images
        name = row.codec, row.size, row.share, look
        if name not in self.seen:
            parts = np.array_split(self.rows, -(-len(self.rows) // 512))
            self.seen[name] = torch.cat([features(self.through(row, look, self.dataset[part])) for part in parts])
        return self.seen[name]

    def bytes(self, row: CodecRow) -> float:
        """Mean of a held-out image, without headers: a file's, 256 codes' by the prior's NLL, 1,024 codes' by their number."""
        if row.codec not in self.vqvaes:
            return compression.transcode(self.images, row.codec, self.quality(row))[1]["payload"]
        codes, cfg = self.encode(row, self.images).flatten(1), self.vqvaes[row.codec].cfg
        if cfg.grid != self.prior.cfg.grid:
            return compression.fixed_bytes(codes.shape[1], cfg.n_codes)
        return float(held_out_nats(self.prior, codes, self.held_out[1]).sum(1).mean() / np.log(256))

    def figures(self, row: CodecRow) -> dict:
        """All over those of a probe that learnt from photographs, on photographs. `teaches`: AUC on photographs of a probe that
        learnt after the codec, and the ends of its 95 % bootstrap interval over held-out images; `keeps`: AUC of the same
        probe after the codec, as it learnt; `recognised`: recall of the probe of photographs after the codec."""
        looks = ("faithful", "sharp") if row.look == "both" else (row.look,)
        x, y = torch.cat([self.taught(row, look) for look in looks]), self.held_out[1].numpy()
        taught = probe.Probe(x, self.labels.repeat(len(looks)), self.n_classes)
        after, before = (by.probabilities(self.held_out[0]) for by in (taught, self.real))
        rng = np.random.default_rng(0)
        draws = [np.arange(len(y)), *(rng.integers(len(y), size=len(y)) for _ in range(DRAWS))]
        ratio, *others = (probe.macro_auc(after[i], y[i]) / probe.macro_auc(before[i], y[i]) for i in draws)
        decoded = [self.through(row, look, self.images) for look in looks]
        again = torch.cat([features(x) for x in decoded]), self.held_out[1].repeat(len(looks))
        keeps = probe.macro_auc(taught.probabilities(again[0]), again[1].numpy()) / probe.macro_auc(before, y)
        return {"teaches": ratio, "low": float(np.quantile(others, 0.025)), "high": float(np.quantile(others, 0.975)),
                "keeps": keeps, "recognised": probe.class_control(self.real, self.held_out, again)["ratio"],
                "bytes": self.bytes(row), "psnr": float(np.mean([psnr(x, self.images).mean() for x in decoded]))}
