"""Training loops as generators: the library trains; the caller watches, plots, stops.

Each yielded (step, losses) is one update of the model. What all loops share is in `Trainer`; each
loop below reads as its algorithm does.
"""
import copy
import math
import warnings
from dataclasses import asdict
from itertools import count
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlib.backend.device import ahead, to_device
from vqlib.backend.distributed import all_reduce_mean, my_part, rank, world_size
from vqlib.data.augment import Augment, dihedral
from vqlib.data.batches import batches, class_weights, shuffled_indices
from vqlib.data.dataset import in_chunks
from vqlib.flow_decoder import assert_decodes
from vqlib.identity import digest, picture_filter, weights_digest
from vqlib.runs import read_log as read_log
from vqlib.trainer import TrainConfig, Trainer

COLLAPSED = 0.1  # share of the codes that a batch could use
WARNED = {}      # what Python remembers of warnings that were shown


def train_vqvae(model, dataset, config: TrainConfig, augment: Augment, variance=1.0,
                folder=None, accumulate=1):
    """Yield (step, losses) after each update; losses are detached tensors.

    recon: mean squared error of normalised pixels divided by `variance`. With 1.0, the variance of
        exactly those pixels, the mean image scores 1. The report divided by 0.0487, the variance
        of pixels in [0, 1].
    commit, perplexity: of the whole batch, on all ranks.
    Raises ValueError for images of another size than the model's or of one colour, and if the batch
    does not divide by ranks and passes; FileError if the folder is another run's or in use;
    FloatingPointError if loss, gradient or weights are no numbers.
    """
    def loss(model, images):                                     # (b, 3, H, W) in [0, 1]
        x = model.normalise(images)
        x_hat, quantized = model(x)
        recon = F.mse_loss(x_hat, x) / variance
        objective = recon + model.cfg.beta * quantized.commit
        return objective, {"recon": recon, "commit": quantized.commit}

    assert_trains_on(model, dataset)
    learns_from = {"data": dataset.fingerprint, "augmentation": asdict(augment),
                   "variance": float(f"{variance:.9g}")}         # other CPUs add up otherwise
    with Trainer(model, config, folder, learns_from, loss, accumulate,
                 lambda: picture_filter(dataset, dataset.splits["train"])) as trainer:
        for images in batches(dataset, "train", config.batch, config.seed, augment, trainer.step,
                              config.class_balance):
            if trainer.done:
                break
            model.train()                                        # the caller may have evaluated
            images = to_device(images, trainer.device)           # (B, 3, H, W)
            if model.cfg.data_init and model.quantizer.steps == 0:
                with trainer.precision:
                    z = encode_continuous(model, images.chunk(accumulate))
                model.quantizer.init_from(z)
            losses = trainer.update([(part,) for part in images.chunk(accumulate)])
            losses["perplexity"] = model.quantizer.step()
            if trainer.step % 500 == 0 or (trainer.done and trainer.step >= 100):
                warn_of_collapse(trainer, losses["perplexity"])
            yield trainer.end_of_update(losses, resets=model.quantizer.resets)
    model.eval()


def assert_trains_on(vqvae, dataset) -> None:
    """Raises ValueError for images of another size than the VQ-VAE's, or of one colour."""
    if vqvae.cfg.image_size != dataset.geometry.crop:
        raise ValueError(f"the VQ-VAE is for images of {vqvae.cfg.image_size} px, the data has "
                         f"{dataset.geometry.crop}: choose the preset whose geometry is meant")
    if not (vqvae.std > 0).all():
        raise ValueError(f"a colour channel of {dataset.title} is the same everywhere (standard "
                         f"deviations {vqvae.std.flatten().tolist()}): there is nothing to learn")


