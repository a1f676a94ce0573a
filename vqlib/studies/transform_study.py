"""What 9 bits per cell reach without a net: transform coding with blocks of five sizes."""
from dataclasses import dataclass

import numpy as np

from vqlib.data.dataset import Dataset
from vqlib.presets import PRESETS
from vqlib.studies import transform_coding
from vqlib.studies.study import Study, open_dataset

FLAGSHIP = PRESETS["flagship"]


@dataclass(frozen=True)
class TransformRow:
    """One linear codec: blocks of `side` pixels, `keep` frequencies per side are coded."""

    key: str
    label: str
    side: int
    keep: int
    against: str | None = None


ROWS = [
    TransformRow("8", "blocks of 8 px: each cell alone", 8, 8),
    TransformRow("16", "blocks of 16 px: 4 cells together", 16, 16, "8"),
    TransformRow("32", "blocks of 32 px: 16 cells together", 32, 16, "16"),
    TransformRow("64", "blocks of 64 px: 64 cells together", 64, 26, "32"),
    TransformRow("128", "blocks of 128 px: 256 cells together", 128, 40, "64"),
]

COLUMNS = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3),
           "coded_axes": ("axes coded", 0), "psnr_uncoded": ("uncoded, dB", 2)}


@dataclass
class TransformStudy(Study):
    """Geometry, bits and held-out images of the flagship."""

    dataset: Dataset
    n_codes: int = FLAGSHIP.vqvae.n_codes
    n_train: int = 3000

    name = "transform"
    rows = ROWS
    columns = COLUMNS

    @classmethod
    def open(cls, data):
        return cls(open_dataset(data, FLAGSHIP.geometry, FLAGSHIP.n_synthetic))

    @property
    def setup(self) -> dict:
        return {"data": self.dataset.title, "images": len(self.dataset),
                "training_images": self.n_train, "n_codes": self.n_codes}

    def measure(self, row: TransformRow, seed: int) -> dict:
        shuffled = np.random.default_rng(0).permutation(self.dataset.splits["train"])
        train_images = self.dataset[shuffled[: self.n_train]]
        held_out = self.dataset[self.dataset.splits["validation"]]
        return transform_coding.measure(train_images, held_out, row.side, row.keep,
                                        self.n_codes, seed)
