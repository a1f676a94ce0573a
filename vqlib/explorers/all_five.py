"""The five explorers of a set of weights, with photographs where there are some."""
import numpy as np

from vqlib.data.dataset import Dataset
from vqlib.data.sources import open_source
from vqlib.explorers.codebook import IMAGES, CodebookExplorer
from vqlib.explorers.data import DataExplorer
from vqlib.explorers.inpainting import InpaintingExplorer
from vqlib.explorers.reconstruction import ReconstructionExplorer
from vqlib.explorers.sampler import SamplerExplorer
from vqlib.explorers.server import Later
from vqlib.pipeline import Pipeline

SYNTHETIC = 160          # built-in lesions: enough to look at, made in a second
PAINTED = ("No photographs here: HAM10000 goes to data/ham10000 (data/README.md). Meanwhile these "
           "are lesions that a program paints.")


def all_five(pipeline: Pipeline, data=None, **columns) -> list[Later]:
    """Explorers that are made when they are first shown.

    data: a folder or .npz of photographs, as `open_source` takes it; built-in lesions if there are
        none. Raises DataError for a path that has none.
    columns: image_column and label_column of `open_source`.
    """
    source = open_source(data, SYNTHETIC, pipeline.geometry.side, **columns)
    real = source.kind != "synthetic"
    opened = []

    def dataset() -> Dataset:
        if not opened:                                           # decoded once, when it is needed
            opened.append(Dataset(source, pipeline.geometry))
        return opened[0]

    def photographs() -> Dataset | None:
        return dataset() if real else None

    def codebook():
        if not real:
            return CodebookExplorer(pipeline)
        rows = np.random.default_rng(0).permutation(dataset().splits["validation"])[:IMAGES]
        return CodebookExplorer(pipeline, dataset()[rows], dataset().labels[rows],
                                dataset().classes,
                                note=f"Counted over {len(rows)} validation images.")

    note = "" if real else PAINTED
    return [
        Later(SamplerExplorer, lambda: SamplerExplorer(pipeline, photographs())),
        Later(InpaintingExplorer, lambda: InpaintingExplorer(pipeline)),
        Later(ReconstructionExplorer,
              lambda: ReconstructionExplorer(pipeline, photographs(), note=note)),
        Later(CodebookExplorer, codebook),
        Later(DataExplorer, lambda: DataExplorer(dataset(), note=note)),
    ]