def warn_of_collapse(trainer: Trainer, perplexity: Tensor) -> None:
    """Warn, once a run, if hardly any code is in use."""
    cfg = trainer.model.cfg
    most = min(cfg.n_codes, trainer.config.batch * cfg.grid**2)  # a batch has no more
    if perplexity < COLLAPSED * most:
        text = (f"{trainer.run.name}: the codebook has collapsed, a batch uses fewer than "
                f"{COLLAPSED * most:.0f} of {cfg.n_codes} codes. See data_init and reset_threshold "
                "of VQVAEConfig, and notebook 2")
        # once for each text, and without the path of this file
        warnings.warn_explicit(text, UserWarning, "vqlib", 1, registry=WARNED)


@torch.no_grad()
def encode_continuous(vqvae, parts) -> Tensor:                   # (b, 3, H, W) each
    """Encoder outputs (B, D, h, w) before quantization."""
    return torch.cat([vqvae.encoder(vqvae.normalise(images)) for images in parts])


class Codes(NamedTuple("Codes", [("codes", Tensor), ("labels", Tensor)])):
    """Codes (n, V, T) int16 of V augmentations of n images, and their labels (n,).

    made_of: whose codes, of which images, for the identity of a prior. pictures: the images'
    filter, see vqlib.identity.
    """

    def __new__(cls, codes: Tensor, labels: Tensor, made_of: dict, pictures: dict):
        coded = super().__new__(cls, codes, labels)
        coded.made_of, coded.pictures = made_of, pictures
        return coded


@torch.no_grad()
def encode_dataset(encoder, dataset, split: str, augmentations=(0,), batch=128) -> Codes:
    """Codes of augmentations of a split's images, and labels.

    augmentations: which of the eight flips and quarter turns, see `dihedral`; 0 is the image.
    """
    rows, parts = dataset.splits[split], []
    for chunk in in_chunks(rows, batch):
        x = dataset[chunk].to(encoder.mean.device)
        codes = [encoder.encode(dihedral(x, k)).flatten(1) for k in augmentations]
        parts.append(torch.stack(codes, 1).short().cpu())        # (B, V, T)
    made_of = {"vqvae": weights_digest(encoder), "data": dataset.fingerprint, "split": split,
               "augmentations": list(augmentations)}
    if hasattr(encoder, "lambda_"):                              # entropy-constrained
        made_of |= {"lambda": encoder.lambda_, "prior": weights_digest(encoder.prior)}
    return Codes(torch.cat(parts), dataset.labels[rows], made_of, picture_filter(dataset, rows))


@torch.no_grad()
def held_out_nats(prior, codes: Tensor, labels: Tensor, batch=64) -> Tensor:  # (n, T), (n,)
    """-log p of every code, (n, T), in eval mode, on the CPU."""
    prior.eval()
    device, nats = prior.head.weight.device, []
    for some, y in zip(codes.split(batch), labels.split(batch)):
        nats.append(prior.nats(some.long().to(device), y.to(device)).cpu())
    return torch.cat(nats)


def train_prior(prior, train, held_out, config: TrainConfig, folder=None, fingerprint="",
                accumulate=1):
    """Yield (step, losses) after each update.

    train: codes (n, V, T) and labels (n,); held_out: codes (m, V, T), of which augmentation 0 is
        scored, and labels (m,). Labels are in 0..n_classes; the last means "any class".
    Every `config.eval_every` updates losses also have `train` and `held_out`: nats per code in
    eval mode, on as many images. The weights of the best held-out evaluation are kept in the end;
    the run ends early after `config.patience` evaluations without a gain.
    fingerprint: of the data, for codes that `encode_dataset` did not make. Raises ValueError if a
    rank has no held-out image or codes are not the prior's; other errors as `train_vqvae`.
    """
    n = min(config.eval_images, len(train[0]), len(held_out[0]))
    if n < world_size():
        raise ValueError(f"{n} held-out images for {world_size()} ranks: there is nothing to score")
    assert_codes_of(prior, train, held_out)
    scored = {"train": evaluation_part(*train, n, config.seed),
              "held_out": evaluation_part(*held_out, n, config.seed)}
    learns_from = origin_of_codes(train, held_out, fingerprint)
    with Trainer(prior, config, folder, learns_from, prior_loss, accumulate,
                 lambda: getattr(train, "pictures", {})) as trainer:
        best = trainer.extra.setdefault("best", {"held_out": math.inf, "step": 0,
                                                 "weights": copy.deepcopy(prior.state_dict())})
        patience = config.patience * config.eval_every or math.inf
        for parts in prior_batches(*train, config, trainer, accumulate):
            if trainer.done or trainer.step - best["step"] >= patience:
                break
            prior.train()
            losses = trainer.update(parts)
            if trainer.step % config.eval_every == 0 or trainer.done:
                for name, part in scored.items():
                    losses[name] = all_reduce_mean(held_out_nats(prior, *part).mean())
                if losses["held_out"] < best["held_out"]:
                    best.update(held_out=float(losses["held_out"]), step=trainer.step,
                                weights=copy.deepcopy(prior.state_dict()))
            yield trainer.end_of_update(losses)
        trainer.save_if_unsaved()                                # an early stop is an end, too
        if best["step"]:
            prior.load_state_dict(best["weights"])
    prior.eval()


