"""Laws of the VQ-VAE."""
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY

from vqlib.metrics import REPORT_MEAN, REPORT_STD
from vqlib.vqvae import VQVAE, VQVAEConfig


def test_decoding_the_codes_is_the_forward_pass(vqvae, dataset):
    x = dataset[np.arange(8)]
    with torch.no_grad():
        x_hat, q = vqvae(vqvae.normalise(x))
    assert torch.equal(vqvae.encode(x), q.codes)
    expected = vqvae.denormalise(x_hat).clamp(0, 1)
    assert torch.allclose(vqvae.decode(vqvae.encode(x)), expected, atol=1e-6)


def test_encoding_during_training_leaves_the_codebook_as_it_is(vqvae, dataset):
    vqvae.train()
    before = {name: x.clone() for name, x in vqvae.state_dict().items()}
    vqvae.encode(dataset[np.arange(8)])
    assert vqvae.quantizer.passes == 0                           # nor does a later step follow it
    assert vqvae.training
    assert vqvae.quantizer.training
    assert all(torch.equal(x, before[name]) for name, x in vqvae.state_dict().items())


def test_normalising_is_undone_channel_by_channel(dataset):
    mean, std = REPORT_MEAN, REPORT_STD
    model, x = VQVAE(TINY, mean, std), dataset[np.arange(8)]
    assert torch.allclose(model.denormalise(model.normalise(x)), x, atol=1e-6)
    assert model.denormalise(torch.zeros(1, 3, 1, 1)).flatten().tolist() == pytest.approx(mean)
    mean_plus_std = (torch.tensor(mean) + torch.tensor(std)).view(1, 3, 1, 1)
    one = model.normalise(mean_plus_std)
    assert one.flatten().tolist() == pytest.approx([1, 1, 1], abs=1e-5)


@pytest.mark.parametrize(("size", "n_down"), [(16, 1), (16, 2), (16, 3), (32, 2)])
def test_the_halvings_set_the_grid_and_are_undone(size, n_down):
    cfg = VQVAEConfig(image_size=size, n_down=n_down, hidden=8, residual_hidden=4, n_codes=16,
                      code_dim=4)
    model = VQVAE(cfg).eval()
    codes = model.encode(torch.rand(2, 3, size, size))
    assert codes.shape == (2, size // 2**n_down, size // 2**n_down) == (2, cfg.grid, cfg.grid)
    assert model.decode(codes).shape == (2, 3, size, size)


def test_a_code_paints_around_its_own_cell_and_nowhere_else(vqvae):
    codes = torch.arange(144).view(1, 12, 12) % TINY.n_codes
    other = codes.clone()
    other[0, 3, 8] += 1 - TINY.n_codes * (int(codes[0, 3, 8]) + 1 == TINY.n_codes)
    change = (vqvae.decode(codes) - vqvae.decode(other)).abs().sum((0, 1))  # (48, 48)
    rows, columns = change.sum(1).nonzero()[:, 0], change.sum(0).nonzero()[:, 0]
    assert float(rows.float().mean()) == pytest.approx(4 * 3.5, abs=2)
    assert float(columns.float().mean()) == pytest.approx(4 * 8.5, abs=2)
    assert max(len(rows), len(columns)) <= 4 * 7                 # 3 cells to each side


def count(net):
    return sum(p.numel() for p in net.parameters())


def conv(a, b, kernel, bias=True):
    """Number of parameters of a convolution from a to b channels."""
    return a * b * kernel**2 + b * bias


def test_the_reports_nets_have_the_published_number_of_parameters():
    residual = 2 * (conv(64, 32, 3, bias=False) + conv(32, 64, 1, bias=False))
    encoder = conv(3, 32, 4) + conv(32, 64, 4) + conv(64, 64, 3) + residual + conv(64, 128, 1)
    decoder = conv(128, 64, 3) + residual + conv(64, 32, 4) + conv(32, 3, 4)
    model = VQVAE(VQVAEConfig())
    assert count(model.encoder) == encoder
    assert count(model.decoder) == decoder
    assert count(model) == encoder + decoder                     # the codebook is a buffer
    assert model.quantizer.codebook.shape == (512, 128)


@pytest.mark.parametrize("n_down", [1, 2, 3])
def test_a_decoder_may_be_wider_than_the_encoder(n_down):
    narrow = VQVAEConfig(image_size=16, n_down=n_down, hidden=8, residual_hidden=4)
    wide = replace(narrow, decoder_hidden=12, decoder_residual_hidden=6)
    same = replace(narrow, decoder_hidden=8, decoder_residual_hidden=4)
    parts = {name: [(len(list(part.parameters())), sum(p.numel() for p in part.parameters()))
                    for part in (VQVAE(cfg).encoder, VQVAE(cfg).decoder)]
             for name, cfg in (("narrow", narrow), ("wide", wide), ("same", same))}
    assert parts["same"] == parts["narrow"]
    assert parts["wide"][0] == parts["narrow"][0]
    assert parts["wide"][1][1] > parts["narrow"][1][1]
    model = VQVAE(wide).eval()
    assert model.decode(model.encode(torch.rand(2, 3, 16, 16))).shape == (2, 3, 16, 16)


def test_one_batch_can_be_overfitted(dataset):
    model, x = VQVAE(TINY, seed=0), dataset[np.arange(4)]
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    x = (x - mean) / std                                         # the mean image's error is 1
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    model.train().quantizer.init_from(model.encoder(x))
    for _ in range(200):
        x_hat, q = model(x)
        loss = F.mse_loss(x_hat, x) + TINY.beta * q.commit
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.quantizer.step()
    with torch.no_grad():
        error = float(F.mse_loss(model.eval()(x)[0], x))
    assert error < 0.2, f"error {error:.3f} after 200 updates"


def test_every_weight_gets_a_gradient(dataset):
    model = VQVAE(TINY).train()
    x_hat, q = model(model.normalise(dataset[np.arange(8)]))
    (x_hat.pow(2).mean() + q.commit).backward()
    without = [name for name, p in model.named_parameters()
               if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_decoded_images_are_in_range(vqvae):
    vqvae.std.fill_(50)                                          # wild values before the clip
    x = vqvae.decode(torch.arange(16).view(1, 4, 4))
    assert x.min() == 0
    assert x.max() == 1


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_rng_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    a, b, c = (VQVAE(TINY, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    weights, others = a.state_dict(), b.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


def test_other_image_sizes_than_the_training_size_can_be_coded(vqvae):
    x = torch.rand(1, 3, 24, 32)
    assert vqvae.decode(vqvae.encode(x)).shape == x.shape


@pytest.mark.parametrize("changes", [{"image_size": 18}, {"n_down": 5},
                                     {"image_size": 100, "n_down": 3}])
def test_a_config_that_does_not_divide_is_refused(changes):
    with pytest.raises(ValueError, match="no multiple"):
        VQVAEConfig(**{"image_size": 16, **changes})


@pytest.mark.parametrize("shape", [(1, 3, 18, 16), (1, 3, 16, 15)])
def test_an_image_that_does_not_divide_is_refused(vqvae, shape):
    with pytest.raises(ValueError, match="multiples of 4"):
        vqvae.encode(torch.rand(shape))


@pytest.mark.parametrize("code", [-1, TINY.n_codes])
def test_codes_that_the_codebook_does_not_have_are_refused(vqvae, code):
    with pytest.raises(IndexError):
        vqvae.decode(torch.full((1, 4, 4), code))
