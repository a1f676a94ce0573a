"""Ours against what others wrote independently; needs the extra `bench`, else skipped."""
import pytest
import torch

from vqlib.gpt import draw
from vqlib.quantizer import Quantizer


def test_codes_and_moving_averages_are_those_of_vector_quantize_pytorch():
    peer = pytest.importorskip("vector_quantize_pytorch", reason="pip install 'vqlib[bench]'")
    K, D = 24, 6
    ours = Quantizer(K, D, decay=0.9, reset_threshold=0.0).train()
    theirs = peer.VectorQuantize(D, K, decay=0.9, eps=1e-12, rotation_trick=False,
                                 threshold_ema_dead_code=0, accept_image_fmap=True).train()
    book = theirs._codebook
    for buffer, value in ((book.embed, ours.codebook), (book.embed_avg, ours.ema_sum)):
        buffer.data.copy_(value[None])
    book.cluster_size.data.copy_(ours.ema_count[None])
    for step in range(8):
        z = torch.randn(4, D, 5, 5, generator=torch.Generator().manual_seed(step))
        found, (e, codes, _) = ours(z), theirs(z)
        assert torch.equal(found.codes, codes), step
        torch.testing.assert_close(found.e, e)
        ours.step()
        picked = codes.flatten().bincount(minlength=K) > 0       # theirs shrinks the others
        torch.testing.assert_close(ours.codebook[picked], book.embed[0][picked])


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [
    (1.0, 0, 1.0), (0.7, 0, 1.0), (1.3, 5, 1.0), (1.0, 0, 0.8), (0.9, 12, 0.6), (1.0, 1, 1.0)])
def test_draws_follow_the_distribution_of_transformers(temperature, top_k, top_p):
    """Their filters give the probabilities, ours are counted over 40,000 draws."""
    peer = pytest.importorskip("transformers", reason="pip install 'vqlib[bench]'")
    logits = 2 * torch.randn(1, 30, generator=torch.Generator().manual_seed(7))
    expected = peer.TemperatureLogitsWarper(temperature)(None, logits.clone())
    if top_k:
        expected = peer.TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = peer.TopPLogitsWarper(top_p)(None, expected)
    n, rng = 40_000, torch.Generator().manual_seed(0)
    drawn = draw(logits.expand(n, -1), temperature, top_k, top_p, rng)
    share = drawn.bincount(minlength=30) / n
    p = expected.softmax(-1)[0]
    assert torch.equal(share > 0, (share > 0) & (p > 0))         # nothing else is ever drawn
    assert (share - p).abs().max() < 4 * 0.5 / n**0.5            # four standard deviations
