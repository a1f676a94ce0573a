"""Laws of the alternative quantizers: they are what their papers say."""
import math

import pytest
import torch
import torch.nn.functional as F

from vqlib.quantizer import Quantizer
from vqlib.studies.quantizers import RotationQuantizer, ScalarQuantizer, UnitQuantizer, rotated


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(q, z):
    """After initialisation and one update on z; training mode."""
    q.train().init_from(z)
    q(z)
    q.step()
    return q


def every_scalar_code():
    """(z, codes) such that z (2, 3, 16, 16) has each of the 512 codes of 8 x 8 x 8 once."""
    codes = torch.arange(512).view(2, 16, 16)
    half, offset = 7 * (1 - 1e-3) / 2, 0.5
    inside = 0.97 * (ScalarQuantizer(512, 3).lookup(codes) * 4 + offset) / half  # rounding: 4, -4
    return torch.atanh(inside) - math.tan(offset / half), codes  # the inverse of `bound`


def test_every_scalar_code_is_reached_and_comes_back():
    q, (z, codes) = ScalarQuantizer(512, 3), every_scalar_code()
    e = q.lookup(codes)
    assert len(e.movedim(1, -1).reshape(-1, 3).unique(dim=0)) == 512
    assert e.min() == -1
    assert e.max() == 0.75                                       # eight levels have no middle
    back = q(z)
    assert torch.equal(back.codes, codes)
    assert torch.equal(q.encode(z), codes)
    assert torch.allclose(back.e, e)
    assert q.step() == pytest.approx(512, rel=1e-4)


def test_scalar_perplexity_is_that_of_all_codes_since_the_last_step():
    q, (z, _) = ScalarQuantizer(512, 3), every_scalar_code()
    for part in z.split(1):                                      # two passes, one update
        q(part)
    q.eval()(z[:1])                                              # evaluation is not counted
    assert q.step() == pytest.approx(512, rel=1e-4)
    q.train()(z[:1])
    assert q.step() == pytest.approx(256, rel=1e-4)
    assert q.steps == 2
    assert q.resets == 0


def test_scalar_codes_stay_in_range_and_the_gradient_passes_the_rounding():
    q, z = ScalarQuantizer(25, 2), (10 * normal(2, 2, 8, 8)).requires_grad_()
    quantized = q(z)
    assert 0 <= quantized.codes.min()
    assert quantized.codes.max() < 25
    assert torch.allclose(q.lookup(quantized.codes), quantized.e)
    quantized.e.sum().backward()
    same_z = z.detach().requires_grad_()
    without_rounding = (q.bound(same_z) / (q.levels // 2)).sum()
    assert torch.allclose(z.grad, torch.autograd.grad(without_rounding, same_z)[0])


@pytest.mark.parametrize("kind", [UnitQuantizer, RotationQuantizer])
def test_an_alternative_takes_the_nearest_code_and_returns_it_unchanged(kind):
    q = trained(kind(16, 6, seed=1), normal(4, 6, 8, 8))
    z = normal(2, 6, 4, 4, seed=2)
    quantized = q.eval()(z)
    assert torch.equal(q.encode(z), quantized.codes)
    assert torch.allclose(quantized.e, q.lookup(quantized.codes), atol=1e-5)
    rows = (F.normalize(z, dim=1) if kind is UnitQuantizer else z).movedim(1, -1).reshape(-1, 6)
    assert torch.equal(quantized.codes.flatten(), torch.cdist(rows, q.codebook).argmin(1))


def test_unit_codes_keep_their_length_through_initialisation_updates_and_resets():
    q = UnitQuantizer(16, 6, decay=0.5, reset_threshold=0.5).train()
    assert torch.allclose(q.codebook.norm(dim=1), torch.ones(16), atol=1e-5)
    q.init_from(normal(4, 6, 8, 8) + 9)
    for step in range(12):
        assert torch.allclose(q.codebook.norm(dim=1), torch.ones(16), atol=1e-5)
        side = 9 if step < 4 else -9                             # then most codes are far away
        q(normal(4, 6, 8, 8, seed=step) + side)
        q.step()
    assert torch.allclose(q.codebook.norm(dim=1), torch.ones(16), atol=1e-5)
    assert q.resets > 0


def test_the_rotation_trick_gives_the_same_codes_and_trains_the_same_codebook():
    first = normal(4, 6, 8, 8)
    plain, turned = (trained(kind(16, 6, seed=1), first) for kind in (Quantizer, RotationQuantizer))
    for step in range(3):
        a, b = (q(normal(4, 6, 8, 8, seed=step)) for q in (plain, turned))
        assert torch.equal(a.codes, b.codes)
        assert torch.allclose(a.e, b.e, atol=1e-5)
        assert torch.equal(plain.step(), turned.step())
    assert torch.equal(plain.codebook, turned.codebook)


def test_its_gradient_is_turned_and_stretched_like_z():
    z = normal(1, 3, 1, 1).requires_grad_()
    e, g = normal(1, 3, 1, 1, seed=1), normal(1, 3, 1, 1, seed=2)
    rotated(z, e).backward(g)
    a, b = (F.normalize(v.detach().flatten(), dim=0) for v in (z, e))
    cross = torch.linalg.cross(a, b)                             # Rodrigues' formula
    K = torch.linalg.cross(torch.eye(3), cross.expand(3, 3)).T * -1
    R = torch.eye(3) + K + K @ K / (1 + a @ b)
    assert torch.allclose(R @ a, b, atol=1e-5)
    stretch = e.norm() / z.detach().norm()
    assert torch.allclose(z.grad.flatten(), stretch * (R.T @ g.flatten()), atol=1e-5)
