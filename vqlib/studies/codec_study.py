"""What a classifier learns from images after a codec: the ceiling of what any prior can reach.

A probe is trained on training images that went through a codec and tested on held-out photographs:
a classification accuracy score, CAS (Ravuri & Vinyals 2019), without a prior.
Letters: n images, h w grid cells, T = h*w codes per image, K classes, d features.
"""
import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vqlib.backend.paths import pretrained
from vqlib.checkpoint import load_model
from vqlib.data.dataset import Dataset
from vqlib.evaluation import compression, probe
from vqlib.evaluation.features import dataset_features, features
from vqlib.flow_decoder import StochasticDecoder
from vqlib.gpt import GPT
from vqlib.metrics import psnr
from vqlib.presets import PRESETS
from vqlib.studies.rows import swaps
from vqlib.studies.study import Study, open_dataset
from vqlib.train import held_out_nats
from vqlib.vqvae import VQVAE

FLAGSHIP = PRESETS["flagship"]
RESAMPLES = 200  # bootstrap samples of the held-out images


@dataclass(frozen=True)
class CodecRow:
    """One way to store images and to decode what was stored."""

    key: str
    label: str
    codec: str                      # a VQ-VAE, "f8" or "f4", or an image format
    size: int | None = None         # of a format: bytes per image, without headers, to aim at
    decoder: str | None = None      # of codes: "least-squares", "flow", "both"; formats: their own
    against: str | None = None

    @property
    def decoders(self) -> tuple:
        """With "both" the probe learns from each image twice."""
        return ("least-squares", "flow") if self.decoder == "both" else (self.decoder,)


F8 = CodecRow("f8", "256 codes, least-squares decoder", "f8", decoder="least-squares")
ROWS = [
    F8,
    *swaps(F8, ("f8-flow", "256 codes, flow decoder", {"decoder": "flow"}),
           ("f8-both", "256 codes, both decoders", {"decoder": "both"})),
    CodecRow("f4", "1,024 codes", "f4", decoder="least-squares"),
    CodecRow("avif-160", "AVIF, 160 bytes", "avif", 160),
    CodecRow("avif-320", "AVIF, 320 bytes", "avif", 320),
    CodecRow("webp-640", "WebP, 640 bytes", "webp", 640),
    CodecRow("jpeg-660", "JPEG, 660 bytes", "jpeg", 660),
]
COLUMNS = {"cas": ("CAS (AUC ratio)", 3), "cas_low": ("95 % low", 3), "cas_high": ("95 % high", 3),
           "cas_on_reconstructions": ("CAS on reconstructions", 3),
           "recall_ratio": ("recall ratio", 2), "bytes": ("bytes", 0), "psnr": ("PSNR, dB", 1)}


