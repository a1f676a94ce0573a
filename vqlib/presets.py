"""Every setting of every run in one table, and the workspace of a run: preset, data, folders. `VQLIB_PRESET` chooses."""
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from vqlib.backend.memory import keep_pages
from vqlib.backend.paths import home
from vqlib.checkpoint import load_model, write_atomically
from vqlib.data.augment import Augment
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import open_source
from vqlib.entropy_constrained import encoder
from vqlib.flow_decoder import FlowDecoderConfig
from vqlib.gpt import GPTConfig
from vqlib.train import TrainConfig
from vqlib.vqvae import VQVAEConfig
from vqlib.windowed_gpt import WindowedConfig


@dataclass(frozen=True)
class Preset:
    """One way to run all five notebooks."""

    name: str
    geometry: Geometry
    augment: Augment
    vqvae: VQVAEConfig
    vqvae_training: TrainConfig
    gpt: GPTConfig
    gpt_training: TrainConfig
    windowed: WindowedConfig
    windowed_training: TrainConfig
    sharp: FlowDecoderConfig
    flow_decoder_training: TrainConfig
    guide_run: TrainConfig | None = None         # of the prior that first chooses the codes of the others, if `gpt` has a rate
    decoder_run: TrainConfig | None = None       # of the faithful decoder, on the codes that the guide chooses
    views: tuple[int, ...] = (0, 4)      # of each image, encoded once for the prior: as it is, and mirrored
    scale_by_pixels: bool = False        # the report's slip: divide the normalised error by the un-normalised variance
    limit: int | None = None             # images of a real data set; None: all
    n_synthetic: int = 3000
    n_samples: int = 32
    baseline_steps: int | None = None  # None: as many as ours; where those take an hour, enough to see a codebook collapse

    @property
    def baseline(self) -> "Preset":
        """Ours for the report's codebook settings and the other way round, with the same nets and batches."""
        ours = self.scale_by_pixels
        cfg = replace(self.vqvae, data_init=ours, reset_threshold=0.02 if ours else 0.0)
        run = replace(self.vqvae_training, cosine=ours, steps=self.baseline_steps or self.vqvae_training.steps)
        return replace(self, vqvae=cfg, vqvae_training=run, scale_by_pixels=not ours)


_SMOKE = TrainConfig(steps=60, batch=16, lrs=(3e-3,), eval_every=20, eval_images=32)
_QUICK = TrainConfig(steps=1000, batch=16, lrs=(3e-3,), warmup=50, weight_decay=0.05, betas=(0.9, 0.95), clip=1.0,
             eval_every=200, eval_images=256)
_REPORT = TrainConfig(steps=600_000, batch=128, lrs=(4e-4, 4e-4, 5e-5), cosine=False, weight_decay=0.01, eval_every=500,
              eval_images=200 * 128, patience=0, seed=1337)
_FLAGSHIP = replace(_QUICK, steps=4_500, lrs=(2e-3,), warmup=200, eval_every=500, eval_images=460, save_every=250)
PRESETS = {p.name: p for p in (
    Preset("smoke", Geometry(32, 32), Augment(),
           VQVAEConfig(image_size=32, n_codes=64, hidden=32, residual_hidden=16, code_dim=32),
           TrainConfig(steps=150, batch=16, lrs=(2e-3,)),
           GPTConfig(grid=8, n_codes=64, width=32, heads=2, layers=2), _SMOKE,
           WindowedConfig(grid=8, n_codes=64, width=32, heads=2, layers=2), _SMOKE,
           FlowDecoderConfig(code_dim=32, width=16, layers=2, steps=4), TrainConfig(steps=60, batch=16), limit=300, n_synthetic=300),
    Preset("quick", Geometry(64, 64), Augment(), VQVAEConfig(image_size=64), TrainConfig(steps=900, batch=16),
           GPTConfig(width=96, heads=2, layers=3, dropout=0.0), _QUICK,
           WindowedConfig(grid=16), replace(_QUICK, steps=400, lrs=(2e-3,)),
           FlowDecoderConfig(), TrainConfig(steps=400, batch=16)),
    Preset("report", Geometry(128, None), Augment(),
           VQVAEConfig(data_init=False, reset_threshold=0.0), TrainConfig(steps=15_000, batch=256, cosine=False),
           GPTConfig(grid=32, heads=8, dropout=0.2), replace(_REPORT, lrs=(4e-4,), cosine=True, warmup=500),
           WindowedConfig(), _REPORT,
           FlowDecoderConfig(), TrainConfig(steps=15_000, batch=32), scale_by_pixels=True),
    Preset("flagship", Geometry(128, 128), Augment(dihedral=True, rotate=0.0),
           VQVAEConfig(n_down=3, residual_hidden=64, residual_layers=4), TrainConfig(steps=10_000, batch=16),
           GPTConfig(layers=5, dropout=0.0, rate=1.8), replace(_FLAGSHIP, steps=6_000, lrs=(1e-3,), balance=0.5),
           WindowedConfig(grid=16), replace(_FLAGSHIP, steps=12_000),
           FlowDecoderConfig(), TrainConfig(steps=6_000, batch=16, balance=0.5), guide_run=replace(_FLAGSHIP, steps=3_000),
           decoder_run=TrainConfig(steps=4_000, batch=16, lrs=(5e-4,)), views=(0, 2, 4, 6), baseline_steps=1_500),
    Preset("flagship-f4", Geometry(128, None), Augment(dihedral=True, rotate=0.0), VQVAEConfig(), TrainConfig(steps=8_000, batch=16),
           GPTConfig(grid=32, dropout=0.0), _FLAGSHIP,
           WindowedConfig(), _FLAGSHIP,
           FlowDecoderConfig(), TrainConfig(steps=6_000, batch=16), views=tuple(range(8)), baseline_steps=1_500),
)}


