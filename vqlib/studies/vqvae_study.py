"""From the report's VQ-VAE to ours, one change at a time, and single swaps beside it."""
from dataclasses import dataclass, replace

from vqlib import metrics, train
from vqlib.data.augment import Augment
from vqlib.data.dataset import Dataset, statistics
from vqlib.presets import PRESETS
from vqlib.studies.quantizers import KINDS
from vqlib.studies.rows import path, swaps
from vqlib.studies.study import Study, open_dataset, training_setup
from vqlib.vqvae import VQVAE, VQVAEConfig

QUICK = PRESETS["quick"]
# nets half as wide as the report's, for thirty runs, and a training without our fast codebook
CONFIG = VQVAEConfig(image_size=64, hidden=32, residual_hidden=16)
TRAINING = train.TrainConfig(steps=900, batch=16)


@dataclass(frozen=True)
class VQVAERow:
    """One VQ-VAE; the defaults are ours."""

    key: str
    label: str
    against: str | None = None
    scale_by_pixels: bool = False   # report: normalised error over the un-normalised variance
    data_init: bool = True
    reset_threshold: float = 0.02
    cosine: bool = True
    n_down: int = 2
    code_dim: int = 128             # "fsq" has three channels instead
    quantizer: str = "ema"          # or "unit", "rotation", "fsq", see vqlib.studies.quantizers


REPORT = VQVAERow("report", "the report's settings", scale_by_pixels=True, data_init=False,
                  reset_threshold=0.0, cosine=False)
ROWS = path(
    REPORT,
    ("scaled", "+ variance scaled right", {"scale_by_pixels": False}),
    ("init", "+ codes initialised from data", {"data_init": True}),
    ("reset", "+ dead-code reset", {"reset_threshold": 0.02}),
    ("ours", "+ cosine learning rate = ours", {"cosine": True}))
ROWS += swaps(
    ROWS[-1],
    ("f8", "8 x 8 codes, f = 8 instead of 4", {"n_down": 3}),
    ("narrow", "code width 16 instead of 128", {"code_dim": 16}),
    ("unit", "codes of unit length", {"quantizer": "unit"}),
    ("fsq", "scalar quantization, 8 x 8 x 8", {"quantizer": "fsq"}),
    ("rotation", "rotation trick", {"quantizer": "rotation"}))

COLUMNS = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3),
           "codes_used": ("codes used", 0), "perplexity": ("perplexity", 0)}


@dataclass
class VQVAEStudy(Study):
    """Images and batches of `quick`, 900 updates; nets half as wide."""

    dataset: Dataset
    cfg: VQVAEConfig = CONFIG
    training: train.TrainConfig = TRAINING

    name = "vqvae"
    rows = ROWS
    columns = COLUMNS

    @classmethod
    def open(cls, data):
        return cls(open_dataset(data, QUICK.geometry, QUICK.n_synthetic))

    def __post_init__(self):
        self.stats = statistics(self.dataset)

    @property
    def setup(self) -> dict:
        return {**training_setup(self.dataset, self.training),
                "image_size": self.cfg.image_size, "hidden": self.cfg.hidden}

    def model(self, row: VQVAERow, seed: int) -> VQVAE:
        width = 3 if row.quantizer == "fsq" else row.code_dim    # 512 = 8 x 8 x 8
        cfg = replace(self.cfg, data_init=row.data_init, reset_threshold=row.reset_threshold,
                      n_down=row.n_down, code_dim=width)
        model = VQVAE(cfg, self.stats["mean"], self.stats["std"], seed)
        if row.quantizer != "ema":
            model.quantizer = KINDS[row.quantizer](cfg.n_codes, cfg.code_dim, cfg.decay,
                                                   cfg.reset_threshold, seed)
        return model

    def measure(self, row: VQVAERow, seed: int) -> dict:
        model = self.model(row, seed)
        training = replace(self.training, seed=seed, cosine=row.cosine)
        variance = self.stats["variance"] if row.scale_by_pixels else 1.0
        for _ in train.train_vqvae(model, self.dataset, training, Augment(), variance):
            pass
        r = metrics.evaluate_vqvae(model, self.dataset, "validation")
        return {"psnr": r["psnr"]["mean"], "ssim": r["ssim"]["mean"],
                "codes_used": r["codes_used"], "perplexity": r["perplexity"]}
