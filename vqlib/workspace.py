"""Where data, runs, weights and results lie: the preset and the data of a run, and its folders."""
import csv
import hashlib
import io
import json
import platform
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from vqlib.backend.cpu import keep_pages
from vqlib.backend.device import default_device
from vqlib.backend.files import FileError, is_there, read_regular, write_atomically
from vqlib.backend.paths import home, pretrained
from vqlib.data.dataset import Dataset, require_splits
from vqlib.data.records import DataError, listing
from vqlib.data.sources import open_source
from vqlib.presets import Preset, choose
from vqlib.shipped import adopt


@dataclass
class Workspace:
    """Settings, data and folders; printed, it says what a reader must know of them."""

    preset: Preset
    dataset: Dataset
    device: str
    shipped: list[str] = field(default_factory=list)  # weights taken over from data/pretrained
    left: list[str] = field(default_factory=list)     # of this preset, but not taken, and why
    shows: str = ""                                   # of what figures are, if not of its data
    opened: float = field(default_factory=time.time)

    @property
    def source(self) -> str:
        """What stands below a figure: which data and preset it shows."""
        return f"{self.shows or self.dataset.title}, preset {self.preset.name}"

    @property
    def folder(self) -> Path:
        """Weights, logs and metrics; named after the data, so that no stale ones are found."""
        return home() / "data" / "runs" / f"{self.preset.name}-{self.dataset.fingerprint}"

    @property
    def metadata(self) -> dict:
        """What a model file says of where it comes from."""
        d = self.dataset
        return {"preset": self.preset.name, "data": d.title, "fingerprint": d.fingerprint,
                "classes": d.classes,
                "geometry": {"crop": d.geometry.crop, "resize": d.geometry.resize},
                "split": "train, 80 % by lesion hash"}

    def __str__(self):
        d = self.dataset
        sizes = ", ".join(f"{name} {len(rows)}" for name, rows in d.splits.items() if name != "all")
        text = (f"data    {d.title}: {len(d)} images, {d.geometry.crop} px; {sizes}; "
                f"{len(d.skipped)} skipped")
        text += "".join(f"\n        {line}" for line in listing(d.skipped))
        text += "".join(f"\nnote    {note}" for note in d.notes)
        text += f"\npreset  {self.preset.name}, device {self.device}"
        if self.shipped:
            text += f"\nweights that ship, not trained here: {', '.join(self.shipped)}"
        if self.left:
            more = f" (and {len(self.left) - 1} more)" if self.left[1:] else ""
            text += f"\nweights that ship, not taken: {self.left[0]}{more}"
        return text

    def require(self, *models: str) -> None:
        """Raises ValueError unless the preset has all of prior, windowed, flow_decoder named."""
        for what in models:
            if getattr(self.preset, what) is None:
                raise ValueError(f"preset {self.preset.name} has no {what}: take quick or flagship")


def open_workspace(preset: str | None = None, data=None, shipped=True, **columns) -> Workspace:
    """Choose the preset and open the data; what was left out is listed in `folder`/skipped.csv.

    data: the folder given, else `$VQLIB_DATA`, else data/ham10000, else synthetic images.
    shipped: use weights of data/pretrained that fit, instead of training them again.
    columns: image_column and label_column of `open_source`. Raises DataError if the data cannot be
    read, is too little to train and validate on, or has an empty name, as from a variable that is
    not set.
    """
    if data is not None and not str(data).strip():
        raise DataError("the name of the data is empty: name a folder or .npz, or leave it out")
    keep_pages()                                                 # updates and features are faster
    chosen = choose(preset)
    source = open_source(data, chosen.n_synthetic, chosen.geometry.side, **columns)
    limit = None if source.kind == "synthetic" else chosen.limit
    dataset = Dataset(source, chosen.geometry, limit)
    require_splits(dataset, "train", "validation")
    workspace = Workspace(chosen, dataset, default_device())
    write_skipped(workspace.folder / "skipped.csv", dataset.skipped)
    if shipped:
        workspace.shipped, workspace.left = adopt(pretrained(), workspace.folder, chosen, dataset)
    return workspace


def write_skipped(path: Path, skipped: list[tuple[str, str]]) -> None:
    """A table of what was left out, with the reasons; no file if nothing was."""
    if not skipped:
        return path.unlink(missing_ok=True)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("name", "reason"), *skipped])
    write_atomically(path, text.getvalue().encode())


def save_results(workspace: Workspace, notebook: str, key_metric: str, **metrics) -> None:
    """Save a notebook's metrics beside the weights; `key_metric` goes into the closing table."""
    values = json.loads(json.dumps({"key_metric": key_metric, **metrics}, default=float))
    text = json.dumps({**values, "sha256": metrics_digest(values)}, indent=1)
    write_atomically(workspace.folder / f"{notebook}.json", text.encode())


def load_results(workspace: Workspace, notebook: str) -> dict:
    """What `save_results` saved.

    Raises FileNotFoundError that names the notebook to run, FileError if the file was changed.
    """
    path = workspace.folder / f"{notebook}.json"
    if not is_there(path):
        raise FileNotFoundError(
            f"run notebook {notebook} first: it has not run on {workspace.dataset.title} under "
            f"preset {workspace.preset.name} yet")
    try:
        values = json.loads(read_regular(path))
        claimed = values.pop("sha256")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        claimed = values = None
    if claimed is None or claimed != metrics_digest(values):
        raise FileError(f"{path.name} is damaged or of an older version: run notebook {notebook} "
                        "again")
    return values


def metrics_digest(values: dict) -> str:
    """SHA-256 of metrics: a digit that changes in a file would train on."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def footer(workspace: Workspace, seed: int) -> str:
    """Versions, seed, device, wall time and peak memory, for the last cell of a notebook."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gib = peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB elsewhere
    return (f"Python {platform.python_version()}, torch {torch.__version__}, "
            f"{torch.get_num_threads()} threads, device {workspace.device}, seed {seed}\n"
            f"{time.time() - workspace.opened:.0f} s, peak memory {gib:.1f} GiB")
