"""Laws of products by convolution, and of freed memory that is kept."""
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import vqlib.backend.cpu
from vqlib.backend.cpu import MANY, MIN_SPEEDUP, Linear, convolutions_pay, gain, keep_pages, linear

# products -----------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def choice(monkeypatch):
    """Chooses how this process multiplies, convolutions at first; any CPU can compute them."""
    def choose(products: str):
        convolutions_pay.cache_clear()
        monkeypatch.setenv("VQLIB_PRODUCTS", products)

    choose("convolution")
    yield choose
    convolutions_pay.cache_clear()


@pytest.fixture
def measured(choice, monkeypatch):
    """Sets what a measurement on a CPU with AVX-512 finds; returns the list of measurements."""
    def find(value):
        made = []
        monkeypatch.setattr(vqlib.backend.cpu, "AVX512", True)
        monkeypatch.setattr(vqlib.backend.cpu, "gain", lambda: made.append(value) or value)
        choice("")
        return made
    return find


def convolved(run) -> bool:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
        run()
    return any("conv" in event.key for event in record.key_averages())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(MANY, 24), (4, MANY // 4, 24), (3, 5, 24), (0, 24)],
                         ids=str)
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


def product():
    return linear(torch.randn(MANY, 24), torch.randn(8, 24))


def test_one_measurement_decides_for_a_process(measured):
    for value, pays in ((MIN_SPEEDUP + 0.5, True), (MIN_SPEEDUP - 0.4, False)):
        made = measured(value)
        assert [convolved(product), convolved(product)] == [pays, pays]
        assert made == [value]


def test_without_avx_512_nothing_is_measured_or_convolved(measured, monkeypatch):
    made = measured(9.0)
    monkeypatch.setattr(vqlib.backend.cpu, "AVX512", False)
    assert not convolved(product)
    assert not made


def test_a_variable_decides_instead_of_a_measurement(measured, choice):
    made = measured(9.0)
    choice("linear")
    assert not convolved(product)
    assert not made
    choice("conv")
    with pytest.raises(ValueError, match="linear or convolution"):
        product()


def test_a_measurement_leaves_no_trace(choice, monkeypatch):
    """Not in a count of operations, nor in the number of threads."""
    monkeypatch.setattr(vqlib.backend.cpu, "AVX512", True)
    choice("")
    threads = torch.get_num_threads()
    with FlopCounterMode(display=False) as counter:
        product()
    assert counter.get_total_flops() == 2 * MANY * 24 * 8
    assert torch.get_num_threads() == threads


def test_the_gain_is_a_ratio_of_two_times():
    assert 0 < gain(turns=1) < 1000


def test_what_is_compiled_has_products():
    compiled = torch.compile(linear, backend="eager", fullgraph=True)
    assert not convolved(lambda: compiled(torch.randn(MANY, 24), torch.randn(8, 24)))


def test_weights_are_named_and_drawn_as_those_of_torch():
    torch.manual_seed(0)
    ours = Linear(24, 8).state_dict()
    torch.manual_seed(0)
    assert all(torch.equal(v, ours[k]) for k, v in torch.nn.Linear(24, 8).state_dict().items())


# pages --------------------------------------------------------------------------------------------

PAGE_FAULTS = """
import resource, torch
from vqlib.backend.cpu import keep_pages
from vqlib.gpt import GPT, GPTConfig
from vqlib.vqvae import VQVAE, VQVAEConfig
keep_pages()
{prepare}
faults = []
for _ in range({rounds}):
    {run}
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(after - before for before, after in zip(faults, faults[1:])))
"""


def page_faults(**script) -> int:
    """Pages that the kernel maps anew in the best round but the first.

    Threads free in any order, so the heap may grow in other rounds. In another process, because
    what `keep_pages` sets stays.
    """
    code = PAGE_FAULTS.format(**script)
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not keep_pages(), reason="another C library")
def test_an_update_lives_on_the_pages_of_the_one_before():
    """Left to itself, glibc asks the kernel for some 2,500 pages in each update."""
    prepare = "model, images = VQVAE(VQVAEConfig()).train(), torch.rand(8, 3, 128, 128)"
    update = ("model(model.normalise(images))[0].square().mean().backward(); "
              "model.quantizer.step()")
    assert page_faults(prepare=prepare, rounds=6, run=update) < 500


@pytest.mark.skipif(not keep_pages(), reason="another C library")
def test_samples_live_on_the_pages_of_those_before():
    """Keys and values are 50 MB. In one block they would be 12,000 pages for each call.

    glibc keeps no block above 32 MB.
    """
    prepare = ("gpt = GPT(GPTConfig(grid=8, n_codes=16, width=32, heads=1, layers=6)); "
               "labels = torch.arange(512) % 7")                 # narrow: much to keep, quick
    assert page_faults(prepare=prepare, rounds=4, run="gpt.generate(labels)") < 500


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_pages() is False
