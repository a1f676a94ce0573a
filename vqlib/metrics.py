"""Figures of merit. Images are in [0, 1]; every average is the mean over images of a named split.

Letters: B n images, K codes, T codes per image, D code width.
"""
import math

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from vqlib.quantizer import perplexity
from vqlib.train import held_out_nats


def to_8_bits(x: Tensor) -> Tensor:
    """Round to the 256 values that a file can hold."""
    return (x.clamp(0, 1) * 255).round() / 255


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:                        # (B, 3, H, W) in [0, 1] -> (B,)
    """Decibels per image after rounding x_hat to 8 bits: an error of 0.2 everywhere gives 13.98 dB; 100 dB is the cap."""
    return -10 * (to_8_bits(x_hat) - x).pow(2).mean((1, 2, 3)).clamp_min(1e-10).log10()


def report_psnr(x_hat: Tensor, x: Tensor, std: Tensor) -> Tensor:    # (B, 3, H, W) in [0, 1]; (3,) -> (B,)
    """The report's figure: of *normalised* pixels, as if their range were 1; a std of 0.17 lowers it by 15 dB."""
    return -10 * ((x_hat - x) / std.view(1, 3, 1, 1)).pow(2).mean((1, 2, 3)).log10()


def ssim(x_hat: Tensor, x: Tensor) -> Tensor:                        # (B, 3, H, W) in [0, 1] -> (B,)
    """Structural similarity with the Gaussian window of Wang et al. (2004), range 1, mean over channels; 1 is equal."""
    settings = dict(data_range=1.0, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
    pairs = zip(to_8_bits(x_hat).numpy(), x.numpy())
    return torch.tensor([structural_similarity(a, b, **settings) for a, b in pairs])


@torch.no_grad()
def reconstruct(vqvae, dataset, split: str, batch=128) -> dict:
    """Per image of a split: psnr, report_psnr, ssim (n,), codes (n, h, w), labels (n,)."""
    device, rows, parts = vqvae.mean.device, dataset.splits[split], []
    if not len(rows):
        raise ValueError(f"split {split} of {dataset.title} has no image; --split all takes the whole folder as a test set")
    for chunk in np.array_split(rows, -(-len(rows) // batch)):
        x = dataset[chunk]
        codes = vqvae.encode(x.to(device))
        x_hat = vqvae.decode(codes).cpu()
        parts.append({"psnr": psnr(x_hat, x), "report_psnr": report_psnr(x_hat, x, vqvae.std.cpu()), "ssim": ssim(x_hat, x),
                      "codes": codes.cpu()})
    return {k: torch.cat([part[k] for part in parts]) for k in parts[0]} | {"labels": dataset.labels[rows]}


def usage(codes: Tensor, n_codes: int) -> dict:                      # any shape of indices
    """Codes picked at least once and perplexity, over everything that is given, not per batch."""
    counts = torch.bincount(codes.flatten(), minlength=n_codes).float()
    return {"codes_used": int((counts > 0).sum()), "perplexity": float(perplexity(counts))}


def spread(values: Tensor) -> dict:
    """Mean, standard deviation and the worst of a per-image figure."""
    return {"mean": float(values.mean()), "std": float(values.std(correction=0)), "min": float(values.min())}


def evaluate_vqvae(vqvae, dataset, split: str) -> dict:
    """Reconstruction and codebook figures of a split, overall and per class, ready for JSON."""
    r = reconstruct(vqvae, dataset, split)
    rate = r["codes"][0].numel() * math.log2(vqvae.cfg.n_codes)
    classes = {c: {"images": int(m.sum()), "psnr": spread(r["psnr"][m]), "ssim": spread(r["ssim"][m])}
               for i, c in enumerate(dataset.classes) if (m := r["labels"] == i).any()}
    return {"split": split, "images": len(r["psnr"]), "psnr": spread(r["psnr"]), "ssim": spread(r["ssim"]),
            "report_psnr": spread(r["report_psnr"]), **usage(r["codes"], vqvae.cfg.n_codes), "n_codes": vqvae.cfg.n_codes,
            "bits_per_image_fixed": rate, "classes": classes}


def likelihood(nats: Tensor, n_values: int) -> dict:                 # (n, T); 3*H*W
    """Mean held-out NLL: nats/code, bits/code, bits/image, and bits per colour value of the image it stands for."""
    per_image = nats.double().sum(1).mean() / math.log(2)
    return {"nats_per_code": float(nats.double().mean()), "bits_per_code": float(per_image / nats.shape[1]),
            "bits_per_image": float(per_image), "bits_per_dim": float(per_image / n_values)}


def unigram_nats(train: Tensor, held_out: Tensor, n_codes: int) -> float:
    """Nats per held-out code of a model that knows only how often each code occurs in training (add-one smoothing)."""
    p = torch.bincount(train.flatten().long(), minlength=n_codes).double() + 1
    return float(-(p / p.sum()).log()[held_out.flatten().long()].mean())


def assert_fits(prior, vqvae) -> None:
    """A prior reads the codes of its own VQ-VAE only; raises ValueError if grid or number of codes differ."""
    mine, theirs = [(c.grid, c.n_codes) for c in (prior.cfg, vqvae.cfg)]
    if mine != theirs:
        raise ValueError(f"the prior is for (grid, codes) = {mine}, the VQ-VAE has {theirs}: take the one it was trained on")


def evaluate_prior(prior, vqvae, dataset, split: str, classes: list[str]) -> dict:
    """Likelihood figures of a split; `classes` are the prior's, and a class it does not know counts as "any".

    PSNR and SSIM are of the codes whose likelihood is told: the VQ-VAE's nearest, or those that a `EntropyConstrainedEncoder` finds.
    """
    assert_fits(prior, vqvae)
    r = reconstruct(vqvae, dataset, split)
    codes, labels = r["codes"].flatten(1), r["labels"]
    known = torch.tensor([classes.index(c) if c in classes else len(classes) for c in dataset.classes])
    nats = held_out_nats(prior, codes, known[labels])
    return {"split": split, "images": len(codes), "ln_K": math.log(vqvae.cfg.n_codes),
            "psnr": spread(r["psnr"]), "ssim": spread(r["ssim"]), **likelihood(nats, 3 * dataset.geometry.crop**2)}