def assert_codes_of(prior, *sets) -> None:
    """Raises ValueError if grid, codes or classes of (codes, labels) are not the prior's.

    The label n_classes is allowed: a prior can be trained on images of "any class" alone.
    """
    T, K = prior.cfg.grid**2, prior.cfg.n_codes
    for codes, labels in sets:
        if codes.shape[2] != T or int(codes.max()) >= K:
            raise ValueError(f"the prior is for {T} codes in 0..{K - 1}, given are "
                             f"{codes.shape[2]} in 0..{int(codes.max())}: take the prior's own "
                             "VQ-VAE")
        if int(labels.max()) > getattr(prior.cfg, "n_classes", math.inf):
            raise ValueError(f"the prior knows {prior.cfg.n_classes} classes, the data has "
                             f"{int(labels.max()) + 1}")


def origin_of_codes(train, held_out, fingerprint: str) -> dict:
    """What a prior learns from, as its identity says it."""
    sets = {"codes": train, "held-out codes": held_out}
    if not all(isinstance(coded, Codes) for coded in sets.values()):
        return {"data": fingerprint, **{name: digest({"codes": coded[0], "labels": coded[1]})
                                        for name, coded in sets.items()}}
    origin = {name: dict(coded.made_of) for name, coded in sets.items()}
    for shared in ("vqvae", "data"):                             # what both have in common
        first, second = (origin[name].pop(shared) for name in sets)
        if first != second:
            raise ValueError(f"held-out codes are of another {shared} than the training codes")
        origin[shared] = first
    return origin


def prior_loss(prior, codes, labels, rng, dropout_seed):         # (b, T), (b,)
    """A prior's own loss; dropout, too, depends on seed, step and part only."""
    with torch.random.fork_rng(devices=[codes.device] if codes.is_cuda else []):
        torch.manual_seed(dropout_seed)                          # of all devices
        nats = prior.loss(codes, labels, rng)
    return nats, {"loss": nats}


def prior_batches(codes, labels, config: TrainConfig, trainer: Trainer, accumulate: int):
    """Yield this rank's parts of each batch for ever: arguments of `prior_loss`.

    codes (n, V, T): of each image one augmentation is drawn.
    """
    weights = class_weights(labels, config.class_balance)
    batch, start = config.batch, trainer.step
    codes, labels = codes.to(trainer.device), labels.to(trainer.device)
    n = batch // (world_size() * accumulate)                     # images per part
    for step, picks in shuffled_indices(len(codes), batch, config.seed, start, weights):
        chosen = torch.randint(codes.shape[1], (batch,), generator=config.rng(step))
        parts = []
        for part in range(rank() * accumulate, (rank() + 1) * accumulate):
            own = slice(part * n, (part + 1) * n)
            images = torch.as_tensor(picks[own]).to(codes.device, non_blocking=True)
            augmentation = chosen[own].to(codes.device, non_blocking=True)
            # a whole batch would draw its augmentations, then a number per image (see the losses):
            # this part goes on where the one before it ends
            rng = config.rng(step)
            torch.randint(codes.shape[1], (batch,), generator=rng)
            torch.rand(part * n, generator=rng)
            dropout_seed = rng.initial_seed() + (part << 40)
            parts.append((codes[images, augmentation].long(), labels[images], rng, dropout_seed))
        yield parts


