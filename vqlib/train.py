"""Training loops as generators: the library trains; the caller watches, plots, stops.

Each yielded (step, losses) is one update of the model. What all loops share is in `Trainer`; each
loop below reads as its algorithm does.
"""
import copy
import json
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vqlib.backend.device import ahead, to_device
from vqlib.backend.distributed import (
    agree,
    all_reduce_mean,
    my_part,
    rank,
    replicated,
    world_size,
)
from vqlib.checkpoint import FileError, load_model, load_state, save_state, write_atomically
from vqlib.data.augment import Augment, dihedral
from vqlib.data.batches import batches, class_weights, shuffled_indices
from vqlib.data.dataset import in_chunks
from vqlib.flow_decoder import assert_decodes


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train. Evaluation, patience and the best weights: priors only."""

    steps: int                         # updates
    batch: int = 32                    # images per update
    lrs: tuple[float, ...] = (1e-3,)   # learning rates, held for equal parts of the run
    cosine: bool = True                # instead fall from lrs[0] to 2 % of it along a cosine
    warmup: int = 0                    # updates of linear rise
    weight_decay: float = 0.0          # of matrices; biases and norms do not decay
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 0.0                  # largest gradient norm; 0: any
    eval_every: int = 500              # updates between held-out evaluations (priors)
    eval_images: int = 512             # held-out images per evaluation
    patience: int = 5                  # evaluations without a gain before the end; 0: never
    save_every: int = 500              # updates between checkpoints
    class_balance: float = 0.0         # draws images by (size of their class)^-class_balance
    seed: int = 0

    def lr(self, step: int) -> float:
        """Learning rate of update `step`, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.cosine:
            fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
            return rise * self.lrs[0] * (0.02 + 0.98 * fall)
        return rise * self.lrs[step * len(self.lrs) // self.steps]

    def rng(self, step: int) -> torch.Generator:
        """The random numbers of update `step`: a resumed run draws what the whole run would."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + step)


class Trainer:
    """Model, optimiser and step of one run, with checkpoints and a log in `folder`.

    loss(model, *part) -> (loss to minimise, {name: value to log}) of one part of a batch.
    accumulate: forward passes per update and rank, each on a part of the rank's images. Gradients
    and codebook are those of a single pass; dropout masks are not.
    folder: None keeps nothing; else the run resumes from what is there.
    Raises FileError if that is another run's, ValueError if the batch does not divide.
    """

    def __init__(self, model, config: TrainConfig, folder, fingerprint: str, loss, accumulate=1):
        if config.batch % (world_size() * accumulate):
            raise ValueError(f"a batch of {config.batch} does not divide by {world_size()} ranks "
                             f"x {accumulate} passes")
        self.model, self.config, self.step = model, config, 0
        self.optimizer = adamw(model, config)
        self.extra = {}                                          # what a loop wants to be kept, too
        identity = {"model sizes": asdict(model.cfg), "training settings": asdict(config),
                    "data": fingerprint}
        self.identity = json.loads(json.dumps(identity))         # as it comes back from a file
        self.folder = folder and Path(folder)
        if self.folder:
            self.open_folder()
        agree(json.dumps([self.identity, self.step, accumulate]))
        self.device = next(model.parameters()).device
        half = self.device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        self.precision = torch.autocast(self.device.type, torch.bfloat16, enabled=half)
        self.loss = replicated(model, loss)

    @property
    def done(self) -> bool:
        return self.step >= self.config.steps

    def update(self, parts: list[tuple]) -> dict[str, Tensor]:
        """One optimiser step on the mean loss of all parts of all ranks; mean values to log."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        values = []
        for i, part in enumerate(parts, 1):
            with self.loss.no_sync() if i < len(parts) and world_size() > 1 else nullcontext():
                with self.precision:
                    loss, logged = self.loss(*part)
                (loss / len(parts)).backward()                   # ranks add gradients at the last
            values.append(torch.stack([v.detach() for v in logged.values()]))
        if self.config.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.step += 1
        return dict(zip(logged, all_reduce_mean(torch.stack(values).mean(0))))

    def end_of_update(self, losses: dict, **also) -> tuple[int, dict]:
        """Log every tenth update, evaluations and the last; save when due; (step, losses)."""
        if self.step % 10 == 0 or self.done or "held_out" in losses:
            self.record(**losses, **also)
        if self.step % self.config.save_every == 0 or self.done:
            self.save()
        return self.step, losses

    def record(self, **values) -> None:
        """Append a line to the log. Raises FloatingPointError at a value that is no number."""
        line = {"step": self.step, "lr": self.config.lr(self.step - 1)}
        line |= {name: float(value) for name, value in values.items()}
        if not all(math.isfinite(value) for value in line.values()):
            raise FloatingPointError(f"update {self.step}: {line}. Lower the learning rate; "
                                     "the last checkpoint is kept")
        if self.folder and rank() == 0:
            with self.log_file.open("a") as f:
                f.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Replace the checkpoint. Raises FloatingPointError if a weight is NaN or infinite."""
        if not self.folder:
            return
        if not all(w.isfinite().all() for w in self.model.state_dict().values()):
            raise FloatingPointError(f"update {self.step}: a weight is no number. Lower the "
                                     "learning rate; the last checkpoint is kept")
        save_state(self.state_file, {
            "identity": self.identity, "step": self.step, "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "extra": self.extra})

    def open_folder(self) -> None:
        """Resume from the folder's checkpoint, or from a finished model file beside it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state_file, self.log_file = self.folder / "state.pt", self.folder / "log.jsonl"
        finished = self.folder.with_name(self.folder.name + ".safetensors")
        if self.state_file.exists():
            self.resume()
        elif finished.exists():
            self.adopt(finished)
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        kept = [line + "\n" for line in lines if json.loads(line)["step"] <= self.step]
        write_atomically(self.log_file, "".join(kept).encode())  # updates that are made again

    def resume(self) -> None:
        state = load_state(self.state_file)
        for part, now in self.identity.items():
            was = state["identity"][part]
            if was != now:
                raise FileError(f"{self.folder.name}/state.pt was made with other {part}: {was}, "
                                f"now {now}. Use another folder, or delete it to start afresh")
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.extra = state["step"], state["extra"]

    def adopt(self, finished: Path) -> None:
        """Take a model file without a checkpoint, such as one that ships, for a finished run.

        It has to be trained as this run would be.
        """
        model, metadata = load_model(finished)
        # a file that is older than a setting was made with that setting's default
        sizes = json.loads(json.dumps(asdict(model.cfg)))
        mine = self.identity["model sizes"], self.identity["training settings"]
        if (sizes, metadata.get("training")) == mine:
            self.model.load_state_dict(model.state_dict())
            self.step = self.config.steps


def adamw(model, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; only matrices decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay},
              {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lrs[0], betas=config.betas, fused=True)


def train_vqvae(model, dataset, config: TrainConfig, augment: Augment, variance=1.0,
                folder=None, accumulate=1):
    """Yield (step, losses) after each update; losses are detached tensors.

    recon: mean squared error of normalised pixels divided by `variance`. With 1.0, the variance of
        exactly those pixels, the mean image scores 1. The report divided by 0.0487, the variance
        of pixels in [0, 1].
    commit, perplexity: of the whole batch, on all ranks.
    """
    def loss(model, images):                                     # (b, 3, H, W) in [0, 1]
        x = model.normalise(images)
        x_hat, quantized = model(x)
        recon = F.mse_loss(x_hat, x) / variance
        objective = recon + model.cfg.beta * quantized.commit
        return objective, {"recon": recon, "commit": quantized.commit}

    trainer = Trainer(model, config, folder, dataset.fingerprint, loss, accumulate)
    for images in batches(dataset, "train", config.batch, config.seed, augment, trainer.step,
                          config.class_balance):
        if trainer.done:
            break
        model.train()                                            # the caller may have evaluated
        images = to_device(images, trainer.device)               # (B, 3, H, W)
        if model.cfg.data_init and model.quantizer.steps == 0:
            with trainer.precision:
                z = encode_continuous(model, images.chunk(accumulate))
            model.quantizer.init_from(z)
        losses = trainer.update([(part,) for part in images.chunk(accumulate)])
        losses["perplexity"] = model.quantizer.step()
        yield trainer.end_of_update(losses, resets=model.quantizer.resets)
    model.eval()


@torch.no_grad()
def encode_continuous(vqvae, parts) -> Tensor:                   # (b, 3, H, W) each
    """Encoder outputs (B, D, h, w) before quantization."""
    return torch.cat([vqvae.encoder(vqvae.normalise(images)) for images in parts])


@torch.no_grad()
def encode_dataset(encoder, dataset, split: str, augmentations=(0,),
                   batch=128) -> tuple[Tensor, Tensor]:
    """Codes (n, V, T) int16 of V augmentations of a split, and labels (n,).

    augmentations: which of the eight flips and quarter turns, see `dihedral`; 0 is the image.
    """
    rows, parts = dataset.splits[split], []
    for chunk in in_chunks(rows, batch):
        x = dataset[chunk].to(encoder.mean.device)
        codes = [encoder.encode(dihedral(x, k)).flatten(1) for k in augmentations]
        parts.append(torch.stack(codes, 1).short().cpu())        # (B, V, T)
    return torch.cat(parts), dataset.labels[rows]


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
        scored, and labels (m,).
    Every `config.eval_every` updates losses also have `train` and `held_out`: nats per code in
    eval mode, on as many images. The weights of the best held-out evaluation are kept in the end;
    the run ends early after `config.patience` evaluations without a gain.
    Raises ValueError if there is no held-out image for each rank.
    """
    n = min(config.eval_images, len(train[0]), len(held_out[0]))
    if n < world_size():
        raise ValueError(f"{n} held-out images for {world_size()} ranks: there is nothing to score")
    scored = {"train": evaluation_part(*train, n, config.seed),
              "held_out": evaluation_part(*held_out, n, config.seed)}
    trainer = Trainer(prior, config, folder, fingerprint, prior_loss, accumulate)
    best = trainer.extra.setdefault("best", {"held_out": math.inf, "step": 0,
                                             "weights": copy.deepcopy(prior.state_dict())})
    patience, start = config.patience * config.eval_every or math.inf, trainer.step
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
    if trainer.step > start:
        trainer.save()                                           # an early stop is an end, too
    if best["step"]:
        prior.load_state_dict(best["weights"])
    prior.eval()


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
    """
    def loss(model, images, noise, t):                           # (b, 3, H, W) twice, (b,)
        with torch.autocast(images.device.type, enabled=False):  # a residual is a small difference
            e, x_hat, residual = least_squares(vqvae, images)
        value = model.loss(e, x_hat, residual, noise, t)
        return value, {"loss": value}

    def drawn(batch, start):
        return batches(dataset, "train", batch, config.seed, augment, start, config.class_balance)

    trainer = Trainer(flow_decoder, config, folder, dataset.fingerprint, loss, accumulate)
    vqvae.eval()
    assert_decodes(flow_decoder, vqvae)
    if trainer.step == 0:
        some = next(drawn(16 * world_size() * max(1, 16 // world_size()), start=0))  # about 256
        residuals = [least_squares(vqvae, x.to(trainer.device))[2] for x in some.split(16)]
        flow_decoder.fit_units(torch.cat(residuals))
    chances = noise_and_times(config, dataset.geometry.crop, trainer.step)
    if trainer.device.type == "cuda":                            # which would wait for the draws
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


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log, oldest first."""
    text = (Path(folder) / "log.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
