"""Laws of what is done with freed memory."""
import subprocess
import sys
import textwrap

import pytest

from vqdata.memory import keep_pages

UPDATES = """
    import resource, torch
    from vqdata.memory import keep_pages
    from vqlib.vqvae import VQVAE, VQVAEConfig
    keep_pages()
    model, images, faults = VQVAE(VQVAEConfig()).train(), torch.rand(8, 3, 128, 128), []
    for _ in range(6):
        model(model.normalise(images))[0].square().mean().backward()
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    print(faults[-1] - faults[1])
"""


@pytest.mark.skipif(not keep_pages(), reason="another C library")
def test_an_update_lives_on_the_pages_of_the_one_before():
    """Left to itself, glibc asks the kernel for some 10,000 pages in four updates. What was set stays: in another process."""
    out = subprocess.run([sys.executable, "-c", textwrap.dedent(UPDATES)], check=True, capture_output=True, text=True).stdout
    assert int(out) < 2500


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert keep_pages() is False
