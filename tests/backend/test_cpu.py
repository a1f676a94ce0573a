"""Laws of products by convolution."""
import pytest
import torch
import torch.nn.functional as F

import vqlib.backend.cpu
from vqlib.backend.cpu import MANY, Linear, linear


@pytest.fixture(autouse=True)
def wherever(monkeypatch):
    """The way of CPUs with AVX-512, which any CPU can go."""
    monkeypatch.setattr(vqlib.backend.cpu, "AVX512", True)


def convolved(run) -> bool:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
        run()
    return any("conv" in event.key for event in record.key_averages())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(MANY, 24), (4, MANY // 4, 24), (3, 5, 24), (0, 24)], ids=str)
def test_values_and_gradients_are_those_of_a_product(shape, bias):
    torch.manual_seed(0)
    parts = [torch.randn(shape), torch.randn(40, 24), torch.randn(40) if bias else None]
    results = []
    for product in (linear, F.linear):
        x, w, b = (p if p is None else p.clone().requires_grad_() for p in parts)
        y = product(x, w, b)
        y.pow(2).sum().backward()
        assert y.is_contiguous()
        results.append([y.detach(), x.grad, w.grad, *([b.grad] if bias else [])])
    for ours, expected in zip(*results):
        scale = expected.abs().amax().clamp_min(1) if expected.numel() else 1
        torch.testing.assert_close(ours / scale, expected / scale, rtol=0, atol=1e-5)


def test_rows_need_not_lie_one_after_another():
    x, w = torch.randn(24, 2 * MANY).T[::2], torch.randn(8, 24)
    torch.testing.assert_close(linear(x, w), F.linear(x, w), rtol=1e-5, atol=1e-5)


def test_many_rows_are_convolved_and_a_few_are_not():
    layer = Linear(24, 8)
    assert convolved(lambda: layer(torch.randn(MANY, 24)))
    assert not convolved(lambda: layer(torch.randn(MANY - 1, 24)))


def test_without_avx_512_nothing_is_convolved(monkeypatch):
    monkeypatch.setattr(vqlib.backend.cpu, "AVX512", False)
    assert not convolved(lambda: linear(torch.randn(MANY, 24), torch.randn(8, 24)))


def test_weights_are_named_and_drawn_as_those_of_torch():
    torch.manual_seed(0)
    ours = Linear(24, 8).state_dict()
    torch.manual_seed(0)
    assert all(torch.equal(v, ours[k]) for k, v in torch.nn.Linear(24, 8).state_dict().items())