@dataclass
class CodecStudy(Study):
    """Images, weights that ship, and a probe that was trained on photographs."""

    dataset: Dataset
    vqvaes: dict[str, VQVAE]        # "f8" and "f4"
    prior: GPT                      # of the codes of "f8": its likelihood says how many bytes
    flow_decoder: StochasticDecoder   # of the codes of "f8"
    weights: dict[str, str]         # digests of the files: other weights give other results
    train_features: dict = field(default_factory=dict)  # by (codec, size, decoder): (n, d)
    qualities: dict = field(default_factory=dict)       # of image formats, by (codec, size)

    name = "codec"
    rows = ROWS
    columns = COLUMNS
    seeded = False                  # the flow decoder's noise depends on the codes only

    @classmethod
    def open(cls, data):
        shipped = pretrained()
        files = [shipped / f"{name}.safetensors"
                 for name in ("vqvae-f8", "vqvae-f4", "prior-f8", "flow-decoder-f8")]
        f8, f4, prior, flow_decoder = (load_model(file)[0] for file in files)
        digests = {file.stem: hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in files}
        dataset = open_dataset(data, FLAGSHIP.geometry, FLAGSHIP.n_synthetic)
        return cls(dataset, {"f8": f8, "f4": f4}, prior, StochasticDecoder(f8, flow_decoder),
                   digests)

    def __post_init__(self):
        self.train_rows = self.dataset.splits["train"]
        self.train_labels = self.dataset.labels[self.train_rows]                # (n,)
        held_out = self.dataset.splits["validation"]
        self.images = self.dataset[held_out]                                    # (m, 3, H, W)
        self.held_out = features(self.images), self.dataset.labels[held_out]    # (m, d), (m,)
        self.n_classes = len(self.dataset.classes)
        photographs = dataset_features(self.dataset, self.train_rows)           # (n, d)
        self.real_probe = probe.Probe(photographs, self.train_labels, self.n_classes)

    @property
    def setup(self) -> dict:
        return {"data": self.dataset.title, "training_images": len(self.train_labels),
                "held_out": len(self.images), "probe": probe.WEIGHT, "weights": self.weights}

    def measure(self, row: CodecRow, seed: int) -> dict:
        """How well a probe that was trained after the codec does, over one trained on photographs.

        `cas`: ratio of their AUC on photographs; `cas_low` and `cas_high` are the ends of its 95 %
        bootstrap interval over held-out images. `cas_on_reconstructions`: the same, but the probe
        is tested on images after the codec, too. `recall_ratio`: recall of the probe that was
        trained on photographs, on images after the codec over photographs. `bytes` of an image
        without headers, `psnr` in dB.
        """
        stored = self.store(row, self.images)                    # once, for all decoders
        decoded = [self.restore(row, decoder, stored) for decoder in row.decoders]
        reconstructions = (torch.cat([features(x_hat) for x_hat in decoded]),
                           self.held_out[1].repeat(len(decoded)))
        recall = probe.class_conditional_recall(self.real_probe, self.held_out, reconstructions)
        trained_after = self.probe_after(row)
        return {**self.cas(trained_after),
                "cas_on_reconstructions": self.auc_ratio(trained_after, reconstructions),
                "recall_ratio": recall["ratio"],
                "bytes": self.bytes_per_image(row, stored),
                "psnr": float(np.mean([psnr(x_hat, self.images).mean() for x_hat in decoded]))}

    def store(self, row: CodecRow, images: Tensor) -> Tensor | list[bytes]:     # (n, 3, H, W)
        """Codes (n, h, w), or one file per image."""
        if row.codec in self.vqvaes:
            return torch.cat([self.vqvaes[row.codec].encode(x) for x in images.split(64)])
        return [compression.encode(x, row.codec, self.quality(row)) for x in images]

    def restore(self, row: CodecRow, decoder: str | None, stored) -> Tensor:    # -> (n, 3, H, W)
        if decoder is None:
            return torch.stack([compression.decode(file) for file in stored])
        model = self.flow_decoder if decoder == "flow" else self.vqvaes[row.codec]
        return torch.cat([model.decode(codes) for codes in stored.split(64)])

    def quality(self, row: CodecRow) -> int:
        """The format's quality at which 64 held-out images come nearest to the row's size."""
        name = row.codec, row.size
        if name not in self.qualities:
            some = self.images[:: max(1, len(self.images) // 64)]
            self.qualities[name] = compression.quality_at(some, row.codec, row.size)
        return self.qualities[name]

    def bytes_per_image(self, row: CodecRow, stored) -> float:
        """Mean over held-out images, without headers.

        Codes that the prior knows count as many bytes as its likelihood, others by their number.
        """
        if row.codec not in self.vqvaes:
            payload = compression.PAYLOADS[row.codec]
            return float(np.mean([payload(file) for file in stored]))
        codes, cfg = stored.flatten(1), self.vqvaes[row.codec].cfg              # (m, T)
        if cfg.grid != self.prior.cfg.grid:
            return compression.fixed_bytes(codes.shape[1], cfg.n_codes)
        nats = held_out_nats(self.prior, codes, self.held_out[1]).sum(1)        # (m,)
        return float(nats.mean() / np.log(256))

    def probe_after(self, row: CodecRow) -> probe.Probe:
        """Trained on all training images after the codec, once for each decoder of the row."""
        x = torch.cat([self.features_after(row, decoder) for decoder in row.decoders])
        y = self.train_labels.repeat(len(row.decoders))
        return probe.Probe(x, y, self.n_classes)

    def features_after(self, row: CodecRow, decoder: str | None) -> Tensor:     # -> (n, d)
        name = row.codec, row.size, decoder
        if name not in self.train_features:
            parts = []
            for rows in np.array_split(self.train_rows, -(-len(self.train_rows) // 512)):
                stored = self.store(row, self.dataset[rows])
                parts.append(features(self.restore(row, decoder, stored)))
            self.train_features[name] = torch.cat(parts)
        return self.train_features[name]

    def auc_ratio(self, trained_after: probe.Probe, images) -> float:           # (m, d), (m,)
        """AUC on these images, over that of the probe of photographs on photographs."""
        x, y = self.held_out
        real = probe.macro_auc(self.real_probe.probabilities(x), y.numpy())
        x, y = images
        return probe.macro_auc(trained_after.probabilities(x), y.numpy()) / real

    def cas(self, trained_after: probe.Probe) -> dict:
        x, y = self.held_out[0], self.held_out[1].numpy()
        after, real = trained_after.probabilities(x), self.real_probe.probabilities(x)  # (m, K)
        rng, ratios = np.random.default_rng(0), []
        for _ in range(RESAMPLES):
            rows = rng.integers(len(y), size=len(y))             # with replacement
            ratios.append(probe.macro_auc(after[rows], y[rows])
                          / probe.macro_auc(real[rows], y[rows]))
        return {"cas": probe.macro_auc(after, y) / probe.macro_auc(real, y),
                "cas_low": float(np.quantile(ratios, 0.025)),
                "cas_high": float(np.quantile(ratios, 0.975))}
