"""Laws of transform coding: it inverts, bits go where power is, more bits are better."""
import pytest
import torch
import torch.nn.functional as F

from vqlib.studies import transform_coding
from vqlib.studies.transform_study import TransformRow, TransformStudy


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(n, seed=0):
    """(n, 3, 32, 32) images in [0, 1] in which neighbouring cells are much alike."""
    cells = normal(n, 3, 4, 4, seed=seed).mul(0.1).add(0.5).clamp(0, 1)
    return F.interpolate(cells, (32, 32), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("side", [8, 16, 32])
def test_all_frequencies_give_the_images_back(side):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    coefficients = transform_coding.analyse(x, side, side)
    assert torch.allclose(transform_coding.synthesise(coefficients, side, side, 32), x, atol=1e-5)
    energy = float(x.square().sum())                             # distances are kept, too
    assert coefficients.square().sum() == pytest.approx(energy, rel=1e-5)


def test_few_frequencies_keep_what_is_smooth():
    x = smooth(4)
    coefficients = transform_coding.analyse(x, 32, 12)
    error = transform_coding.synthesise(coefficients, 32, 12, 32) - x
    assert error.square().mean() < 0.02 * x.var()


def test_water_filling_spends_all_bits_and_leaves_the_same_error_on_every_axis_that_gets_some():
    power = torch.tensor([9.0, 4.0, 1.0, 0.3, 1e-4]).double()
    rates = transform_coding.water_filling(power, 5.0)
    assert float(rates.sum()) == pytest.approx(5.0)
    error = power * 2 ** (-2 * rates)
    assert torch.allclose(error[rates > 1e-6], error[0], rtol=1e-6)
    assert (power[rates <= 1e-6] <= error[0] + 1e-9).all()       # the others have less to lose


def test_axes_are_split_into_groups_of_equal_bits():
    rates = torch.linspace(4, 0.1, 40)
    groups = transform_coding.split_axes(rates, 4)
    assert sorted(axis for group in groups for axis in group) == list(range(40))
    bits = [float(rates[group].sum()) for group in groups]
    assert max(bits) - min(bits) < 0.15


def test_axes_without_bits_are_left_out():
    assert transform_coding.split_axes(torch.tensor([2.0, 0.0, 1.0]), 2) == [[0], [2]]


def test_a_codebook_finds_separate_clusters():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    rows = (centres[:, None] + 0.1 * normal(3, 50, 2)).flatten(0, 1)
    codes = transform_coding.kmeans(rows, 3, torch.Generator().manual_seed(1))
    assert torch.cdist(centres, codes).amin(1).max() < 0.2


def test_cells_coded_together_reconstruct_smooth_images_better_and_more_bits_are_better():
    images = smooth(300), smooth(40, seed=1)
    alone, together = (transform_coding.measure(*images, side, 8, 16, 0)["psnr"]
                       for side in (8, 32))
    more_bits = transform_coding.measure(*images, 32, 8, 64, 0)
    assert alone + 1 < together
    assert together + 1 < more_bits["psnr"] < more_bits["psnr_uncoded"]


def test_a_row_gives_its_metrics(dataset):
    study = TransformStudy(dataset, n_codes=8, n_train=30)
    measured = study.measure(TransformRow("8", "", 8, 8), seed=0)
    assert 5 < measured["psnr"] < measured["psnr_uncoded"]
    assert 0 < measured["ssim"] < 1
