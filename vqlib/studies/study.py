"""What every study has: rows, a setup that its rows share, and a measurement."""
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path

from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import open_source

FOLDER = Path(__file__).resolve().parents[2] / "data" / "studies"  # of the committed results


class Study(ABC):
    """One table. Subclasses are dataclasses whose fields are what all rows share."""

    name: str                                # in the command line and in file names
    rows: list                               # in the table's order, see vqlib.studies.rows
    columns: dict[str, tuple[str, int]]      # metric -> (title, digits); rows compare the first
    seeded = True                            # False: nothing is drawn at random, one seed is enough

    @classmethod
    @abstractmethod
    def open(cls, data: str | None) -> "Study":
        """The study on a folder or .npz; None: $VQLIB_DATA, data/ham10000, synthetic images."""

    @property
    @abstractmethod
    def setup(self) -> dict:
        """What all rows share, ready for JSON: a result of another setup is another result."""

    @abstractmethod
    def measure(self, row, seed: int) -> dict:
        """Train and evaluate a row: {metric: value}, ready for JSON."""

    def settings(self, row, seed: int) -> dict:
        """Everything that decides a result, ready for JSON."""
        of_row = asdict(row)
        del of_row["label"], of_row["against"]   # its name and its comparison train nothing
        return {"study": self.name, **of_row, "seed": seed, "setup": self.setup}


def open_dataset(data: str | None, geometry: Geometry, n_synthetic: int) -> Dataset:
    return Dataset(open_source(data, n_synthetic, geometry.side), geometry)


def training_setup(dataset: Dataset, training) -> dict:
    """The part of a setup that says on what, and for how long, a row trains (TrainConfig)."""
    return {"data": dataset.title, "images": len(dataset),
            "updates": training.steps, "batch": training.batch}
