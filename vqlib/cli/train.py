"""python -m vqlib train {vqvae,prior,windowed,flow-decoder,all}: train, or go on where it stopped.

The three trainings, in order: the VQ-VAE; the prior on its codes; the flow decoder on its codes.
`all` does what the preset has of them. `windowed` is the report's prior, our baseline.
"""
from dataclasses import asdict, replace

from vqlib import train
from vqlib.backend.files import FileError, is_there
from vqlib.checkpoint import load_model, save_model
from vqlib.cli.fine_tuning import check_init, start_from
from vqlib.cli.options import (
    HELP,
    add_compile,
    add_data,
    columns_of,
    compile_parts,
    path_name,
    positive,
)
from vqlib.data.dataset import statistics
from vqlib.flow_decoder import FlowDecoder
from vqlib.gpt import GPT
from vqlib.metrics import assert_fits
from vqlib.presets import PRESETS, choose
from vqlib.progress import watch
from vqlib.runs import folder_of, set_aside
from vqlib.shipped import RUNS
from vqlib.vqvae import VQVAE
from vqlib.windowed_gpt import WindowedGPT
from vqlib.workspace import open_workspace

PIPELINE = ("vqvae", "prior", "flow-decoder")
EXAMPLE = """example:
  python -m vqlib train all
with your own pictures, a folder per class; and from the weights that ship:
  python -m vqlib train all --data MYFOLDER
  python -m vqlib train all --data MYFOLDER --preset flagship --init data/pretrained --steps 500"""


def add(commands) -> None:
    text = __doc__.split(": ")[1].split("\n")[0]
    p = commands.add_parser("train", help=text, description=__doc__.split(": ", 1)[1],
                            formatter_class=HELP, epilog=EXAMPLE)
    p.set_defaults(run=run)
    p.add_argument("model", choices=(*TRAININGS, "all"))
    p.add_argument("--preset", choices=PRESETS, help="default: $VQLIB_PRESET, else quick")
    add_data(p)
    p.add_argument("--steps", type=positive, metavar="N",
                   help="updates (all: of each model); default: the preset's")
    p.add_argument("--out", type=path_name, metavar="FILE",
                   help="NAME.safetensors, the run's checkpoint and log lie in NAME/ beside it; "
                        "default: under data/runs, where the notebooks look")
    p.add_argument("--vqvae", type=path_name, metavar="FILE",
                   help="whose codes the model learns; default: what train vqvae wrote")
    p.add_argument("--init", type=path_name, metavar="FILE",
                   help="start from these weights (all: from those of a folder), such as "
                        "data/pretrained; default: from random ones")
    p.add_argument("--accumulate", type=positive, default=1, metavar="N",
                   help="forward passes per update: less memory, the same gradients; default: 1")
    p.add_argument("--fresh", action="store_true",
                   help="start afresh; existing files of the run are renamed to *.old")
    add_compile(p)


def run(args) -> None:
    check_files(args)
    ws = open_workspace(args.preset, args.data, shipped=False, **columns_of(args))
    print(ws)
    if args.model not in ("all", "vqvae") and settings_of(ws.preset, args.model) is None:
        raise ValueError(f"preset {ws.preset.name} has no {args.model}: it is a VQ-VAE only")
    ws.dataset.images = ws.dataset.images.to(ws.device)          # 0.5 GB for HAM10000 at 128 px
    if args.model != "all":
        return TRAININGS[args.model](ws, args)
    names = [name for name in PIPELINE if settings_of(ws.preset, name)]
    for name in names:
        TRAININGS[name](ws, args)
    command = "sample" if "prior" in names else "reconstruct"
    print(f"{command} with it: python -m vqlib {command} --weights {ws.folder}")


