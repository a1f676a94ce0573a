"""Explorers: pictures that answer. Plain functions and classes, one view in assets/ for browsers.

    from vqlib import explorers
    explorers.Sampler(load_pipeline(needs=("prior",)))       # in a notebook: shows itself

On one page: python -m vqlib explore.

`data`, `reconstruction`, `codebook`, `sampler` and `inpainting` hold one explorer each; `explorer`
what they share; `widget`, `server` and `static` put them in front of people.
"""
from vqlib.explorers.codebook import CodebookExplorer as Codebook
from vqlib.explorers.data import DataExplorer as Data
from vqlib.explorers.inpainting import InpaintingExplorer as Inpainting
from vqlib.explorers.reconstruction import ReconstructionExplorer as Reconstruction
from vqlib.explorers.sampler import SamplerExplorer as Sampler

__all__ = ["Codebook", "Data", "Inpainting", "Reconstruction", "Sampler"]
