"""Laws of thrifty codes: rate 0 finds the nearest, more rate costs distance and saves nats, and nothing else changes."""
import pytest
import torch
from conftest import loud

from vqlib.entropy_constrained import EntropyConstrainedEncoder, encoder
from vqlib.gpt import GPT, GPTConfig
from vqlib.quantizer import as_rows


@pytest.fixture
def prior():
    return loud(GPT(GPTConfig(grid=4, n_codes=16, n_classes=3, width=16, heads=2, layers=1))).eval()


@pytest.fixture
def images():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def costs(vqvae, prior, images, codes):
    """Squared distances and nats of every code, (B, T, K), by a full pass over the codes that were chosen."""
    z = vqvae.encoder(vqvae.normalise(images))
    far = torch.cdist(as_rows(z), vqvae.quantizer.codebook).square().view(len(z), 16, -1)
    drawn = codes.flatten(1)[:, prior.generation_order]
    logits = prior(drawn[:, :-1], torch.full((len(z),), 3))
    return far, -logits.log_softmax(-1)[:, prior.generation_order.argsort()]


def test_at_rate_0_codes_are_the_nearest(vqvae, prior, images):
    assert torch.equal(EntropyConstrainedEncoder(vqvae, prior, 0.0).encode(images), vqvae.encode(images))


@pytest.mark.parametrize("rate", [0.01, 0.3, 3.0])
def test_every_code_is_the_cheapest_given_those_chosen_before(vqvae, prior, images, rate):
    codes = EntropyConstrainedEncoder(vqvae, prior, rate).encode(images)
    far, nats = costs(vqvae, prior, images, codes)
    total = far + rate * nats
    chosen = total.gather(2, codes.flatten(1)[..., None])[..., 0]
    assert (chosen - total.amin(2)).max() < 1e-4                      # ties aside


def test_more_rate_saves_nats_and_costs_distance(vqvae, prior, images):
    found = []
    for rate in (0.0, 0.1, 1.0, 10.0):
        codes = EntropyConstrainedEncoder(vqvae, prior, rate).encode(images)
        found.append([float(x.gather(2, codes.flatten(1)[..., None]).mean()) for x in costs(vqvae, prior, images, codes)])
    distances, nats = zip(*found)
    assert sorted(distances) == list(distances)
    assert sorted(nats, reverse=True) == list(nats)


def test_without_regard_to_the_image_codes_are_the_priors_own_choice(vqvae, prior, images):
    greedy = prior.generate(torch.full((len(images),), 3), top_k=1).view(-1, 4, 4)
    assert torch.equal(EntropyConstrainedEncoder(vqvae, prior, 1e9).encode(images), greedy)


def test_an_image_has_the_same_codes_alone_and_in_a_batch(vqvae, prior, images):
    thrifty = EntropyConstrainedEncoder(vqvae, prior, 0.3)
    assert torch.equal(thrifty.encode(images)[2:3], thrifty.encode(images[2:3]))


def test_images_of_another_size_are_refused_by_name(vqvae, prior):
    with pytest.raises(ValueError, match=r"4 x 4 codes.*\(2, 3, 24, 16\)"):
        EntropyConstrainedEncoder(vqvae, prior, 1.0).encode(torch.zeros(2, 3, 24, 16))


def test_it_decodes_as_its_vqvae_does(vqvae, prior):
    codes = torch.arange(16).view(1, 4, 4)
    assert torch.equal(EntropyConstrainedEncoder(vqvae, prior, 1.0).decode(codes), vqvae.decode(codes))


def test_a_prior_says_at_which_rate_its_codes_are_found(vqvae, prior):
    assert encoder(vqvae, None) is vqvae
    assert encoder(vqvae, prior) is vqvae
    prior.cfg = GPTConfig(grid=4, n_codes=16, n_classes=3, rate=0.7)
    assert encoder(vqvae, prior).rate == 0.7
    assert encoder(vqvae, prior, 0.0) is vqvae
