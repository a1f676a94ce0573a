"""Laws of the linear codec that ablations compare with: what goes in comes out, bits go where power is, more bits are better."""
import pytest
import torch
import torch.nn.functional as F

from vqlib.studies import transforms
from vqlib.studies.__main__ import TransformBench
from vqlib.studies.rows import TransformRow


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(n, seed=0):
    """Images of 32 px in which neighbouring cells tell much the same."""
    return F.interpolate(draw(n, 3, 4, 4, seed=seed).mul(0.1).add(0.5).clamp(0, 1), (32, 32), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_all_frequencies_give_the_images_back(side):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    there = transforms.analyse(x, side, side)
    assert torch.allclose(transforms.synthesise(there, side, side, 32), x, atol=1e-5)
    assert there.square().sum() == pytest.approx(float(x.square().sum()), rel=1e-5)   # distances are kept, too


def test_few_frequencies_keep_what_is_smooth():
    x = smooth(4)
    error = transforms.synthesise(transforms.analyse(x, 32, 12), 32, 12, 32) - x
    assert error.square().mean() < 0.02 * x.var()


def test_water_filling_spends_all_bits_and_leaves_the_same_error_on_every_axis_that_gets_some():
    power = torch.tensor([9.0, 4.0, 1.0, 0.3, 1e-4]).double()
    rates = transforms.water_filling(power, 5.0)
    assert float(rates.sum()) == pytest.approx(5.0)
    error = power * 2 ** (-2 * rates)
    assert torch.allclose(error[rates > 1e-6], error[0], rtol=1e-6)
    assert (power[rates <= 1e-6] <= error[0] + 1e-9).all()            # the others have less than that to lose


def test_axes_are_dealt_once_each_and_evenly():
    rates = torch.linspace(4, 0.1, 40)
    hands = transforms.deal(rates, 4)
    assert sorted(a for hand in hands for a in hand) == list(range(40))
    load = [float(rates[hand].sum()) for hand in hands]
    assert max(load) - min(load) < 0.15


def test_axes_that_are_worth_nothing_are_left_out():
    assert transforms.deal(torch.tensor([2.0, 0.0, 1.0]), 2) == [[0], [2]]


def test_a_codebook_finds_separate_clusters():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    rows = (centres[:, None] + 0.1 * draw(3, 50, 2)).flatten(0, 1)
    codes = transforms.lloyd(rows, 3, torch.Generator().manual_seed(1))
    assert torch.cdist(centres, codes).amin(1).max() < 0.2


def test_cells_that_share_their_bits_reconstruct_smooth_images_better_and_more_bits_are_better():
    parts = smooth(300), smooth(40, seed=1)
    alone, together = (transforms.figures(*parts, side, 8, 16, 0)["psnr"] for side in (8, 32))
    more = transforms.figures(*parts, 32, 8, 64, 0)
    assert alone + 1 < together
    assert together + 1 < more["psnr"] < more["uncoded"]


def test_a_row_gives_its_figures(dataset):
    figures = TransformBench(dataset, n_codes=8, n_train=30).figures(TransformRow("8", "", 8, 8), seed=0)
    assert 5 < figures["psnr"] < figures["uncoded"]
    assert 0 < figures["ssim"] < 1
