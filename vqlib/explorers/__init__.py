"""Explorers: pictures that answer. Plain Python, and one view in assets/ for browsers.

    explorers.show(explorers.Sampler(load_pipeline(needs=("prior",))))     # in a notebook

On one page: python -m vqlib explore. `data`, `reconstruction`, `codebook`, `sampler` and
`inpainting` hold one explorer each, `explorer` and `drawing` what they share; `widget`, `server`
and `static` put them in front of people.
"""
from vqlib.explorers.codebook import CodebookExplorer as Codebook
from vqlib.explorers.data import DataExplorer as Data
from vqlib.explorers.inpainting import InpaintingExplorer as Inpainting
from vqlib.explorers.reconstruction import ReconstructionExplorer as Reconstruction
from vqlib.explorers.sampler import SamplerExplorer as Sampler

__all__ = ["Codebook", "Data", "Inpainting", "Reconstruction", "Sampler", "show"]


def show(explorer):
    """The explorer as the last line of a cell: a widget, or a picture where nobody can move it."""
    from vqlib.explorers.widget import ExplorerWidget, Still, somebody_there
    return ExplorerWidget(explorer) if somebody_there() else Still(explorer, explorer.opened())
