"""Trains the sharp way to look at codes that are already there: encoder, codebook and faithful decoder stay frozen."""
import numpy as np
import torch
from torch import Tensor

from vqdata.augment import Augment
from vqlib.batches import batches
from vqlib.distributed import rank, world
from vqlib.sharp import Sharp
from vqlib.train import Run, Session


@torch.no_grad()
def faithful(vqvae, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (B, 3, H, W) in [0, 1]
    """Code vectors (B, D, h, w), the least-squares picture (normalised), and the residual of images, in [-1, 1]."""
    e = vqvae.quantizer.eval()(vqvae.encoder(vqvae.normalise(images))).e
    x_hat = vqvae.decoder(e)
    return e, x_hat, images - vqvae.undo(x_hat)


def train_sharp(sharp: Sharp, vqvae, dataset, run: Run, cfg: Augment, folder=None, accumulate=1):
    """Yield (step, losses) after each update; the loss is the flow's mean squared velocity error, and starts near 2.

    Residuals of training images are what it learns: the VQ-VAE must not have overfitted, or they are smaller than held-out ones.
    """
    def loss(model, images, noise, t):
        with torch.autocast(images.device.type, enabled=False):       # a residual is a small difference
            parts = faithful(vqvae, images)
        value = model.loss(*parts, noise, t)
        return value, value.detach()[None]

    session = Session(sharp, run, folder, dataset.fingerprint, loss, accumulate)
    if not session.step:
        some = np.random.default_rng(run.seed).permutation(dataset.splits["train"])[:256]
        sharp.measure(faithful(vqvae, dataset[some].to(vqvae.mean.device))[2])
    for images in batches(dataset, "train", run.batch, run.seed, cfg, session.step):
        if session.step >= run.steps:
            break
        sharp.train()
        dice = torch.Generator().manual_seed(run.seed * 1_000_003 + session.step)   # for the whole batch, whoever has which part
        noise, t = torch.randn(run.batch, *images.shape[1:], generator=dice), torch.rand(run.batch, generator=dice)
        mine = [images, *(x.chunk(world())[rank()] for x in (noise, t))]
        parts = zip(*(x.to(vqvae.mean.device, non_blocking=True).chunk(accumulate) for x in mine))
        yield session.end_of_update({"loss": session.update([*parts]).mean()})
    sharp.eval()
