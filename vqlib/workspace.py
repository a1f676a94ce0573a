"""What a notebook or command works with: a preset, its data, and the folders where results go."""
import json
import platform
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vqlib.data import HOME, open_source
from vqlib.dataset import Dataset
from vqlib.files import write_atomically
from vqlib.presets import Preset, choose


@dataclass
class Workspace:
    """Settings, data and folders; printed, it says what a reader must know of them."""

    preset: Preset
    dataset: Dataset
    device: str
    opened: float = field(default_factory=time.time)

    @property
    def folder(self) -> Path:
        """Weights, logs and figures of merit; named after the data, so that stale ones are never picked up."""
        return HOME / "data" / "runs" / f"{self.preset.name}-{self.dataset.fingerprint}"

    @property
    def figures(self) -> Path:
        """figures/ holds the flagship's, figures/<preset>/ the others'."""
        return HOME / "figures" / ("" if self.preset.name == "flagship" else self.preset.name)

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
                f"preset  {self.preset.name}, device {self.device}")

    def keep(self, notebook: str, key_figure: str, **figures) -> None:
        """Save a notebook's figures of merit as JSON beside the weights; `key_figure` goes into the closing table."""
        text = json.dumps({"key_figure": key_figure, **figures}, indent=1, default=float)
        write_atomically(self.folder / f"{notebook}.json", text.encode())

    def recall(self, notebook: str) -> dict:
        """What `keep` saved; raises FileNotFoundError that names the notebook to run first."""
        path = self.folder / f"{notebook}.json"
        if not path.exists():
            raise FileNotFoundError(f"run notebook {notebook} first: it has not run on {self.dataset.title} under preset "
                                    f"{self.preset.name} yet")
        return json.loads(path.read_text())

    def closing(self, seed: int) -> str:
        """Versions, seed, device, wall time and peak memory, for the last cell of a notebook."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
        return (f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads, device "
                f"{self.device}, seed {seed}\n{time.time() - self.opened:.0f} s, peak memory {peak:.1f} GiB")


def open_workspace(preset: str | None = None, data=None) -> Workspace:
    """Choose the preset and open the data: the folder given, `$VQLIB_DATA`, data/ham10000, or synthetic images."""
    p = choose(preset)
    source = open_source(data, p.n_synthetic, p.geometry.side)
    return Workspace(p, Dataset(source, p.geometry, None if source.kind == "synthetic" else p.limit),
                     "cuda" if torch.cuda.is_available() else "cpu")
