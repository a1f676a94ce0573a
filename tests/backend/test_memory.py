"""Laws of what is done with freed memory."""
import subprocess
import sys

import pytest
from vqlib.backend.memory import keep_pages

FAULTS = """
import resource, torch
from vqlib.backend.memory import keep_pages
from vqlib.gpt import GPT, GPTConfig
from vqlib.vqvae import VQVAE, VQVAEConfig
keep_pages()
{prepare}
faults = []
for _ in range({rounds}):
    {run}
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(min(b - a for a, b in zip(faults, faults[1:])))
"""


def faults(**script) -> int:
    """Pages that the kernel maps anew in the thriftiest round but the first: threads free in any order, so the heap may grow
    in others. In another process, because what `keep_pages` sets stays."""
    done = subprocess.run([sys.executable, "-c", FAULTS.format(**script)], check=True, capture_output=True, text=True)
    return int(done.stdout)


@pytest.mark.skipif(not keep_pages(), reason="another C library")
def test_an_update_lives_on_the_pages_of_the_one_before():
    """Left to itself, glibc asks the kernel for some 2,500 pages in each update."""
    assert faults(prepare="model, images = VQVAE(VQVAEConfig()).train(), torch.rand(8, 3, 128, 128)", rounds=6,
                  run="model(model.normalise(images))[0].square().mean().backward()") < 500


@pytest.mark.skipif(not keep_pages(), reason="another C library")
def test_samples_live_on_the_pages_of_those_before():
    """Keys and values of 50 MB, which in one block would be 12,000 pages for each call: glibc keeps none above 32 MB."""
    assert faults(prepare="gpt, labels = GPT(GPTConfig(kv_heads=4)), torch.arange(32) % 7", rounds=6,
                  run="gpt.generate(labels)") < 500


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_pages() is False