def choose(name: str | None = None) -> Preset:
    """The preset of that name, else of `$VQLIB_PRESET`, else `quick`."""
    name = name or os.environ.get("VQLIB_PRESET") or "quick"
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


@dataclass
class Workspace:
    """Settings, data and folders; printed, it says what a reader must know of them."""

    preset: Preset
    dataset: Dataset
    device: str
    shipped: list[str] = field(default_factory=list)  # weights taken over from data/pretrained
    opened: float = field(default_factory=time.time)

    @property
    def folder(self) -> Path:
        """Weights, logs and figures of merit; named after the data, so that stale ones are never picked up."""
        return home() / "data" / "runs" / f"{self.preset.name}-{self.dataset.fingerprint}"

    @property
    def card(self) -> dict:
        """What a model file says of where it comes from."""
        d = self.dataset
        return {"preset": self.preset.name, "data": d.title, "fingerprint": d.fingerprint, "classes": d.classes,
                "geometry": {"crop": d.geometry.crop, "resize": d.geometry.resize}, "split": "train, 80 % by lesion hash"}

    def __str__(self):
        d = self.dataset
        sizes = ", ".join(f"{k} {len(v)}" for k, v in d.splits.items() if k != "all")
        return (f"data    {d.title}: {len(d)} images, {d.geometry.crop} px; {sizes}; {len(d.skipped)} skipped\n"
                f"preset  {self.preset.name}, device {self.device}"
                + (f"\nweights that ship, not trained here: {', '.join(self.shipped)}" if self.shipped else ""))

    def adopt_shipped(self) -> None:
        """Copy weights and logs that ship for this preset, kind of data and classes into a folder without runs of its own."""
        if any(self.folder.glob("*/state.pt")):
            return
        for path in sorted((home() / "data" / "pretrained").glob("*.safetensors")):
            card, name = load_model(path)[1], path.stem.split("-")[0]
            if (card["preset"], card["data"], card["classes"]) == (self.preset.name, self.dataset.title, self.dataset.classes):
                for source, target in ((path.with_suffix(".jsonl"), f"{name}/log.jsonl"), (path, f"{name}.safetensors")):
                    write_atomically(self.folder / target, source.read_bytes())
                self.shipped.append(path.stem)

    def encoder(self, vqvae, guide: Path | None = None):
        """What chooses the codes of this preset's priors: the VQ-VAE, or at a rate EntropyConstrainedEncoder with a guide."""
        path, rate = guide or self.folder / "guide.safetensors", self.preset.gpt.rate
        prior = load_model(path, "gpt", "python -m vqlib train-prior --kind guide")[0].to(self.device) if rate else None
        return encoder(vqvae, prior, rate)


def open_workspace(preset: str | None = None, data=None, shipped=True) -> Workspace:
    """Choose the preset and open the data: the folder given, `$VQLIB_DATA`, data/ham10000, or synthetic images.

    `shipped`: use weights of data/pretrained that fit, instead of training them again.
    """
    keep_pages()                                                      # whatever is done here, updates or features, is faster
    p = choose(preset)
    source = open_source(data, p.n_synthetic, p.geometry.side)
    ws = Workspace(p, Dataset(source, p.geometry, None if source.kind == "synthetic" else p.limit),
                   "cuda" if torch.cuda.is_available() else "cpu")
    if shipped:
        ws.adopt_shipped()
    return ws
