"""Trains what looks at codes that are already there: the faithful decoder, finished, and the sharp look.

Encoder and codebook stay frozen: priors stay valid. Letters: n images, B of a batch, V ways to code each, T codes per image.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqlib.backend.distributed import rank, world_size
from vqlib.data.augment import dihedral
from vqlib.data.batches import by_class, order
from vqlib.entropy_constrained import EntropyConstrainedEncoder
from vqlib.flow_decoder import FlowDecoder
from vqlib.train import TrainConfig, Trainer, encode_dataset

SHARES = (0, 1 / 3, 1)  # of the priors' rate: from the nearest codes to those that priors learn


def ways_to_code(encoder, dataset, views=(0, 4)) -> tuple[Tensor, list[int]]:
    """Codes (n, V, T) of the training split and the view (V,) that each shows; of a `EntropyConstrainedEncoder` at every share of its rate."""
    by = [encoder]
    if isinstance(encoder, EntropyConstrainedEncoder):
        by = [EntropyConstrainedEncoder(encoder.vqvae, encoder.prior, share * encoder.rate) if share else encoder.vqvae for share in SHARES]
    return torch.cat([encode_dataset(each, dataset, "train", views)[0] for each in by], 1), [*views] * len(by)


def coded_batches(dataset, codes: Tensor, views: list[int], run: TrainConfig, start: int):
    """Yield this rank's images (B, 3, C, C) and codes (B, h, w) for ever, and rng for what else the batch needs."""
    rows, side = dataset.splits["train"], round(codes.shape[-1] ** 0.5)
    weights = by_class(dataset.labels[rows], run.balance)
    for step, picks in order(len(rows), run.batch, run.seed, start, weights):
        rng = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
        ways = torch.randint(len(views), (run.batch,), generator=rng).numpy()
        picks, ways = (np.array_split(x, world_size())[rank()] for x in (picks, ways))
        images = torch.stack([dihedral(x, views[way]) for x, way in zip(dataset[rows[picks]], ways)])
        yield images, codes[picks, ways].long().view(-1, side, side), rng


def updates(session: Trainer, batches, name: str, accumulate: int, also=lambda images, rng: ()):
    """Yield (step, losses) after each update on `coded_batches` and what `also` draws for them; `name` is the loss's."""
    for images, codes, rng in batches:
        if session.step >= session.run.steps:
            break
        session.model.train()
        mine = images, codes, *also(images, rng)
        parts = zip(*(x.to(session.device, non_blocking=True).chunk(accumulate) for x in mine))
        yield session.end_of_update({name: session.update([*parts]).mean()})
    session.model.eval()


def train_decoder(vqvae, dataset, codes: Tensor, views: list[int], run: TrainConfig, folder=None, accumulate=1):
    """Yield (step, losses) after each update of the decoder; recon is 1 for the mean image. See `ways_to_code`."""
    def loss(model, images, codes):                                   # (b, 3, H, W) in [0, 1], (b, h, w)
        recon = F.mse_loss(model.decoder(model.quantizer.lookup(codes)), model.normalise(images))
        return recon, recon.detach()[None]

    vqvae.encoder.requires_grad_(False)
    session = Trainer(vqvae, run, folder, dataset.fingerprint, loss, accumulate)
    yield from updates(session, coded_batches(dataset, codes, views, run, session.step), "recon", accumulate)
    vqvae.encoder.requires_grad_(True)


@torch.no_grad()
def faithful(vqvae, images: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # (B, 3, H, W) in [0, 1], (B, h, w)
    """Code vectors (B, D, h, w), the least-squares picture (normalised), and the residual of images, in [-1, 1]."""
    e = vqvae.quantizer.lookup(codes)
    x_hat = vqvae.decoder(e)
    return e, x_hat, images - vqvae.denormalise(x_hat)


def train_flow_decoder(sharp: FlowDecoder, vqvae, dataset, codes: Tensor, views: list[int], run: TrainConfig, folder=None, accumulate=1):
    """Yield (step, losses) after each update; the loss is the flow's mean squared velocity error, and starts near 2.

    See `ways_to_code`. It learns residuals of training images: if the VQ-VAE overfitted, they are smaller than held-out ones.
    """
    def loss(model, images, codes, noise, t):
        with torch.autocast(images.device.type, enabled=False):       # a residual is a small difference
            parts = faithful(vqvae, images, codes)
        value = model.loss(*parts, noise, t)
        return value, value.detach()[None]

    def also(images, rng):                                           # for the whole batch, whoever has which part
        drawn = torch.randn(run.batch, *images.shape[1:], generator=rng), torch.rand(run.batch, generator=rng)
        return [x.chunk(world_size())[rank()] for x in drawn]

    session = Trainer(sharp, run, folder, dataset.fingerprint, loss, accumulate)
    if not session.step:
        images, some, _ = next(coded_batches(dataset, codes, views, TrainConfig(1, batch=256, seed=run.seed), 0))
        sharp.measure(faithful(vqvae.eval(), images.to(session.device), some.to(session.device))[2])
    yield from updates(session, coded_batches(dataset, codes, views, run, session.step), "loss", accumulate, also)
