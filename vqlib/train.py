"""Training loops as generators: the library trains, the caller watches, plots, stops. Every yielded step is an update."""
import copy
import json
import math
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vqlib.backend.distributed import agree, all_reduce_sum, rank, replicated, world_size
from vqlib.checkpoint import FileError, load_model, load_state, save_state, write_atomically
from vqlib.data.augment import Augment, dihedral
from vqlib.data.batches import batches, by_class, order


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to train."""

    steps: int
    batch: int = 32
    lrs: tuple[float, ...] = (1e-3,)   # held for equal parts of the run, in this order
    cosine: bool = True                # fall from lrs[0] to 2 % of it along a cosine instead
    warmup: int = 0                    # updates of linear rise
    weight_decay: float = 0.0          # of matrices; biases and norms do not decay
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 0.0                  # largest gradient norm; 0: any
    eval_every: int = 500              # updates between held-out evaluations (priors)
    eval_images: int = 512             # held-out images per evaluation
    patience: int = 5                  # evaluations without a gain before the run stops; 0: never
    save_every: int = 500              # updates between checkpoints
    balance: float = 0.0               # images are drawn by (size of their class)^-balance: 0 as in the data, 1 classes alike
    seed: int = 0

    def lr(self, step: int) -> float:
        """Learning rate of update `step`, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        if self.cosine:
            return rise * self.lrs[0] * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))
        return rise * self.lrs[step * len(self.lrs) // self.steps]


class Trainer:
    """Model, optimiser and step of one run, with checkpoints and a JSONL log in `folder` (None: keeps nothing)."""

    def __init__(self, model, run: TrainConfig, folder: Path | None, fingerprint: str, loss, parts: int):
        if run.batch % (world_size() * parts):
            raise ValueError(f"a batch of {run.batch} does not divide by {world_size()} ranks x {parts} passes")
        self.model, self.run, self.folder, self.step = model, run, folder and Path(folder), 0
        groups = [{"params": [p for p in model.parameters() if (p.dim() > 1) == matrix],
                   "weight_decay": run.weight_decay * matrix} for matrix in (True, False)]
        self.optimizer = torch.optim.AdamW(groups, lr=run.lrs[0], betas=run.betas, fused=True)
        self.extra = {}                                               # what a loop wants kept beside the weights
        self.identity = json.loads(json.dumps({"model": asdict(model.cfg), "run": asdict(run), "data": fingerprint}))
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.state_file, self.log_file = self.folder / "state.pt", self.folder / "log.jsonl"
            if self.state_file.exists():
                self.resume()
            elif (finished := self.folder.with_suffix(".safetensors")).exists():
                self.adopt(finished)
            lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
            write_atomically(self.log_file, "".join(s + "\n" for s in lines if json.loads(s)["step"] <= self.step).encode())
        agree(json.dumps([self.identity, self.step, parts]))
        self.loss, self.device = replicated(model, loss), next(model.parameters()).device
        gpu = self.device.type == "cuda"
        self.precision = torch.autocast(self.device.type, torch.bfloat16, enabled=gpu and torch.cuda.is_bf16_supported(False))

    def resume(self):
        state = load_state(self.state_file)
        for part, now in self.identity.items():
            if state["identity"][part] != now:
                raise FileError(f"{self.folder.name}/state.pt was trained with another {part}: {state['identity'][part]}, "
                                f"now {now}. Use another folder, or delete it to start afresh")
        self.model.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.extra = state["step"], state["extra"]

    def adopt(self, finished: Path) -> None:
        """A model file without a checkpoint, such as one that ships, is a finished run if it was trained like this one."""
        model, card = load_model(finished)
        if (card["config"], card.get("run")) == (self.identity["model"], self.identity["run"]):
            self.model.load_state_dict(model.state_dict())
            self.step = self.run.steps

    def update(self, parts: list[tuple]) -> Tensor:
        """One optimiser step on the mean loss of all parts of all ranks; what `loss` says of each part, (parts, values)."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.run.lr(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        said = []
        for i, part in enumerate(parts, 1):
            with self.loss.no_sync() if i < len(parts) and world_size() > 1 else nullcontext():   # ranks exchange gradients once
                with self.precision:
                    loss, values = self.loss(*part)
                (loss / len(parts)).backward()
            said.append(values)
        if self.run.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.run.clip)
        self.optimizer.step()
        self.step += 1
        return all_reduce_sum(torch.stack(said)) / world_size()

    def record(self, **values) -> None:
        """Append one line to the log; stops the run at a loss that is no number, with the last checkpoint kept."""
        line = {"step": self.step, "lr": self.run.lr(self.step - 1), **{k: float(v) for k, v in values.items()}}
        if not all(math.isfinite(v) for v in line.values()):
            raise FloatingPointError(f"update {self.step}: {line}. Lower the learning rate; the last checkpoint is kept")
        if self.folder and rank() == 0:
            with self.log_file.open("a") as f:
                f.write(json.dumps(line) + "\n")

    def end_of_update(self, losses: dict, **also) -> tuple[int, dict]:
        """Log every tenth update, each evaluation and the last; save as often as the run says; (step, losses) to yield."""
        last = self.step == self.run.steps
        if self.step % 10 == 0 or last or "held_out" in losses:
            self.record(**losses, **also)
        if self.step % self.run.save_every == 0 or last:
            self.save()
        return self.step, losses

    def save(self) -> None:
        """Replace the checkpoint; stops the run instead if a weight is no number, with the last checkpoint kept."""
        if self.folder:
            if not all(p.isfinite().all() for p in self.model.parameters()):
                raise FloatingPointError(f"update {self.step}: a weight is no number. Lower the learning rate; "
                                         "the last checkpoint is kept")
            save_state(self.state_file, {"identity": self.identity, "weights": self.model.state_dict(), "step": self.step,
                                         "optimizer": self.optimizer.state_dict(), "extra": self.extra})


def train_vqvae(model, dataset, run: TrainConfig, cfg: Augment, variance=1.0, folder=None, accumulate=1):
    """Yield (step, losses) after each update; losses are detached tensors.

    recon = squared error of normalised pixels / `variance`; with the variance of exactly those pixels (1.0) it is 1
    for the mean image. The report divided by the variance of the un-normalised ones, 0.0487.
    accumulate: passes in which a rank takes its images of a batch, with the result of one.
    """
    def loss(model, images):                                          # (b, 3, H, W) in [0, 1]
        x = model.normalise(images)
        x_hat, q = model(x)
        recon = F.mse_loss(x_hat, x) / variance
        return recon + model.cfg.beta * q.commit, torch.stack([recon.detach(), q.commit.detach(), q.perplexity])

    session = Trainer(model, run, folder, dataset.fingerprint, loss, accumulate)
    model.quantizer.expect(accumulate)
    for images in batches(dataset, "train", run.batch, run.seed, cfg, session.step):
        if session.step >= run.steps:
            break
        model.train()                                                 # the caller may have evaluated since the last step
        parts = images.to(model.mean.device, non_blocking=True).chunk(accumulate)
        if accumulate > 1:                                            # else the forward pass itself sees the whole batch
            with session.precision:
                model.quantizer.survey(model.encoder(model.normalise(x)) for x in parts)
        values = session.update([(x,) for x in parts])                # (parts, 3)
        losses = dict(zip(("recon", "commit"), values.mean(0))) | {"perplexity": values[-1, 2]}  # the last has seen all picks
        yield session.end_of_update(losses, resets=model.quantizer.resets)
    model.eval()


@torch.no_grad()
def encode_dataset(model, dataset, split: str, views=(0,), batch=128) -> tuple[Tensor, Tensor]:
    """Codes (n, V, T) int16 of the given views (see `augment.view`) of a split, and labels (n,)."""
    rows, parts = dataset.splits[split], []
    for chunk in np.array_split(rows, max(1, -(-len(rows) // batch))):
        x = dataset[chunk].to(model.mean.device)
        parts.append(torch.stack([model.encode(dihedral(x, k)).flatten(1) for k in views], 1).short().cpu())
    return torch.cat(parts), dataset.labels[rows]


@torch.no_grad()
def held_out_nats(prior, codes: Tensor, labels: Tensor, batch=64) -> Tensor:  # (n, T), (n,) -> (n, T)
    """-log p of every code, in eval mode, on the CPU."""
    prior.eval()
    device = prior.head.weight.device
    return torch.cat([prior.nats(codes[i : i + batch].long().to(device), labels[i : i + batch].to(device)).cpu()
                      for i in range(0, len(codes), batch)])


def prior_parts(codes, labels, picks, run: TrainConfig, step: int, accumulate: int):
    """This rank's parts of a batch: codes, labels, rng that go on where the part before stops, and a seed for dropout."""
    seed, n = run.seed * 1_000_003 + step, len(picks) // (world_size() * accumulate)
    for part in range(rank() * accumulate, (rank() + 1) * accumulate):
        rng = torch.Generator().manual_seed(seed)
        views = torch.randint(codes.shape[1], (len(picks),), generator=rng)               # one of each image
        torch.rand(part * n, generator=rng)                          # a loss draws one number per image
        i, v = (torch.as_tensor(x)[part * n : (part + 1) * n].to(codes.device, non_blocking=True) for x in (picks, views))
        yield codes[i, v].long(), labels[i], rng, seed + (part << 40)


def train_prior(prior, train, held_out, run: TrainConfig, folder=None, fingerprint="", accumulate=1):
    """Yield (step, losses) after each update; keeps the weights of the best held-out evaluation and stops without gains.

    train: codes (n, V, T) and labels (n,); held_out: codes (m, V, T), of which view 0 is scored, and labels (m,).
    Every `run.eval_every` updates losses also have `train` and `held_out`: nats per code in eval mode, on as many images.
    """
    def loss(prior, codes, labels, rng, seed):
        with torch.random.fork_rng(devices=[]):                       # dropout too depends on (seed, step) only
            torch.manual_seed(seed)
            nats = prior.loss(codes, labels, rng)
        return nats, nats.detach()[None]

    codes, labels = (x.to(prior.head.weight.device) for x in train)
    m = min(run.eval_images, len(held_out[0]), len(codes))
    fixed = {}
    for name, (c, y) in {"train": train, "held_out": held_out}.items():
        some = torch.randperm(len(c), generator=torch.Generator().manual_seed(run.seed))[:m]  # files are sorted by class
        some = some[: m - m % world_size()][rank() :: world_size()]             # each rank scores as many
        fixed[name] = c[some, 0], y[some]
    session = Trainer(prior, run, folder, fingerprint, loss, accumulate)
    best = session.extra.setdefault("best", {"held_out": math.inf, "step": 0, "weights": copy.deepcopy(prior.state_dict())})
    for step, picks in order(len(codes), run.batch, run.seed, session.step, by_class(train[1], run.balance)):
        if session.step >= run.steps or (run.patience and session.step - best["step"] >= run.patience * run.eval_every):
            break
        prior.train()
        losses = {"loss": session.update([*prior_parts(codes, labels, picks, run, step, accumulate)]).mean()}
        if session.step % run.eval_every == 0 or session.step == run.steps:
            losses |= {name: all_reduce_sum(held_out_nats(prior, *part).mean()) / world_size() for name, part in fixed.items()}
            if losses["held_out"] < best["held_out"]:
                best.update(held_out=float(losses["held_out"]), step=session.step, weights=copy.deepcopy(prior.state_dict()))
        yield session.end_of_update(losses)
    session.save()                                                    # an early stop is an end, too
    if best["step"]:
        prior.load_state_dict(best["weights"])
    prior.eval()


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log, oldest first."""
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def watch(loop, steps: int, every=10.0):
    """Pass a training loop through and print a line every `every` seconds: progress that survives nbconvert."""
    start = last = time.time()
    for n, (step, losses) in enumerate(loop, 1):
        yield step, losses
        if (now := time.time()) - last >= every or step == steps:
            last, rate = now, n / (now - start)
            values = "  ".join(f"{k} {float(v):.3f}" for k, v in losses.items())
            print(f"{step:6d}/{steps}  {values}  {rate:.1f} updates/s, {(steps - step) / rate:.0f} s left", flush=True)
