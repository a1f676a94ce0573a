"""Runs the rows of studies that have no result yet, and keeps each result as one JSON file."""
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from vqlib.backend.files import is_there, read_json, write_atomically
from vqlib.studies.codec_study import CodecStudy
from vqlib.studies.limits_study import LimitsStudy
from vqlib.studies.prior_study import PriorStudy
from vqlib.studies.study import FOLDER, Study
from vqlib.studies.transform_study import TransformStudy
from vqlib.studies.vqvae_study import VQVAEStudy

STUDIES: dict[str, type[Study]] = {
    study.name: study
    for study in (VQVAEStudy, PriorStudy, TransformStudy, LimitsStudy, CodecStudy)}


def is_current(path: Path, settings: dict) -> bool:
    """Whether the file is there and holds a result with these settings, see Study.settings."""
    return is_there(path) and settings.items() <= read_json(path).items()


def run(study: Study, row, seed: int, folder: Path = FOLDER) -> bool:
    """Train and evaluate a row; False if a result with the same settings was there already."""
    path = Path(folder) / f"{study.name}-{row.key}-{seed}.json"
    settings = study.settings(row, seed)
    if is_current(path, settings):
        return False
    start = time.process_time()
    measured = study.measure(row, seed)
    result = {**settings, "metrics": measured,
              "cpu_seconds": round(time.process_time() - start), "torch": torch.__version__}
    write_atomically(path, json.dumps(result, indent=1).encode() + b"\n")
    return True


def run_all(names, data: str | None, seeds: list[int], folder: Path = FOLDER) -> Iterator[tuple]:
    """Yield (study, row, seed, whether it was run), a whole table of one seed first."""
    studies = [STUDIES[name].open(data) for name in names]
    for seed in seeds:
        for study in studies:
            if study.seeded or seed == seeds[0]:
                for row in study.rows:
                    yield study, row, seed, run(study, row, seed, folder)
