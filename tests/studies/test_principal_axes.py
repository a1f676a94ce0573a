"""Laws of the principal axes: found are those that a signal was made with."""
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from vqlib.studies.principal_axes import draw, measure


class Rounding:
    """A VQ-VAE with outputs of width 4: the first is wide and rounded, two are always 0."""

    def normalise(self, images):
        return images

    def encoder(self, images):
        zero = torch.zeros_like(images[:, 0])
        return torch.stack([4 * images[:, 0], images[:, 1], zero, zero], 1)

    @property
    def quantizer(self):
        return SimpleNamespace(eval=lambda: self.quantize)

    def quantize(self, z):
        return SimpleNamespace(e=torch.cat([z[:, :1].round(), z[:, 1:]], 1))


@pytest.fixture(scope="module")
def found():
    rng = torch.Generator().manual_seed(0)
    even = torch.randn(400, 1, 1, 1, generator=rng).expand(-1, 1, 8, 8)  # one value per image
    noise = torch.randn(400, 2, 8, 8, generator=rng)
    return measure(Rounding(), torch.cat([even, noise], 1), 2)


def test_variance_and_error_are_those_of_the_signal(found):
    assert found.variance.tolist() == pytest.approx([16, 1], rel=0.2)
    assert found.error.tolist() == pytest.approx([1 / 12, 0], abs=0.02)


def test_neighbours_explain_what_is_even_and_nothing_of_noise(found):
    assert found.explained.tolist() == pytest.approx([1, 0], abs=0.01)


def test_bits_are_those_of_rounding(found):
    assert float(found.bits[0]) == pytest.approx(0.5 * np.log2(16 * 12), abs=0.2)


def test_the_figure_shows_each_axis(found):
    fig, ax = plt.subplots()
    draw(ax, found)
    assert [t.get_text() for t in ax.texts] == ["100%", "0%"]
    plt.close(fig)
