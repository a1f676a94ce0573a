"""Measures of reconstruction, codebook usage and likelihood.

Images are in [0, 1]; every average is the mean over the images of a named split.

Letters: B n images, K codes, T codes per image, D code width.
"""
import math

import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity
from torch import Tensor

from vqlib.data.dataset import in_chunks
from vqlib.identity import assert_learnt_from
from vqlib.quantizer import perplexity
from vqlib.train import held_out_nats

# mean and standard deviation of the report's training pixels in [0, 1]: red, green, blue
REPORT_MEAN, REPORT_STD = (0.6567, 0.3680, 0.3743), (0.1701, 0.1709, 0.1831)


def to_8_bits(x: Tensor) -> Tensor:
    """Round to the 256 values that a file can hold."""
    return (x.clamp(0, 1) * 255).round() / 255


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:                    # (B, 3, H, W) in [0, 1] -> (B,)
    """Decibels per image after rounding x_hat to 8 bits.

    An error of 0.2 everywhere gives 13.98 dB; 100 dB is the cap.
    """
    mse = (to_8_bits(x_hat) - x).pow(2).mean((1, 2, 3))
    return -10 * mse.clamp_min(1e-10).log10()


def report_psnr(x_hat: Tensor, x: Tensor, std: Tensor) -> Tensor:  # (B, 3, H, W) in [0, 1]; (3,)
    """What the report calls PSNR, (B,): of *normalised* pixels, as if their range were 1.

    A standard deviation of 0.17 lowers it by 15 dB.
    """
    error = (x_hat - x) / std.view(1, 3, 1, 1)
    return -10 * error.pow(2).mean((1, 2, 3)).log10()


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:                    # (B, 3, H, W) in [0, 1] -> (B,)
    """Structural similarity, mean over channels; 1 is equal.

    With the Gaussian window of Wang et al. (2004), range 1.
    """
    settings = dict(data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5,
                    use_sample_covariance=False)
    pairs = zip(to_8_bits(x_hat).numpy(), x.numpy())
    return torch.tensor([structural_similarity(a, b, **settings) for a, b in pairs])


@torch.no_grad()
def reconstruct(vqvae, dataset, split: str, batch=128) -> dict:
    """Per image of a split: psnr, report_psnr, ssim, labels (n,) and codes (n, h, w).

    Raises ValueError for a split without images.
    """
    rows, parts = dataset.splits[split], []
    if not len(rows):
        raise ValueError(f"split {split} of {dataset.title} has no image; --split all takes the "
                         "whole folder as a test set")
    for chunk in in_chunks(rows, batch):
        x = dataset[chunk].cpu()                                 # where scikit-image computes
        codes = vqvae.encode(x.to(vqvae.mean.device))
        x_hat = vqvae.decode(codes).cpu()
        parts.append({"psnr": psnr(x_hat, x), "ssim": ssim(x_hat, x),
                      "report_psnr": report_psnr(x_hat, x, vqvae.std.cpu()),
                      "codes": codes.cpu(), "labels": dataset.labels[chunk]})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def usage(codes: Tensor, n_codes: int) -> dict:                  # any shape of indices
    """Codes picked at least once, and perplexity, over all that is given (not per batch)."""
    counts = torch.bincount(codes.flatten(), minlength=n_codes).float()
    return {"codes_used": int((counts > 0).sum()), "perplexity": float(perplexity(counts))}


def spread(values: Tensor) -> dict:
    """Mean, standard deviation and worst of a per-image metric."""
    return {"mean": float(values.mean()), "std": float(values.std(correction=0)),
            "min": float(values.min())}


def evaluate_vqvae(vqvae, dataset, split: str) -> dict:
    """Reconstruction and codebook usage of a split, overall and per class, ready for JSON."""
    found = reconstruct(vqvae, dataset, split)
    return {"split": split, **summary(found, dataset.classes, vqvae.cfg.n_codes)}


def summary(reconstructed: dict, classes: list[str], n_codes: int) -> dict:
    """What `reconstruct` found, overall and per class, ready for JSON."""
    r, of_class = reconstructed, {}
    for label, name in enumerate(classes):
        own = r["labels"] == label
        if own.any():
            of_class[name] = {"images": int(own.sum()), "psnr": spread(r["psnr"][own]),
                              "ssim": spread(r["ssim"][own])}
    return {"images": len(r["psnr"]),
            **{name: spread(r[name]) for name in ("psnr", "ssim", "report_psnr")},
            **usage(r["codes"], n_codes), "n_codes": n_codes,
            "bits_per_image_fixed": r["codes"][0].numel() * math.log2(n_codes),
            "classes": of_class}


def finest_octave(images: Tensor) -> float:                      # (B, 3, H, W)
    """Share of the images' energy at the finest octave: what 2 x 2 px means leave over.

    About 0.75 for white noise, 0 for an image of flat 2 x 2 blocks. A decoder whose share is above
    that of photographs draws grain; one whose share is below blurs.
    """
    coarse = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2)
    around_mean = images - images.mean((2, 3), keepdim=True)
    return float((images - coarse).square().sum() / around_mean.square().sum())


def likelihood(nats: Tensor, n_values: int) -> dict:             # (n, T); 3*H*W
    """Mean negative log-likelihood of held-out codes.

    In nats/code, bits/code, bits/image, and bits per colour value of the image they stand for.
    """
    per_image = nats.double().sum(1).mean() / math.log(2)
    return {"nats_per_code": float(nats.double().mean()),
            "bits_per_code": float(per_image / nats.shape[1]),
            "bits_per_image": float(per_image), "bits_per_dim": float(per_image / n_values)}


def unigram_nats(train: Tensor, held_out: Tensor, n_codes: int) -> float:
    """Nats per held-out code of a model that knows only how often each code occurs in training.

    With add-one smoothing.
    """
    p = torch.bincount(train.flatten().long(), minlength=n_codes).double() + 1
    return float(-(p / p.sum()).log()[held_out.flatten().long()].mean())


def assert_fits(prior, vqvae) -> None:
    """Raises ValueError unless the prior has the VQ-VAE's grid and codes, and learnt from it."""
    mine, theirs = [(cfg.grid, cfg.n_codes) for cfg in (prior.cfg, vqvae.cfg)]
    if mine != theirs:
        raise ValueError(f"the prior is for (grid, codes) = {mine}, the VQ-VAE has {theirs}: take "
                         "the one it was trained on")
    assert_learnt_from(prior, vqvae)


def evaluate_prior(prior, encoder, dataset, split: str, classes: list[str]) -> dict:
    """Likelihood of a split's codes, and PSNR and SSIM of the same codes.

    encoder: a VQ-VAE (nearest codes) or an `EntropyConstrainedEncoder`. classes: the prior's; a
    class that it does not know counts as "any".
    """
    assert_fits(prior, encoder)
    r = reconstruct(encoder, dataset, split)
    known = torch.tensor([classes.index(c) if c in classes else len(classes)
                          for c in dataset.classes])
    codes = r["codes"].flatten(1)                                # (n, T)
    nats = held_out_nats(prior, codes, known[r["labels"]])
    return {"split": split, "images": len(codes), "ln_K": math.log(encoder.cfg.n_codes),
            "psnr": spread(r["psnr"]), "ssim": spread(r["ssim"]),
            **likelihood(nats, 3 * dataset.geometry.crop**2)}