def check_files(args) -> None:
    """Raises ValueError before anything is trained for options that make no sense together."""
    if args.model == "all" and args.out:
        raise ValueError("train all writes several files: leave out --out")
    if args.out and args.out.suffix != ".safetensors":
        raise ValueError(f"--out {args.out} is no file name that ends in .safetensors")
    if args.out:
        is_there(args.out)                                       # raises for a folder, a pipe ...
    if args.vqvae and args.model in ("all", "vqvae"):
        raise ValueError(f"train {args.model} trains its own VQ-VAE: leave out --vqvae")
    names, preset = PIPELINE if args.model == "all" else (args.model,), choose(args.preset)
    check_init(args, {name: settings_of(preset, name) for name in names})


def settings_of(preset, name: str):
    """The preset's config of a model; None if it does not have that model."""
    return getattr(preset, RUNS[name])


def train_vqvae(ws, args) -> None:
    p, stats = ws.preset, statistics(ws.dataset)
    config = with_steps(p.vqvae_training, args)
    model = VQVAE(p.vqvae, stats["mean"], stats["std"], config.seed).to(ws.device)
    compile_parts(model, args.compile)
    variance = stats["variance"] if p.divide_by_pixel_variance else 1.0
    finish(ws, args, "vqvae", model, config, lambda folder: train.train_vqvae(
        model, ws.dataset, config, p.augment, variance, folder, args.accumulate))


def train_prior(ws, args, name="prior") -> None:
    p, vqvae = ws.preset, codes_of(ws, args)
    if name == "windowed":
        config = p.windowed_training
        prior = WindowedGPT(p.windowed, config.seed)
    else:
        config = p.prior_training
        prior = GPT(replace(p.prior, n_classes=len(ws.dataset.classes)), config.seed)
    assert_fits(prior, vqvae)
    config = with_steps(config, args)
    compile_parts(prior.to(ws.device), args.compile)
    codes = train.encode_dataset(vqvae, ws.dataset, "train", p.prior_augmentations)
    held_out = train.encode_dataset(vqvae, ws.dataset, "validation")
    finish(ws, args, name, prior, config, lambda folder: train.train_prior(
        prior, codes, held_out, config, folder, accumulate=args.accumulate))


def train_windowed(ws, args) -> None:
    train_prior(ws, args, "windowed")


def train_flow_decoder(ws, args) -> None:
    p, vqvae = ws.preset, codes_of(ws, args)
    config = with_steps(p.flow_decoder_training, args)
    flow_decoder = FlowDecoder(p.flow_decoder, config.seed).to(ws.device)
    compile_parts(flow_decoder, args.compile)
    finish(ws, args, "flow-decoder", flow_decoder, config, lambda folder: train.train_flow_decoder(
        flow_decoder, vqvae, ws.dataset, config, p.augment, folder, args.accumulate))


TRAININGS = {"vqvae": train_vqvae, "prior": train_prior, "windowed": train_windowed,
             "flow-decoder": train_flow_decoder}


def with_steps(config, args):
    return replace(config, steps=args.steps or config.steps)


def codes_of(ws, args) -> VQVAE:
    """The VQ-VAE whose codes are learnt; FileError if it was trained on other crops."""
    file = args.vqvae or ws.folder / "vqvae.safetensors"
    made_by = "" if args.vqvae else "python -m vqlib train vqvae"
    vqvae, metadata = load_model(file, "vqvae", made_by)
    crops = asdict(ws.dataset.geometry)
    if (found := metadata.get("geometry", crops)) != crops:
        raise FileError(f"{file.name} was trained on crops {found}, preset {ws.preset.name} has "
                        f"{crops}: choose the preset it was trained with")
    return vqvae.to(ws.device)


def finish(ws, args, name: str, model, config, start) -> None:
    """Run start(folder), a training, to its end, and save the model beside the folder."""
    out = args.out or ws.folder / f"{name}.safetensors"
    folder = folder_of(out)
    start_from(args.init, model, ws.dataset.classes)
    if args.fresh:
        set_aside(folder)
    updates = sum(1 for _ in watch(start(folder), config.steps))
    if updates or (folder / "state.pt").exists():
        save_model(out, model, **ws.metadata, training=config)
        print(f"wrote {out}")
    else:                                                        # a model file that was there
        print(f"{out.name} is the end of this run: nothing to train")
