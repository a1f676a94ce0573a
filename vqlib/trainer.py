"""What all training loops share: settings, the schedule, one update, checkpoints and the log."""
import json
import math
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from numbers import Integral, Real

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vqlib.backend.distributed import agree, all_reduce_mean, replicated, world_size
from vqlib.backend.files import FileError
from vqlib.backend.interrupts import Guard
from vqlib.identity import origin_of, plain, sizes_of
from vqlib.runs import Run

FRACTIONS = ("weight_decay", "clip", "class_balance")            # others are whole numbers


def is_number(value, whole=False) -> bool:
    return isinstance(value, Integral if whole else Real) and not isinstance(value, bool)


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

    def __post_init__(self):
        """Raises ValueError that names a setting out of its range."""
        least = {"steps": 0, "batch": 1, "warmup": 0, "weight_decay": 0, "clip": 0, "eval_every": 1,
                 "eval_images": 1, "patience": 0, "save_every": 1, "class_balance": 0, "seed": 0}
        for name, low in least.items():
            value, whole = getattr(self, name), name not in FRACTIONS
            if not is_number(value, whole) or not low <= value < 2**32:  # NaN is in no range
                raise ValueError(f"{name} {value!r} must be in {low}..2**32 - 1"
                                 + ", a whole number" * whole)
        if self.class_balance > 10:                              # weights would be 0 / 0
            raise ValueError(f"class_balance {self.class_balance} must be in 0..10; 1 draws all "
                             "classes equally often")
        for name in ("lrs", "betas"):
            values = getattr(self, name)
            if not isinstance(values, tuple | list) or not all(map(is_number, values)):
                raise ValueError(f"{name} {values!r} must be a tuple of numbers")
        if not self.lrs or not all(0 < lr < math.inf for lr in self.lrs):
            raise ValueError(f"lrs {self.lrs} must be finite and above 0")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must be two numbers in [0, 1)")

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

    `with trainer:` opens the folder and resumes what is there. If the caller breaks off, or
    somebody asks the process to stop, the last complete update is saved.

    loss(model, *part) -> (loss to minimise, {name: value to log}) of one part of a batch.
    learns_from: what decides the result besides the model's sizes and config, ready for JSON. The
    digest of weights that it starts from, if they are not random ones, is in model.origin["init"].
    accumulate: forward passes per update and rank, each on a part of the rank's images. Gradients
    and codebook are those of a single pass; dropout masks are not.
    folder None: nothing is written. pictures(): the training images' filter, see vqlib.identity.
    Raises FileError if the folder is another run's, ValueError if the batch does not divide.
    """

    def __init__(self, model, config: TrainConfig, folder, learns_from: dict, loss, accumulate=1,
                 pictures=dict):
        if config.batch % (world_size() * accumulate):
            raise ValueError(f"a batch of {config.batch} does not divide by {world_size()} ranks "
                             f"x {accumulate} passes")
        self.model, self.config, self.step, self.saved = model, config, 0, -1
        self.optimizer = adamw(model, config)
        self.extra, self.adopted, self.released = {}, {}, False  # extra: a loop's own, kept, too
        initial_weights = {"init": origin_of(model)["init"]} if "init" in origin_of(model) else {}
        self.identity = plain({"model": sizes_of(model), "training": asdict(config),
                               **initial_weights, **learns_from})
        self.pictures, self.accumulate = pictures, accumulate
        self.run, self.guard = Run(folder, self.identity, self.release), Guard(self.stopped)
        self.device = next(model.parameters()).device
        self.checks_gradients = self.device.type == "cpu"        # a GPU would wait to be asked
        half = self.device.type == "cuda" and torch.cuda.is_bf16_supported(False)
        self.precision = torch.autocast(self.device.type, torch.bfloat16, enabled=half)
        self.loss = replicated(model, loss)

    def __enter__(self):
        with ExitStack() as stack:
            stack.enter_context(self.run)
            found = self.resume() or self.adopt()
            agree(json.dumps([self.identity, self.step, self.accumulate]))
            self.run.cut_log(self.step)
            self.model.origin = {}              # set again when the training has finished
            if not found:
                self.save()                                      # so that a rerun starts there
            stack.enter_context(self.guard)
            self.resources = stack.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        with self.resources:                                     # closed whatever happens
            if kind is None:
                pictures = self.adopted.get("pictures") or self.pictures()
                self.model.origin = {"identity": self.identity,
                                     **({"pictures": pictures} if pictures else {}), **self.adopted}
            elif kind is GeneratorExit and not sys.is_finalizing():  # the caller broke off
                self.save_if_unsaved()

    def resume(self) -> bool:
        """Go on from the folder's checkpoint, if there is one."""
        if (state := self.run.state()) is None:
            return False
        try:
            self.model.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise FileError(f"{self.run.name}/state.pt is of another version of vqlib: delete it "
                            "to start afresh") from e
        self.step = self.saved = state["step"]
        self.extra = state["extra"]
        return True

    def adopt(self) -> bool:
        """Take a model file without a checkpoint, such as one that ships, for a finished run."""
        if (model := self.run.load_finished()) is None:
            return False
        self.model.load_state_dict(model.state_dict())
        self.adopted = model.origin
        self.step = self.saved = self.config.steps
        return True

    @property
    def done(self) -> bool:
        return self.step >= self.config.steps

    def update(self, parts: list[tuple]) -> dict[str, Tensor]:
        """One optimiser step on the mean loss of all parts of all ranks; mean values to log.

        Raises FloatingPointError before the step if loss or gradient is no number; on a GPU it is
        `end_of_update` that finds out.
        """
        if self.released:
            raise FileError(f"{self.run.name}/ was opened by another loop: go on with that one")
        self.guard.busy = True                                   # until the end of the update
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
        means = torch.stack(values).mean(0)
        self.limit_gradient(dict(zip(logged, means)))
        self.optimizer.step()
        self.step += 1
        return dict(zip(logged, all_reduce_mean(means)))

    def limit_gradient(self, logged: dict) -> None:
        """Clip the gradient; FloatingPointError with the cause if it is no number."""
        if not (self.checks_gradients or self.config.clip):
            return
        parameters = {name: p for name, p in self.model.named_parameters() if p.grad is not None}
        norm = get_total_norm([p.grad for p in parameters.values()])
        if self.checks_gradients and not norm.isfinite():
            causes = {f"weight {name}": p for name, p in parameters.items()}
            causes |= {f"the loss ({name})": value for name, value in logged.items()}
            causes |= {f"the gradient of {name}": p.grad for name, p in parameters.items()}
            self.give_up(causes, self.step + 1)
        if self.config.clip:
            clip_grads_with_norm_(parameters.values(), self.config.clip, norm)

    def give_up(self, causes: dict[str, Tensor], update: int) -> None:
        """Raises FloatingPointError that names the first of the causes that is no number."""
        wrong = (name for name, x in causes.items() if not torch.as_tensor(x).isfinite().all())
        cause = next(wrong, "the gradient's norm")
        raise FloatingPointError(f"update {update}: {cause} is NaN or infinite. Lower the learning "
                                 "rate; the last checkpoint is kept")

    def end_of_update(self, losses: dict, **also) -> tuple[int, dict]:
        """Log every tenth update, evaluations and the last; save when due; (step, losses)."""
        if self.step % 10 == 0 or self.done or "held_out" in losses:
            self.record(**losses, **also)
        if self.step % self.config.save_every == 0 or self.done:
            self.save()
        self.guard.update_done()                                 # who waited to stop it may do so
        return self.step, losses

    def record(self, **values) -> None:
        """Append a line to the log. Raises FloatingPointError at a value that is no number."""
        line = {"step": self.step, "lr": self.config.lr(self.step - 1)}
        line |= {name: float(value) for name, value in values.items()}
        if not all(math.isfinite(value) for value in line.values()):
            self.give_up(line, self.step)
        self.run.append(line)

    def save(self) -> None:
        """Replace the checkpoint. Raises FloatingPointError if a weight is NaN or infinite."""
        if not self.run.folder:
            return
        weights = self.model.state_dict()
        if not all(w.isfinite().all() for w in weights.values()):
            self.give_up({f"weight {name}": w for name, w in weights.items()}, self.step)
        self.run.save({"step": self.step, "weights": weights,
                       "optimizer": self.optimizer.state_dict(), "extra": self.extra})
        self.saved = self.step

    def save_if_unsaved(self) -> None:
        """Save what was not saved yet, at the end of an update."""
        if self.step > self.saved and not self.guard.busy:
            self.save()

    def stopped(self) -> str:
        """Save for somebody who stops the process, and say so."""
        self.save_if_unsaved()
        kept = "run it again to go on from there" if self.run.folder else "nothing was kept"
        return f"{self.run.name} stopped after update {self.step} of {self.config.steps}: {kept}"

    def release(self) -> None:
        """Another loop of this process takes the folder: save, and do nothing more."""
        if self.guard.busy:
            raise FileError(f"{self.run.name}/ is in use by another thread of this process")
        self.save_if_unsaved()
        self.resources.close()
        self.released = True


def adamw(model, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; only matrices decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay},
              {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lrs[0], betas=config.betas, fused=True)
