"""Finishes a faithful decoder on the codes that it will be shown: thrifty ones, which it has not seen while it was trained.

Encoder and codebook stay frozen, so codes and priors stay valid. Letters: n training images, B images, V ways to code each
(a view of it, coded by one encoder), T codes per image.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqdata.augment import view
from vqlib.batches import order
from vqlib.distributed import rank, world
from vqlib.thrift import Thrifty
from vqlib.train import Run, Session, encode_dataset

SHARES = (0, 1 / 3, 1)  # of the priors' rate: from the nearest codes to those that priors learn


def codes_to_finish_on(guided: Thrifty, dataset, views: tuple[int, ...]) -> tuple[Tensor, list[int]]:
    """Codes (n, V, T) of the training split at every share of the rate, and the view (V,) that each of them shows."""
    by = [Thrifty(guided.vqvae, guided.prior, share * guided.rate) if share else guided.vqvae for share in SHARES]
    return torch.cat([encode_dataset(encoder, dataset, "train", views)[0] for encoder in by], 1), [*views] * len(by)


def train_decoder(vqvae, dataset, codes: Tensor, views: list[int], run: Run, folder=None, accumulate=1):
    """Yield (step, losses) after each update of the decoder; recon is 1 for the mean image. See `codes_to_finish_on`."""
    def loss(model, images, codes):                                   # (b, 3, H, W) in [0, 1], (b, h, w)
        recon = F.mse_loss(model.decoder(model.quantizer.lookup(codes)), model.normalise(images))
        return recon, recon.detach()[None]

    vqvae.encoder.requires_grad_(False)
    session = Session(vqvae, run, folder, dataset.fingerprint, loss, accumulate)
    rows, side = dataset.splits["train"], vqvae.cfg.grid
    for step, picks in order(len(rows), run.batch, run.seed, session.step):
        if session.step >= run.steps:
            break
        vqvae.train()
        ways = torch.randint(len(views), (run.batch,), generator=torch.Generator().manual_seed(run.seed * 1_000_003 + step))
        picks, ways = (np.array_split(x, world())[rank()] for x in (picks, ways.numpy()))  # for this rank
        images = torch.stack([view(x, views[way]) for x, way in zip(dataset[rows[picks]], ways)])
        mine = images, codes[picks, ways].long().view(-1, side, side)
        parts = zip(*(x.to(vqvae.mean.device, non_blocking=True).chunk(accumulate) for x in mine))
        yield session.end_of_update({"recon": session.update([*parts]).mean()})
    vqvae.encoder.requires_grad_(True)
    vqvae.eval()
