"""Laws of entropy-constrained encoding: lambda 0 finds the nearest codes, more saves nats."""
import copy

import pytest
import torch
from conftest import loud

from vqlib.entropy_constrained import EntropyConstrainedEncoder, encoder_for
from vqlib.gpt import GPT, GPTConfig
from vqlib.quantizer import as_rows

ANY = 3


@pytest.fixture
def prior():
    return loud(GPT(GPTConfig(grid=4, n_codes=16, n_classes=3, width=16, heads=2, layers=1)))


@pytest.fixture
def images():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def costs(vqvae, prior, images, codes):
    """Squared distances and nats (B, T, K) of every code, by a full pass over the codes chosen."""
    z = vqvae.encoder(vqvae.normalise(images))
    distances = torch.cdist(as_rows(z), vqvae.quantizer.codebook).square().view(len(z), 16, -1)
    ordered = codes.flatten(1)[:, prior.generation_order]
    logits = prior(ordered[:, :-1], torch.full((len(z),), ANY))
    return distances, -logits.log_softmax(-1)[:, prior.generation_order.argsort()]


def of_codes(cost, codes):                                       # (B, T, K), (B, h, w) -> (B, T)
    return cost.gather(2, codes.flatten(1)[..., None])[..., 0]


def test_at_lambda_0_codes_are_the_nearest(vqvae, prior, images):
    encoder = EntropyConstrainedEncoder(vqvae, prior, 0.0)
    assert torch.equal(encoder.encode(images), vqvae.encode(images))


@pytest.mark.parametrize("lambda_", [0.01, 0.3, 3.0])
def test_every_code_is_the_cheapest_given_those_chosen_before(vqvae, prior, images, lambda_):
    codes = EntropyConstrainedEncoder(vqvae, prior, lambda_).encode(images)
    distances, nats = costs(vqvae, prior, images, codes)
    total = distances + lambda_ * nats
    assert (of_codes(total, codes) - total.amin(2)).max() < 1e-4  # ties aside


def test_more_lambda_saves_nats_and_costs_distance(vqvae, prior, images):
    found = []
    for lambda_ in (0.0, 0.1, 1.0, 10.0):
        codes = EntropyConstrainedEncoder(vqvae, prior, lambda_).encode(images)
        both = costs(vqvae, prior, images, codes)
        found.append([float(of_codes(cost, codes).mean()) for cost in both])
    distances, nats = zip(*found)
    assert sorted(distances) == list(distances)
    assert sorted(nats, reverse=True) == list(nats)


def test_without_regard_to_the_image_codes_are_the_priors_own_choice(vqvae, prior, images):
    likeliest = prior.generate(torch.full((len(images),), ANY), top_k=1).view(-1, 4, 4)
    codes = EntropyConstrainedEncoder(vqvae, prior, 1e9).encode(images)
    assert torch.equal(codes, likeliest)


def test_an_image_has_the_same_codes_alone_and_in_a_batch(vqvae, prior, images):
    encoder = EntropyConstrainedEncoder(vqvae, prior, 0.3)
    assert torch.equal(encoder.encode(images)[2:3], encoder.encode(images[2:3]))


def test_encoding_leaves_vqvae_and_prior_as_they_are(vqvae, prior, images):
    models = vqvae.train(), prior.train()
    before = [{name: x.clone() for name, x in m.state_dict().items()} for m in models]
    EntropyConstrainedEncoder(vqvae, prior, 0.3).encode(images)
    for model, expected in zip(models, before):
        assert all(torch.equal(x, expected[name]) for name, x in model.state_dict().items())
    assert vqvae.quantizer.passes == 0


def test_images_of_another_size_are_refused_by_name(vqvae, prior):
    with pytest.raises(ValueError, match=r"4 x 4 codes.*\(2, 3, 24, 16\)"):
        EntropyConstrainedEncoder(vqvae, prior, 1.0).encode(torch.zeros(2, 3, 24, 16))


def test_all_but_encoding_is_the_vqvaes_own(vqvae, prior):
    codes, encoder = torch.arange(16).view(1, 4, 4), EntropyConstrainedEncoder(vqvae, prior, 1.0)
    assert torch.equal(encoder.decode(codes), vqvae.decode(codes))
    assert encoder.cfg is vqvae.cfg
    assert encoder.quantizer is vqvae.quantizer


def test_at_lambda_0_the_encoder_is_the_vqvae_itself(vqvae, prior):
    assert encoder_for(vqvae) is vqvae
    assert encoder_for(vqvae, prior) is vqvae
    assert encoder_for(vqvae, prior, 0.0) is vqvae
    encoder = encoder_for(vqvae, prior, 0.7)
    assert isinstance(encoder, EntropyConstrainedEncoder)
    assert (encoder.vqvae, encoder.prior, encoder.lambda_) == (vqvae, prior, 0.7)


def test_a_copy_encodes_as_the_original_does(vqvae, prior, images):
    encoder = EntropyConstrainedEncoder(vqvae, prior, 0.3)
    assert torch.equal(copy.deepcopy(encoder).encode(images), encoder.encode(images))
