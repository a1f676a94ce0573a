"""What the notebooks saved of a run: metrics, models and figures, or what to run for them."""
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vqlib.backend.files import read_json
from vqlib.backend.paths import home
from vqlib.checkpoint import load_model
from vqlib.plots import figure_folder
from vqlib.presets import PRESETS, Preset, choose
from vqlib.report.text import listed

NOTEBOOKS = ("01", "02", "03", "04", "05")
MODELS = {"vqvae": "02", "baseline": "02", "prior": "04", "windowed": "04"}  # and who makes them


class Missing(ValueError):
    """The report lacks something; the message says what, and which notebook makes it."""


@dataclass(frozen=True)
class Run:
    """One preset on one data set."""

    preset: Preset
    folder: Path                             # data/runs/<preset>-<fingerprint of the data>

    @property
    def saved(self) -> list[Path]:
        """Metrics of those notebooks that have run."""
        paths = [self.folder / f"{notebook}.json" for notebook in NOTEBOOKS]
        return [path for path in paths if path.exists()]

    @cached_property
    def data(self) -> str:
        """The data's title, "" as long as no VQ-VAE names it."""
        path = self.folder / "vqvae.safetensors"
        return load_model(path)[1].get("data", "") if path.exists() else ""

    def figure(self, name: str) -> Path:
        return figure_folder(self.preset.name, self.data) / f"{name}.png"

    def require(self, figures: list[str]) -> None:
        """Raises Missing unless all metrics and models are there, and the figures named."""
        made_by = {self.folder / f"{notebook}.json": notebook for notebook in NOTEBOOKS}
        made_by |= {self.folder / f"{name}.safetensors": n for name, n in MODELS.items()}
        made_by |= {self.figure(name): name[:2] for name in figures}
        missing = [path for path in made_by if not path.exists()]
        if missing:
            notebooks = sorted({made_by[path] for path in missing})
            names = [path.relative_to(home()).as_posix() for path in missing]
            more = f" and {len(names) - 3} more files" if len(names) > 3 else ""
            raise Missing(f"missing: {', '.join(names[:3])}{more}; {how(self.preset, notebooks)}")

    def metrics(self) -> dict[str, dict]:
        """{notebook: what it saved}."""
        return {path.stem: read_json(path) for path in self.saved}

    def models(self) -> dict[str, tuple]:
        """{name: (model, metadata)}."""
        return {name: load_model(self.folder / f"{name}.safetensors", made_by=f"notebook {n}")
                for name, n in MODELS.items()}


def how(preset: Preset, notebooks=NOTEBOOKS) -> str:
    """What to run for the results of notebooks."""
    command = f"VQLIB_PRESET={preset.name} python notebooks/run.py"
    if tuple(notebooks) == NOTEBOOKS:
        return f"run the notebooks: {command}"
    which = "notebook" if len(notebooks) == 1 else "notebooks"
    return f"run {which} {listed(notebooks)} with the same data: {command} {' '.join(notebooks)}"


def find_run(name: str | None = None) -> Run:
    """The run of a preset: the one named, else `$VQLIB_PRESET`, else of any that has results.

    Of several the most complete is taken, and of those the one whose results are newest. Raises
    Missing if there is none.
    """
    name = name or os.environ.get("VQLIB_PRESET")
    presets = [choose(name)] if name else list(PRESETS.values())
    folders = sorted((home() / "data" / "runs").glob("*-*"))
    runs = [Run(preset, folder) for folder in folders for preset in presets
            if folder.name.rpartition("-")[0] == preset.name]
    runs = [run for run in runs if run.saved]
    if not runs:
        under = f"under preset {name}" if name else "under any preset"
        raise Missing(f"no results {under}; {how(choose(name))}")
    run = max(runs, key=lambda run: (len(run.saved), run.saved[-1].stat().st_mtime))
    if run.preset.prior is None:
        raise Missing(f"preset {run.preset.name} has no prior, which the report needs; "
                      f"{how(choose('quick'))}")
    return run
