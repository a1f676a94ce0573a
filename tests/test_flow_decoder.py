"""Laws of the flow decoder: it adds a residual that is drawn, and its training moves it alone."""
from dataclasses import replace

import numpy as np
import pytest
import torch

import vqlib.train
from vqlib.data.augment import Augment
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig, StochasticDecoder, noise_of
from vqlib.train import TrainConfig, least_squares, read_log, train_flow_decoder

CFG = FlowDecoderConfig(code_dim=4, width=8, layers=1, patch=2, steps=3)
RUN = TrainConfig(steps=30, batch=8, lrs=(1e-2,), save_every=15)
AUGMENT = Augment(dihedral=True, rotate=0.0)
UNCHANGED = Augment(flip=0.0, rotate=0.0)


@pytest.fixture
def flow_decoder(vqvae, dataset):
    """A flow decoder with the units of the data and random weights; eval mode."""
    model = FlowDecoder(CFG)
    model.fit_units(least_squares(vqvae, dataset[np.arange(32)])[2])
    with torch.no_grad():
        model.residual.weight.normal_(generator=torch.Generator().manual_seed(0))
    return model.eval()


def state(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def trained(vqvae, dataset, folder=None, stop=None, config=RUN, augment=AUGMENT, accumulate=1):
    """A flow decoder after its training, or after update `stop`."""
    model = FlowDecoder(CFG)
    loop = train_flow_decoder(model, vqvae, dataset, config, augment, folder, accumulate)
    for step, _ in loop:
        if step == stop:
            break
    return model


# units --------------------------------------------------------------------------------------------

def test_residuals_have_unit_power_along_three_axes_of_their_own(vqvae, dataset):
    residuals, model = least_squares(vqvae, dataset[np.arange(32)])[2], FlowDecoder(CFG)
    model.fit_units(residuals)
    z = torch.einsum("ij,bjhw->bihw", model.to_unit, residuals).transpose(0, 1).flatten(1)
    assert torch.allclose(z @ z.T / z.shape[1], torch.eye(3), atol=1e-4)
    assert torch.allclose(model.from_unit @ model.to_unit, torch.eye(3), atol=1e-5)


def test_training_fits_the_units_to_residuals_of_training_images(vqvae, dataset):
    model = trained(vqvae, dataset, config=replace(RUN, steps=1), augment=UNCHANGED)
    residuals = least_squares(vqvae, dataset[dataset.splits["train"]])[2]
    z = torch.einsum("ij,bjhw->bihw", model.to_unit, residuals).transpose(0, 1).flatten(1)
    assert torch.allclose(z @ z.T / z.shape[1], torch.eye(3), atol=0.1)  # of a sample of them


# decoding -----------------------------------------------------------------------------------------

def test_least_squares_image_and_residual_are_the_image(vqvae, dataset):
    x = dataset[np.arange(8)]
    e, x_hat, residual = least_squares(vqvae, x)
    assert torch.equal(e, vqvae.quantizer.lookup(vqvae.encode(x)))
    assert torch.allclose(vqvae.denormalise(x_hat).clamp(0, 1), vqvae.decode(vqvae.encode(x)))
    assert torch.allclose(vqvae.denormalise(x_hat) + residual, x, atol=1e-6)


def test_the_same_codes_give_the_same_image_alone_and_in_a_batch(vqvae, flow_decoder, dataset):
    codes, decoder = vqvae.encode(dataset[np.arange(6)]), StochasticDecoder(vqvae, flow_decoder)
    together = decoder.decode(codes)
    assert torch.allclose(decoder.decode(codes[3:4]), together[3:4], atol=1e-5)
    assert torch.equal(decoder.decode(codes), together)
    assert (together - vqvae.decode(codes)).abs().amax((1, 2, 3)).min() > 0.01


def test_another_seed_draws_another_residual_in_range(vqvae, flow_decoder, dataset):
    codes = vqvae.encode(dataset[np.arange(6)])
    a, b = (StochasticDecoder(vqvae, flow_decoder, seed).decode(codes) for seed in (0, 1))
    assert (a - b).abs().amax((1, 2, 3)).min() > 0.01
    assert min(a.min(), b.min()) >= 0
    assert max(a.max(), b.max()) <= 1


def test_noise_is_normal_and_another_for_other_codes_and_seeds():
    codes = torch.arange(32).view(2, 4, 4)
    noise = noise_of(codes, (3, 64, 64))
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert noise.std() == pytest.approx(1, abs=0.03)
    assert torch.equal(noise_of(codes.int(), (3, 64, 64)), noise)  # however the codes are stored
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise_of(codes, (3, 64, 64), seed=1), noise)


