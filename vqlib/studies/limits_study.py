"""What limits a VQ-VAE of the flagship's grid early in its training: updates, bits or channels."""
from dataclasses import dataclass, replace

from vqlib import metrics, train
from vqlib.data.dataset import Dataset, statistics
from vqlib.presets import PRESETS, Preset
from vqlib.studies.rows import path, swaps
from vqlib.studies.study import Study, open_dataset
from vqlib.vqvae import VQVAE, VQVAEConfig

FLAGSHIP = PRESETS["flagship"]
# before its decoder was widened and its codebook made fast
PLAIN = replace(FLAGSHIP, vqvae=VQVAEConfig(n_down=3, residual_hidden=64, residual_layers=4),
                vqvae_training=train.TrainConfig(steps=2500, batch=16))


@dataclass(frozen=True)
class LimitsRow:
    """One run of a VQ-VAE of 16 x 16 codes; its learning rate falls to the end of the run."""

    key: str
    label: str
    steps: int
    n_codes: int = 512
    width: float = 1.0              # times the channels of the nets
    against: str | None = None


ROWS = path(
    LimitsRow("625", "625 updates", 625),
    ("1250", "1,250 updates", {"steps": 1250}),
    ("2500", "2,500 updates", {"steps": 2500}))
ROWS += swaps(
    ROWS[0],
    ("narrow", "625 updates, nets half as wide", {"width": 0.5}),
    ("wide", "625 updates, nets twice as wide", {"width": 2.0}),
    ("few", "625 updates, 128 codes: 7 bits", {"n_codes": 128}),
    ("many", "625 updates, 2,048 codes: 11 bits", {"n_codes": 2048}))

COLUMNS = {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3),
           "perplexity": ("perplexity", 0)}


@dataclass
class LimitsStudy(Study):
    """Data and batches of the flagship; the report's codebook decay, nets and learning rate."""

    dataset: Dataset
    preset: Preset = PLAIN

    name = "limits"
    rows = ROWS
    columns = COLUMNS

    @classmethod
    def open(cls, data):
        return cls(open_dataset(data, FLAGSHIP.geometry, FLAGSHIP.n_synthetic))

    @property
    def setup(self) -> dict:
        return {"data": self.dataset.title, "images": len(self.dataset),
                "batch": self.preset.vqvae_training.batch}

    def measure(self, row: LimitsRow, seed: int) -> dict:
        cfg, stats = self.preset.vqvae, statistics(self.dataset)
        cfg = replace(cfg, n_codes=row.n_codes, hidden=round(row.width * cfg.hidden),
                      residual_hidden=round(row.width * cfg.residual_hidden))
        model = VQVAE(cfg, stats["mean"], stats["std"], seed)
        training = replace(self.preset.vqvae_training, steps=row.steps, seed=seed)
        for _ in train.train_vqvae(model, self.dataset, training, self.preset.augment):
            pass
        r = metrics.evaluate_vqvae(model, self.dataset, "validation")
        return {"psnr": r["psnr"]["mean"], "ssim": r["ssim"]["mean"],
                "perplexity": r["perplexity"]}
