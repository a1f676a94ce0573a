"""Laws of the metrics, with their anchor values."""
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from vqlib import metrics
from vqlib.entropy_constrained import encoder_for
from vqlib.metrics import psnr, report_psnr, ssim
from vqlib.train import encode_dataset, held_out_nats


def images(n=4, side=16, seed=0):
    """(n, 3, S, S) in the 256 values of a file."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 3, side, side), generator=rng).float() / 255


def noisy(x, amount=0.1):
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
    return (x + amount * noise).clamp(0, 1)


def test_a_uniform_error_of_a_fifth_is_13_98_decibels():
    decibels = psnr(torch.full((2, 3, 8, 8), 0.6), torch.full((2, 3, 8, 8), 0.4))
    assert decibels.tolist() == pytest.approx([13.98] * 2, abs=0.01)


def test_equal_images_have_100_decibels_and_similarity_1():
    x = images()
    assert psnr(x, x).tolist() == pytest.approx([100] * 4)
    assert ssim(x, x).tolist() == pytest.approx([1] * 4)


def test_rounding_to_a_file_does_not_count_as_an_error():
    x = images()
    assert psnr(x + 0.4 / 255, x).tolist() == pytest.approx([100] * 4)
    assert psnr(x + 0.6 / 255, x).max() < 60


def test_psnr_agrees_with_scikit_image_on_8_bit_files():
    x = images()
    x_hat = metrics.to_8_bits(noisy(x))
    as_files = [(v * 255).round().byte().numpy() for v in (x, x_hat)]
    expected = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(*as_files)]
    assert psnr(x_hat, x).tolist() == pytest.approx(expected, abs=1e-3)


def test_psnr_is_per_image():
    x = images()
    both = torch.cat([noisy(x[:1], 0.02), noisy(x[1:2], 0.3)])
    assert psnr(both, x[:2])[0] == psnr(both[:1], x[:1])[0] > psnr(both, x[:2])[1] + 10


def test_report_psnr_is_psnr_shifted_by_the_std():
    x, std = images(), torch.full((3,), 0.17)
    x_hat = metrics.to_8_bits(noisy(x))
    shifted = psnr(x_hat, x) + 20 * math.log10(0.17)             # by -15.4 dB
    assert report_psnr(x_hat, x, std).tolist() == pytest.approx(shifted.tolist(), abs=1e-3)


def test_report_psnr_is_the_error_of_normalised_pixels():
    x, std = images(), torch.tensor(metrics.REPORT_STD)
    x_hat = noisy(x)
    mean = torch.rand(3, 1, 1)
    a, b = ((v - mean) / std.view(3, 1, 1) for v in (x_hat, x))
    expected = -10 * (a - b).pow(2).mean((1, 2, 3)).log10()
    assert torch.allclose(report_psnr(x_hat, x, std), expected, atol=1e-3)


def test_similarity_falls_with_noise_and_is_symmetric():
    x = metrics.to_8_bits(images(2, 24).unfold(2, 1, 1)[..., 0].cumsum(-1) / 24)
    little, much = (ssim(noisy(x, a), x) for a in (0.02, 0.2))
    assert (1 > little).all()
    assert (little > much).all()
    assert (much > 0).all()
    y = metrics.to_8_bits(noisy(x, 0.1))
    assert torch.allclose(ssim(y, x), ssim(x, y), atol=1e-6)


# codes --------------------------------------------------------------------------------------------

def test_noise_has_its_energy_at_the_finest_octave_and_flat_blocks_have_none_there():
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert metrics.finest_octave(noise) == pytest.approx(0.75, abs=0.01)
    blocks = torch.nn.functional.interpolate(noise, scale_factor=2)
    assert metrics.finest_octave(blocks) == pytest.approx(0, abs=1e-6)
    assert metrics.finest_octave(3 * noise + 5) == pytest.approx(metrics.finest_octave(noise))
    grain = metrics.finest_octave(blocks + 0.3 * torch.randn(blocks.shape))
    assert 0.75 * 0.09 / 1.09 == pytest.approx(grain, rel=0.05)


def test_a_summary_of_reconstructions_is_the_evaluation(vqvae, dataset):
    found = metrics.reconstruct(vqvae, dataset, "test")
    expected = metrics.evaluate_vqvae(vqvae, dataset, "test")
    assert {"split": "test", **metrics.summary(found, dataset.classes, 16)} == expected


def test_usage_and_perplexity_are_of_the_whole_set_not_of_batches():
    # each image uses one code, the set uses eight
    codes = torch.stack([torch.full((4, 4), k) for k in range(8)])
    assert metrics.usage(codes, 512) == {"codes_used": 8, "perplexity": pytest.approx(8)}
    assert metrics.usage(codes[:1], 512) == {"codes_used": 1, "perplexity": pytest.approx(1)}


def test_a_uniform_prior_costs_ln_K_nats_and_T_log2_K_bits():
    K, T, values = 512, 256, 3 * 128**2
    result = metrics.likelihood(torch.full((5, T), math.log(K)), values)
    assert result == pytest.approx({"nats_per_code": math.log(K), "bits_per_code": 9,
                                    "bits_per_image": T * 9, "bits_per_dim": T * 9 / values})


def test_the_unigram_entropy_of_uniform_codes_is_ln_K():
    codes = torch.arange(16).repeat(100)
    assert metrics.unigram_nats(codes, codes, 16) == pytest.approx(math.log(16))


def test_unigram_nats_are_the_entropy_of_the_frequencies_and_finite_for_unseen_codes():
    train = torch.tensor([0] * 7499 + [1] * 2499)                # 7500 : 2500, one added to each
    held_out = torch.tensor([0, 0, 0, 1])
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert metrics.unigram_nats(train, held_out, 2) == pytest.approx(entropy, rel=1e-6)
    assert metrics.unigram_nats(train, torch.tensor([2]), 3) == pytest.approx(math.log(10_001))


# whole splits -------------------------------------------------------------------------------------

def finite(value):
    if isinstance(value, dict):
        return all(map(finite, value.values()))
    return isinstance(value, (str, int)) or math.isfinite(value)


def test_an_evaluation_is_json_of_finite_numbers(vqvae, gpt, dataset):
    for split in ("train", "validation", "test", "all"):
        result = metrics.evaluate_vqvae(vqvae, dataset, split)
        result |= metrics.evaluate_prior(gpt, vqvae, dataset, split, dataset.classes)
        assert json.loads(json.dumps(result, allow_nan=False)) == result
        assert finite(result)


def test_an_evaluation_is_what_its_images_give_one_by_one(vqvae, dataset):
    rows = dataset.splits["validation"]
    x = dataset[rows]
    x_hat = vqvae.decode(vqvae.encode(x))
    result = metrics.evaluate_vqvae(vqvae, dataset, "validation")
    values = psnr(x_hat, x).double().numpy()
    expected = {"mean": values.mean(), "std": values.std(), "min": values.min()}
    assert result["psnr"] == pytest.approx(expected, rel=1e-4)
    assert result["ssim"]["mean"] == pytest.approx(float(ssim(x_hat, x).mean()))
    assert result["bits_per_image_fixed"] == 16 * 4              # 4 x 4 cells, 16 codes
    assert result["images"] == len(rows)


def test_the_classes_of_an_evaluation_make_up_the_whole(vqvae, dataset):
    result = metrics.evaluate_vqvae(vqvae, dataset, "all")
    classes = result["classes"].values()
    assert sum(c["images"] for c in classes) == result["images"] == len(dataset)
    weighted = sum(c["images"] * c["psnr"]["mean"] for c in classes) / len(dataset)
    assert weighted == pytest.approx(result["psnr"]["mean"], rel=1e-5)
    assert result["psnr"]["min"] == min(c["psnr"]["min"] for c in classes)
    nv = dataset[np.flatnonzero(np.array(dataset.label_names) == "nv")]
    expected = float(psnr(vqvae.decode(vqvae.encode(nv)), nv).mean())
    assert result["classes"]["nv"]["psnr"]["mean"] == pytest.approx(expected)


def test_batches_do_not_change_an_evaluation(vqvae, dataset):
    small, large = (metrics.reconstruct(vqvae, dataset, "all", batch) for batch in (7, 90))
    assert torch.equal(small["codes"], large["codes"])
    assert torch.allclose(small["psnr"], large["psnr"], atol=1e-3)


def test_a_split_without_images_is_refused_by_name(vqvae, dataset, monkeypatch):
    monkeypatch.setitem(dataset.splits, "test", np.array([], dtype=int))
    with pytest.raises(ValueError, match=r"split test of synthetic.*--split all"):
        metrics.evaluate_vqvae(vqvae, dataset, "test")


@torch.no_grad()
def test_a_class_that_the_prior_does_not_know_counts_as_any(vqvae, gpt, dataset):
    codes, labels = encode_dataset(vqvae, dataset, "all")
    classes = ["unknown" if c == "nv" else c for c in dataset.classes]
    labels = torch.where(labels == dataset.classes.index("nv"), 7, labels)
    expected = float(gpt.nats(codes[:, 0].long(), labels).mean())
    result = metrics.evaluate_prior(gpt, vqvae, dataset, "all", classes)
    assert result["nats_per_code"] == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_classes_are_matched_by_name_not_by_number(vqvae, gpt, dataset):
    codes, labels = encode_dataset(vqvae, dataset, "all")
    backwards = dataset.classes[::-1]
    expected = float(gpt.nats(codes[:, 0].long(), 6 - labels).mean())
    result = metrics.evaluate_prior(gpt, vqvae, dataset, "all", backwards)
    assert result["nats_per_code"] == pytest.approx(expected, rel=1e-5)


def test_a_prior_is_evaluated_on_the_codes_that_the_encoder_chooses(vqvae, gpt, dataset):
    plain = metrics.evaluate_prior(gpt, vqvae, dataset, "validation", dataset.classes)
    encoder = encoder_for(vqvae, gpt, 1.0)
    codes, labels = encode_dataset(encoder, dataset, "validation")
    expected = float(held_out_nats(gpt, codes[:, 0], labels).mean())
    result = metrics.evaluate_prior(gpt, encoder, dataset, "validation", dataset.classes)
    assert result["nats_per_code"] == pytest.approx(expected, rel=1e-5)
    assert result["nats_per_code"] < plain["nats_per_code"]
    assert result["psnr"]["mean"] < plain["psnr"]["mean"]        # of the same, costlier codes


@pytest.mark.parametrize("changes", [{"grid": 8}, {"n_codes": 32}])
def test_a_prior_for_other_codes_is_refused(vqvae, gpt, dataset, changes):
    gpt.cfg = replace(gpt.cfg, **changes)
    with pytest.raises(ValueError, match=r"the prior is for .*the VQ-VAE has \(4, 16\)"):
        metrics.evaluate_prior(gpt, vqvae, dataset, "validation", dataset.classes)
