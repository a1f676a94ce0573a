"""Laws of the prior's coder: a file decodes to its codes, and is as long as its likelihood says."""
import pytest
import torch

from vqlib.evaluation import arithmetic_coder as coder
from vqlib.gpt import GPT, GPTConfig, Sampler

queue = pytest.importorskip("constriction").stream.queue


def decompress(prior, blobs, labels):                                 # (n,) -> (n, T)
    """The codes of blobs that `compress` wrote, on the machine that wrote them, in their order."""
    codes = []
    for start in range(0, len(blobs), coder.BATCH):
        batch = slice(start, start + coder.BATCH)
        codes.append(decompress_batch(prior, blobs[batch], labels[batch]))
    return torch.cat(codes)


def decompress_batch(prior, blobs, labels):                           # (n,), n <= BATCH -> (n, T)
    n, T = len(blobs), prior.cfg.grid**2
    decoders = [queue.RangeDecoder(coder.to_words(blob)) for blob in blobs]
    codes = torch.empty(n, T, dtype=torch.long)
    sampler, chosen = Sampler(prior, coder.filled(labels)), None
    for cell in prior.generation_order.tolist():
        models = coder.categorical_models(sampler.step(chosen)[:n])
        read = [decoder.decode(model) for decoder, model in zip(decoders, models)]
        codes[:, cell] = torch.tensor(read)
        chosen = coder.filled(codes[:, cell])
    return codes


def test_steps_are_the_priors_own_predictions(gpt, codes):
    c, labels = codes
    step = Sampler(gpt, labels).step
    predicted = [step(None)] + [step(c[:, t]) for t in range(15)]
    with torch.no_grad():
        assert torch.allclose(torch.stack(predicted, 1), gpt(c[:, :-1], labels), atol=1e-4)


@pytest.fixture
def blobs(gpt, codes):
    return coder.compress(gpt, *codes)


def test_codes_come_back_exactly(gpt, codes, blobs):
    assert torch.equal(decompress(gpt, blobs, codes[1]), codes[0])


def test_batches_of_any_size_come_back(gpt):
    labels = torch.arange(19) % 8
    c = gpt.generate(labels, seed=1)
    assert torch.equal(decompress(gpt, coder.compress(gpt, c, labels), labels), c)


def test_a_wrong_label_decodes_to_other_codes(gpt, codes, blobs):
    assert not torch.equal(decompress(gpt, blobs, (codes[1] + 1) % 7), codes[0])


def test_a_file_is_as_long_as_its_nll():
    prior = GPT(GPTConfig(grid=16, n_codes=64, width=16, heads=2, layers=1)).eval()
    labels = torch.zeros(4, dtype=torch.long)
    c = prior.generate(labels)
    with torch.no_grad():
        nats = prior.nats(c, labels)
    coded = coder.coded_bytes(prior, c, labels, nats)
    assert coded["nll_bytes"] == pytest.approx(256 * 6 / 8, rel=0.02)
    assert 0 <= coded["overhead_bits"] <= 40 + 0.001 * 256 * 6       # the coder's last word


def test_an_impossible_code_can_be_written():
    models = coder.categorical_models(torch.tensor([[1000.0, -1000.0, 0.0]]))
    encoder = queue.RangeEncoder()
    encoder.encode(1, models[0])
    blob = coder.to_bytes(encoder.get_compressed())
    assert queue.RangeDecoder(coder.to_words(blob)).decode(models[0]) == 1