def exact_velocity(target):
    """The velocity of straight lines that end at the target."""
    def forward(x, t, context):
        return (target - x) / (1 - t.view(-1, 1, 1, 1))
    return forward


def test_a_velocity_that_heads_for_the_residual_gives_back_the_image(vqvae, flow_decoder, dataset):
    x = dataset[np.arange(4)]
    residual = least_squares(vqvae, x)[2]
    target = torch.einsum("ij,bjhw->bihw", flow_decoder.to_unit, residual)
    flow_decoder.forward = exact_velocity(target)
    decoded = StochasticDecoder(vqvae, flow_decoder).decode(vqvae.encode(x))
    assert torch.allclose(decoded, x, atol=1e-4)


# training -----------------------------------------------------------------------------------------

def noise_and_times(residual, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(residual.shape, generator=rng), torch.rand(len(residual), generator=rng)


def test_the_loss_is_zero_for_the_exact_velocity_only(vqvae, flow_decoder, dataset):
    parts = least_squares(vqvae, dataset[np.arange(4)])
    drawn = noise_and_times(parts[2])
    target = torch.einsum("ij,bjhw->bihw", flow_decoder.to_unit, parts[2])
    flow_decoder.forward = exact_velocity(target)
    assert flow_decoder.loss(*parts, *drawn) == pytest.approx(0, abs=1e-6)
    flow_decoder.forward = lambda x, t, context: torch.zeros_like(x)
    assert flow_decoder.loss(*parts, *drawn) == pytest.approx(2, abs=0.8)  # noise and residual


def test_a_fresh_flow_decoder_adds_nothing_whatever_the_noise(vqvae, dataset):
    """It predicts a residual of 0, and the last step ends on what is predicted."""
    model = FlowDecoder(CFG).eval()
    codes = vqvae.encode(dataset[np.arange(4)])
    decoded = StochasticDecoder(vqvae, model).decode(codes)
    assert torch.allclose(decoded, vqvae.decode(codes), atol=1e-5)


def test_a_decoded_residual_is_the_one_predicted_at_the_last_step(vqvae, flow_decoder, dataset):
    codes, predicted = vqvae.encode(dataset[np.arange(4)]), []
    forward = flow_decoder.forward

    def watched(x, t, context):
        velocity = forward(x, t, context)
        predicted.append(x + (1 - t)[:, None, None, None] * velocity)
        return velocity

    flow_decoder.forward = watched
    decoded = StochasticDecoder(vqvae, flow_decoder).decode(codes)
    residual = torch.einsum("ij,bjhw->bihw", flow_decoder.from_unit, predicted[-1])
    x_hat = vqvae.denormalise(vqvae.decoder(vqvae.quantizer.lookup(codes)))
    assert len(predicted) == CFG.steps
    assert torch.allclose(decoded, (x_hat + residual).clamp(0, 1), atol=1e-5)


def test_codes_least_squares_image_and_time_all_steer_the_flow(vqvae, flow_decoder, dataset):
    e, x_hat, _ = least_squares(vqvae, dataset[np.arange(4)])
    context = flow_decoder.context(e, x_hat)
    assert not torch.allclose(flow_decoder.context(e.roll(1, 0), x_hat), context)
    assert not torch.allclose(flow_decoder.context(e, x_hat.roll(1, 0)), context)
    x, early, late = torch.randn_like(x_hat), torch.full((4,), 0.1), torch.full((4,), 0.9)
    assert not torch.allclose(flow_decoder(x, early, context), flow_decoder(x, late, context))


def test_training_lowers_the_held_out_loss_and_leaves_the_vqvae_as_it_is(vqvae, dataset):
    before = state(vqvae)
    parts = least_squares(vqvae, dataset[dataset.splits["validation"]])

    def held_out(model):
        return float(model.loss(*parts, *noise_and_times(parts[2])).detach())

    first = trained(vqvae, dataset, config=replace(RUN, steps=1))
    last = trained(vqvae.train(), dataset, config=replace(RUN, steps=120))
    assert held_out(last) < 0.95 * held_out(first)
    assert all(torch.equal(x, before[name]) for name, x in vqvae.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in vqvae.parameters())
    assert vqvae.quantizer.passes == 0                           # nor will a later step move it
    assert not last.training


def watched_images(vqvae, dataset, monkeypatch, config, augment):
    """Images (n, 3, C, C) of all updates; residuals belong to the images that were encoded."""
    seen = []

    def watched(vqvae, images):
        seen.append(images)
        return least_squares(vqvae, images)

    monkeypatch.setattr(vqlib.train, "least_squares", watched)
    trained(vqvae, dataset, config=config, augment=augment)
    return torch.cat(seen)[256:]                                 # the first are those of the units


@pytest.mark.parametrize("class_balance", [0.0, 1.0])
def test_rare_classes_are_drawn_more_often_with_class_balance(vqvae, dataset, monkeypatch,
                                                              class_balance):
    """As many images of each class at 1, as many as in the data at 0."""
    config = replace(RUN, steps=60, batch=32, class_balance=class_balance)
    images = watched_images(vqvae, dataset, monkeypatch, config, UNCHANGED)
    rows = dataset.splits["train"]
    label_of = {image.numpy().tobytes(): int(label)
                for image, label in zip(dataset[rows], dataset.labels[rows])}
    labels = torch.tensor([label_of[image.numpy().tobytes()] for image in images])
    in_data = torch.bincount(dataset.labels[rows]) / len(rows)
    expected = torch.full((7,), 1 / 7) if class_balance else in_data
    assert len(labels) == 60 * 32
    assert torch.bincount(labels, minlength=7) / len(labels) == pytest.approx(expected, abs=0.03)


def test_training_takes_augmented_images(vqvae, dataset, monkeypatch):
    plain, turned = (watched_images(vqvae, dataset, monkeypatch, RUN, augment)
                     for augment in (UNCHANGED, AUGMENT))
    assert plain.shape == turned.shape
    differs = (plain != turned).flatten(1).any(1).float().mean()  # of the same images: 7 of 8 turns
    assert float(differs) == pytest.approx(7 / 8, abs=0.08)
    assert torch.allclose(plain.sum((2, 3)), turned.sum((2, 3)), atol=1e-3)


def test_each_update_draws_noise_and_times_of_its_own(vqvae, dataset, monkeypatch):
    noises, times, loss = [], [], FlowDecoder.loss

    def watched_loss(model, e, x_hat, residual, noise, t):
        noises.append(noise)
        times.append(t)
        return loss(model, e, x_hat, residual, noise, t)

    monkeypatch.setattr(FlowDecoder, "loss", watched_loss)
    trained(vqvae, dataset)
    noise, t = torch.stack(noises), torch.stack(times)           # (30, 8, 3, 16, 16), (30, 8)
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)
    assert len(t.unique()) == t.numel()
    assert t.min() >= 0
    assert t.max() < 1
    assert t.mean() == pytest.approx(0.5, abs=0.08)
    assert len(noise.flatten(2)[..., 0].unique()) == t.numel()
    trained(vqvae, dataset, config=replace(RUN, steps=1, seed=1))
    assert not torch.isin(times[30], t).any()                    # another seed draws others


def test_a_stopped_run_goes_on_to_the_same_end(vqvae, dataset, tmp_path):
    whole = state(trained(vqvae, dataset, tmp_path / "whole"))
    trained(vqvae, dataset, tmp_path / "cut", stop=20)
    resumed = state(trained(vqvae, dataset, tmp_path / "cut"))
    assert all(torch.equal(x, resumed[name]) for name, x in whole.items())
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "cut")


def test_several_passes_are_one(vqvae, dataset):
    one, four = state(trained(vqvae, dataset)), state(trained(vqvae, dataset, accumulate=4))
    assert all(torch.allclose(x, four[name], atol=1e-5) for name, x in one.items())


@pytest.mark.parametrize("size", ["width", "layers", "patch", "steps"])
def test_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(ValueError, match=rf"FlowDecoderConfig: {size} 0 must be .* 1\.\."):
        FlowDecoderConfig(**{size: 0})
