"""Laws of the sharp look: it adds to the faithful picture, draws the same for the same codes, and trains nothing else."""
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from vqlib.finishing import coded_batches, faithful, train_flow_decoder, ways_to_code
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig, StochasticDecoder, noise_of
from vqlib.train import TrainConfig, read_log

CFG = FlowDecoderConfig(code_dim=4, width=8, layers=1, patch=2, steps=3)
RUN = TrainConfig(steps=30, batch=8, lrs=(1e-2,), save_every=15)


def seen(vqvae, x):
    """What the flow is given of images: code vectors, the faithful picture, and the residual."""
    return faithful(vqvae, x, vqvae.encode(x))


@pytest.fixture
def sharp(vqvae, dataset):
    model = FlowDecoder(CFG)
    model.measure(seen(vqvae, dataset[np.arange(32)])[2])
    with torch.no_grad():
        model.velocity.weight.normal_(generator=torch.Generator().manual_seed(0))
    return model.eval()


def trained(vqvae, dataset, folder=None, stop=None, run=RUN, accumulate=1):
    model = FlowDecoder(CFG)
    for step, _ in train_flow_decoder(model, vqvae, dataset, *ways_to_code(vqvae, dataset, (0, 4)), run, folder, accumulate):
        if step == stop:
            break
    return model


def test_measured_residuals_have_unit_power_along_axes_of_their_own(vqvae, dataset):
    residuals, model = seen(vqvae, dataset[np.arange(32)])[2], FlowDecoder(CFG)
    model.measure(residuals)
    z = torch.einsum("ij,bjhw->bihw", model.unmix, residuals).transpose(0, 1).flatten(1)
    assert torch.allclose(z @ z.T / z.shape[1], torch.eye(3), atol=1e-4)
    assert torch.allclose(model.mix @ model.unmix, torch.eye(3), atol=1e-5)


def test_faithful_picture_and_residual_are_the_image(vqvae, dataset):
    x = dataset[np.arange(8)]
    e, x_hat, residual = seen(vqvae, x)
    assert torch.equal(e, vqvae.quantizer.lookup(vqvae.encode(x)))
    assert torch.allclose(vqvae.denormalise(x_hat).clamp(0, 1), vqvae.decode(vqvae.encode(x)))
    assert torch.allclose(vqvae.denormalise(x_hat) + residual, x, atol=1e-6)


def test_the_same_codes_give_the_same_picture_alone_and_in_a_batch(vqvae, sharp, dataset):
    codes, look = vqvae.encode(dataset[np.arange(6)]), StochasticDecoder(vqvae, sharp)
    together = look.decode(codes)
    assert torch.allclose(look.decode(codes[3:4]), together[3:4], atol=1e-5)
    assert torch.equal(look.decode(codes), together)
    assert (together - vqvae.decode(codes)).abs().amax((1, 2, 3)).min() > 0.01


def test_rare_classes_are_drawn_more_often_with_balance(vqvae, dataset):
    """With codes that say which image they are of: as many of each class at balance 1, as in the data at 0."""
    rows = dataset.splits["train"]
    codes, labels = torch.arange(len(rows))[:, None, None].expand(-1, 1, 16), dataset.labels[rows]
    for balance, expected in ((0.0, torch.bincount(labels) / len(rows)), (1.0, torch.full((7,), 1 / 7))):
        drawn = coded_batches(dataset, codes, [0], replace(RUN, batch=32, balance=balance), 0)
        seen = torch.cat([shown[:, 0, 0] for _, shown, _ in islice(drawn, 60)])
        assert torch.bincount(labels[seen], minlength=7) / len(seen) == pytest.approx(expected, abs=0.03)


def test_noise_is_normal_and_another_for_other_codes_and_seeds():
    codes = torch.arange(32).view(2, 4, 4)
    noise = noise_of(codes, (3, 64, 64))
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert noise.std() == pytest.approx(1, abs=0.03)
    assert torch.equal(noise_of(codes.int(), (3, 64, 64)), noise)     # however the codes are stored
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise_of(codes, (3, 64, 64), seed=1), noise)


def test_a_velocity_that_heads_for_the_residual_gives_back_the_image(vqvae, sharp, dataset):
    x = dataset[np.arange(4)]
    _, _, residual = seen(vqvae, x)
    target = torch.einsum("ij,bjhw->bihw", sharp.unmix, residual)
    sharp.forward = lambda z, t, context: (target - z) / (1 - t.view(-1, 1, 1, 1))
    assert torch.allclose(StochasticDecoder(vqvae, sharp).decode(vqvae.encode(x)), x, atol=1e-4)


def rng(residual, seed=0):
    """Noise and times of a batch."""
    source = torch.Generator().manual_seed(seed)
    return torch.randn(residual.shape, generator=source), torch.rand(len(residual), generator=source)


def test_the_loss_is_zero_for_the_exact_velocity_only(vqvae, sharp, dataset):
    parts = seen(vqvae, dataset[np.arange(4)])
    target = torch.einsum("ij,bjhw->bihw", sharp.unmix, parts[2])
    sharp.forward = lambda z, t, context: (target - z) / (1 - t.view(-1, 1, 1, 1))
    assert sharp.loss(*parts, *rng(parts[2])) == pytest.approx(0, abs=1e-6)
    sharp.forward = lambda z, t, context: torch.zeros_like(z)
    assert sharp.loss(*parts, *rng(parts[2])) == pytest.approx(2, abs=0.8)   # noise and residual


def test_codes_faithful_picture_and_time_all_steer_the_flow(vqvae, sharp, dataset):
    e, x_hat, _ = seen(vqvae, dataset[np.arange(4)])
    context = sharp.context(e, x_hat)
    assert not torch.allclose(sharp.context(e.roll(1, 0), x_hat), context)
    assert not torch.allclose(sharp.context(e, x_hat.roll(1, 0)), context)
    z, early, late = torch.randn_like(x_hat), torch.full((4,), 0.1), torch.full((4,), 0.9)
    assert not torch.allclose(sharp(z, early, context), sharp(z, late, context))


def test_training_lowers_the_loss_and_leaves_the_vqvae_as_it_is(vqvae, dataset):
    before = {k: v.clone() for k, v in vqvae.state_dict().items()}
    parts = seen(vqvae, dataset[dataset.splits["validation"]])

    def held_out(model):
        return float(model.loss(*parts, *rng(parts[2])).detach())

    first, last = trained(vqvae, dataset, run=replace(RUN, steps=1)), trained(vqvae, dataset, run=replace(RUN, steps=120))
    assert held_out(last) < 0.95 * held_out(first)
    assert all(torch.equal(v, before[k]) for k, v in vqvae.state_dict().items())


def test_a_stopped_run_goes_on_to_the_same_end(vqvae, dataset, tmp_path):
    whole = trained(vqvae, dataset, tmp_path / "whole")
    trained(vqvae, dataset, tmp_path / "cut", stop=20)
    again = trained(vqvae, dataset, tmp_path / "cut")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values()))
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "cut")


def test_several_passes_are_one(vqvae, dataset):
    one, four = trained(vqvae, dataset), trained(vqvae, dataset, accumulate=4)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one.state_dict().values(), four.state_dict().values()))


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="steps"):
        FlowDecoderConfig(steps=0)