def evaluation_part(codes: Tensor, labels: Tensor, n: int, seed: int):  # (N, V, T), (N,)
    """This rank's share of n images that are scored during training: codes (m, T), labels (m,).

    They are drawn at random, because files are sorted by class.
    """
    some = torch.randperm(len(codes), generator=torch.Generator().manual_seed(seed))[:n]
    some = some[: n - n % world_size()][rank() :: world_size()]
    return codes[some, 0], labels[some]


def train_flow_decoder(flow_decoder, vqvae, dataset, config: TrainConfig, augment: Augment,
                       folder=None, accumulate=1):
    """Yield (step, losses) after each update; the VQ-VAE stays as it is.

    loss: the flow's mean squared velocity error, see `FlowDecoder.loss`. It learns residuals of
    training images: if the VQ-VAE overfitted, they are smaller than those of held-out images.
    Raises ValueError if images, VQ-VAE and flow decoder do not fit each other; other errors as
    `train_vqvae`.
    """
    def loss(model, images, noise, t):                           # (b, 3, H, W) twice, (b,)
        with torch.autocast(images.device.type, enabled=False):  # a residual is a small difference
            e, x_hat, residual = least_squares(vqvae, images)
        value = model.loss(e, x_hat, residual, noise, t)
        return value, {"loss": value}

    def drawn(batch, start):
        return batches(dataset, "train", batch, config.seed, augment, start, config.class_balance)

    assert_trains_on(vqvae, dataset)
    assert_decodes(flow_decoder, vqvae)
    learns_from = {"data": dataset.fingerprint, "augmentation": asdict(augment),
                   "vqvae": weights_digest(vqvae.eval())}
    with Trainer(flow_decoder, config, folder, learns_from, loss, accumulate,
                 lambda: picture_filter(dataset, dataset.splits["train"])) as trainer:
        if trainer.step == 0:
            some = next(drawn(16 * world_size() * max(1, 16 // world_size()), start=0))  # about 256
            residuals = [least_squares(vqvae, x.to(trainer.device))[2] for x in some.split(16)]
            flow_decoder.fit_units(torch.cat(residuals))
        chances = noise_and_times(config, dataset.geometry.crop, trainer.step)
        if trainer.device.type == "cuda":                        # which would wait for the draws
            chances = ahead(chances)
        for images, (noise, t) in zip(drawn(config.batch, trainer.step), chances):
            if trainer.done:
                break
            flow_decoder.train()
            batch = [to_device(x, trainer.device) for x in (images, noise, t)]
            losses = trainer.update([*zip(*(x.chunk(accumulate) for x in batch))])
            yield trainer.end_of_update(losses)
    flow_decoder.eval()


def noise_and_times(config: TrainConfig, side: int, start: int):
    """Yield this rank's noise (b, 3, side, side) and times (b,) in [0, 1) of update after update.

    Drawn on the CPU, so that a seed gives the same ones on every device.
    """
    for step in count(start):
        rng = config.rng(step + (1 << 40))                       # not those of the augmentation
        noise = my_part(torch.randn(config.batch, 3, side, side, generator=rng))
        yield noise, my_part(torch.rand(config.batch, generator=rng))


@torch.no_grad()
def least_squares(vqvae, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the VQ-VAE makes of images (B, 3, H, W) in [0, 1].

    Code vectors (B, D, h, w), the least-squares image x_hat (normalised, not clipped), and the
    residual images - denormalised x_hat.
    """
    e = vqvae.quantizer.lookup(vqvae.encode(images))
    x_hat = vqvae.decoder(e)
    return e, x_hat, images - vqvae.denormalise(x_hat)
