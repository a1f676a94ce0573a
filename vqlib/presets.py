"""Every setting of every run, by keyword. `$VQLIB_PRESET` chooses; `quick` is the default.

To change one: `replace(PRESETS["quick"].vqvae, reset_threshold=0)`.
"""
import os
from dataclasses import dataclass, replace

from vqlib.data.augment import Augment
from vqlib.data.decode import Geometry
from vqlib.flow_decoder import FlowDecoderConfig
from vqlib.gpt import GPTConfig
from vqlib.train import TrainConfig
from vqlib.vqvae import VQVAEConfig
from vqlib.windowed_gpt import WindowedGPTConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One way to run the notebooks. A model without settings is not part of the preset."""

    name: str
    geometry: Geometry                        # what is cut out of a file, and its size
    augment: Augment                          # random changes of training images
    vqvae: VQVAEConfig
    vqvae_training: TrainConfig
    prior: GPTConfig | None = None
    prior_training: TrainConfig | None = None
    windowed: WindowedGPTConfig | None = None  # the report's prior, our baseline
    windowed_training: TrainConfig | None = None
    flow_decoder: FlowDecoderConfig | None = None
    flow_decoder_training: TrainConfig | None = None
    prior_augmentations: tuple[int, ...] = (0, 4)  # priors see each image as it is, and mirrored
    divide_by_pixel_variance: bool = False    # the report's slip: its error is of normalised pixels
    limit: int | None = None                  # images of a real data set; None: all
    n_synthetic: int = 3000                   # images of the synthetic data set
    n_samples: int = 32                       # that notebook 5 draws
    n_compared: int = 128                     # images of a set whose features it compares
    baseline_steps: int | None = None         # updates of the baseline VQ-VAE; None: as ours

    @property
    def baseline(self) -> "Preset":
        """The same nets, data and batches with the report's codebook, schedule and loss.

        Under `report`, which has those, the other way round: with data init, resets, a cosine and
        no division.
        """
        steps = self.baseline_steps or self.vqvae_training.steps
        if self.divide_by_pixel_variance:
            vqvae = replace(self.vqvae, data_init=True, reset_threshold=0.02)
            training = replace(self.vqvae_training, cosine=True, steps=steps)
        else:
            vqvae = replace(self.vqvae, data_init=False, reset_threshold=0.0, decay=0.99)
            training = TrainConfig(steps=steps, batch=self.vqvae_training.batch, cosine=False,
                                   seed=self.vqvae_training.seed)
        return replace(self, vqvae=vqvae, vqvae_training=training,
                       divide_by_pixel_variance=not self.divide_by_pixel_variance)


SMOKE_PRIOR = TrainConfig(steps=60, batch=16, lrs=(3e-3,), eval_every=20, eval_images=32)

# Two minutes on two cores. In such a time more updates teach more than more images in each.
QUICK_PRIOR = TrainConfig(
    steps=1_000, batch=8, lrs=(3e-3,), warmup=50, weight_decay=0.05, betas=(0.9, 0.95), clip=1.0,
    eval_every=150, eval_images=128)

# as the report meant it: 600,000 updates (its loop made about 1,200), three learning rates, no
# early stop
REPORT_PRIOR = TrainConfig(
    steps=600_000, batch=128, lrs=(4e-4, 4e-4, 5e-5), cosine=False, weight_decay=0.01,
    eval_every=500, eval_images=200 * 128, patience=0, seed=1337)

FLAGSHIP_PRIOR = replace(QUICK_PRIOR, steps=6_000, batch=16, lrs=(2e-3,), warmup=200,
                         eval_every=500, eval_images=460, save_every=250, class_balance=0.5)

# A codebook that follows its vectors ten times as fast as the report's (decay 0.9 in VQVAEConfig)
# bears three times the learning rate, and finds dead codes within 50 updates instead of 180.
FAST = TrainConfig(steps=0, batch=16, lrs=(3e-3,), warmup=50, betas=(0.9, 0.99))

QUARTER_TURNS = Augment(dihedral=True, rotate=0.0)  # skin has no up; exact, unlike a rotation

ALL = (
    Preset(
        name="smoke",
        geometry=Geometry(crop=32, resize=32),
        augment=Augment(),
        vqvae=VQVAEConfig(image_size=32, n_codes=64, hidden=32, residual_hidden=16, code_dim=32),
        vqvae_training=TrainConfig(steps=150, batch=16, lrs=(2e-3,)),
        prior=GPTConfig(grid=8, n_codes=64, width=32, heads=2, layers=2),
        prior_training=SMOKE_PRIOR,
        windowed=WindowedGPTConfig(grid=8, n_codes=64, width=32, heads=2, layers=2),
        windowed_training=SMOKE_PRIOR,
        flow_decoder=FlowDecoderConfig(code_dim=32, width=16, layers=2, steps=4),
        flow_decoder_training=TrainConfig(steps=60, batch=16),
        limit=300,
        n_synthetic=300,
        n_compared=24,
    ),
    Preset(
        name="quick",
        geometry=Geometry(crop=64, resize=64),
        augment=Augment(),
        vqvae=VQVAEConfig(image_size=64, decay=0.9),
        vqvae_training=replace(FAST, steps=750),
        prior=GPTConfig(width=96, heads=2, layers=3, dropout=0.0),
        prior_training=QUICK_PRIOR,
        windowed=WindowedGPTConfig(grid=16),
        windowed_training=replace(QUICK_PRIOR, steps=300, lrs=(2e-3,)),
        flow_decoder=FlowDecoderConfig(),
        flow_decoder_training=TrainConfig(steps=300, batch=16),
        prior_augmentations=(0,),           # they see an image of HAM10000 about once
        n_compared=64,
        baseline_steps=150,                 # enough to see a codebook collapse
    ),
    Preset(
        name="report",
        geometry=Geometry(crop=128, resize=None),
        augment=Augment(flip=0.4, rotate=10.0),
        vqvae=VQVAEConfig(data_init=False, reset_threshold=0.0),
        vqvae_training=TrainConfig(steps=15_000, batch=256, cosine=False),
        prior=GPTConfig(grid=32, heads=8, dropout=0.2),
        prior_training=replace(REPORT_PRIOR, lrs=(4e-4,), cosine=True, warmup=500),
        windowed=WindowedGPTConfig(grid=32, width=128, heads=6, layers=6, dropout=0.2),
        windowed_training=REPORT_PRIOR,
        flow_decoder=FlowDecoderConfig(),
        flow_decoder_training=TrainConfig(steps=15_000, batch=32),
        divide_by_pixel_variance=True,
    ),
    Preset(
        name="flagship",
        geometry=Geometry(crop=128, resize=128),
        augment=QUARTER_TURNS,
        vqvae=VQVAEConfig(n_down=3, residual_hidden=64, residual_layers=4, decoder_hidden=96,
                          decoder_residual_hidden=96, decay=0.9),
        vqvae_training=replace(FAST, steps=10_000),
        prior=GPTConfig(layers=5, dropout=0.0),
        prior_training=FLAGSHIP_PRIOR,
        windowed=WindowedGPTConfig(grid=16),
        windowed_training=FLAGSHIP_PRIOR,   # as the whole grid's: a controlled comparison
        flow_decoder=FlowDecoderConfig(),
        flow_decoder_training=TrainConfig(steps=6_000, batch=16, class_balance=0.5),
        prior_augmentations=(0, 2, 4, 6),
        baseline_steps=600,
    ),
    Preset(
        name="flagship-f4",                 # the report's grid, trained well: a VQ-VAE only
        geometry=Geometry(crop=128, resize=None),
        augment=QUARTER_TURNS,
        vqvae=VQVAEConfig(),
        vqvae_training=TrainConfig(steps=8_000, batch=16),
        baseline_steps=1_500,
    ),
)
PRESETS = {preset.name: preset for preset in ALL}


def choose(name: str | None = None) -> Preset:
    """The preset of that name, else of `$VQLIB_PRESET`, else `quick`.

    Raises ValueError for an unknown name.
    """
    name = name or os.environ.get("VQLIB_PRESET") or "quick"
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
