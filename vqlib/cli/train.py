"""python -m vqlib train {vqvae,prior,windowed,flow-decoder,all}: train, or go on where it stopped.

The three trainings, in order: the VQ-VAE; the prior on its codes; the flow decoder on its codes.
`all` does what the preset has of them. `windowed` is the report's prior, our baseline.
"""
from dataclasses import replace
from pathlib import Path

from vqlib import train
from vqlib.checkpoint import load_model, save_model
from vqlib.cli.options import add_compile, add_data, compile_parts, positive
from vqlib.data.dataset import statistics
from vqlib.flow_decoder import FlowDecoder
from vqlib.gpt import GPT
from vqlib.presets import PRESETS
from vqlib.vqvae import VQVAE
from vqlib.windowed_gpt import WindowedGPT
from vqlib.workspace import open_workspace

PIPELINE = ("vqvae", "prior", "flow-decoder")


def add(commands) -> None:
    text = __doc__.split(": ")[1].split("\n")[0]
    p = commands.add_parser("train", help=text, description=__doc__)
    p.set_defaults(run=run)
    p.add_argument("model", choices=(*TRAININGS, "all"))
    p.add_argument("--preset", choices=PRESETS, help="default: $VQLIB_PRESET, else quick")
    add_data(p)
    p.add_argument("--steps", type=positive, metavar="N", help="updates; default: the preset's")
    p.add_argument("--out", type=Path, metavar="FILE",
                   help="model file; default: under data/runs, where the notebooks look")
    p.add_argument("--vqvae", type=Path, metavar="FILE",
                   help="whose codes to learn; default: what train vqvae wrote")
    p.add_argument("--accumulate", type=positive, default=1, metavar="N",
                   help="passes per update: less memory, the same result; default: 1")
    add_compile(p)


def run(args) -> None:
    if args.model == "all" and args.out:
        raise ValueError("train all writes several files: leave out --out")
    ws = open_workspace(args.preset, args.data, shipped=False)
    print(ws)
    if args.model not in ("all", "vqvae") and settings_of(ws.preset, args.model) is None:
        raise ValueError(f"preset {ws.preset.name} has no {args.model}: it is a VQ-VAE only")
    ws.dataset.images = ws.dataset.images.to(ws.device)          # 0.5 GB for HAM10000 at 128 px
    for name in PIPELINE if args.model == "all" else (args.model,):
        if settings_of(ws.preset, name):
            TRAININGS[name](ws, args)
    if args.model == "all":
        files = [f"--{name} {ws.folder / name}.safetensors" for name in PIPELINE
                 if settings_of(ws.preset, name)]
        print("sample from it: python -m vqlib sample " + " ".join(files))


def settings_of(preset, name: str):
    """The preset's config of a model; None if it does not have that model."""
    return getattr(preset, {"prior": "gpt"}.get(name, name.replace("-", "_")))


def train_vqvae(ws, args) -> None:
    p, stats = ws.preset, statistics(ws.dataset)
    config = shortened(p.vqvae_training, args)
    model = VQVAE(p.vqvae, stats["mean"], stats["std"], config.seed).to(ws.device)
    compile_parts(model, args.compile)
    variance = stats["variance"] if p.divide_by_pixel_variance else 1.0
    out = args.out or ws.folder / "vqvae.safetensors"
    finish(ws, out, model, config, train.train_vqvae(
        model, ws.dataset, config, p.augment, variance, out.with_suffix(""), args.accumulate))


def train_prior(ws, args, name="prior") -> None:
    p, vqvae = ws.preset, codes_of(ws, args)
    if name == "windowed":
        config, prior = p.windowed_training, WindowedGPT(p.windowed)
    else:
        n_classes = len(ws.dataset.classes)
        config, prior = p.gpt_training, GPT(replace(p.gpt, n_classes=n_classes))
    config = shortened(config, args)
    compile_parts(prior.to(ws.device), args.compile)
    codes = train.encode_dataset(vqvae, ws.dataset, "train", p.augmentations)
    held_out = train.encode_dataset(vqvae, ws.dataset, "validation")
    out = args.out or ws.folder / f"{name}.safetensors"
    finish(ws, out, prior, config, train.train_prior(
        prior, codes, held_out, config, out.with_suffix(""), ws.dataset.fingerprint,
        args.accumulate))


def train_windowed(ws, args) -> None:
    train_prior(ws, args, "windowed")


def train_flow_decoder(ws, args) -> None:
    p, vqvae = ws.preset, codes_of(ws, args)
    config = shortened(p.flow_decoder_training, args)
    flow_decoder = FlowDecoder(p.flow_decoder).to(ws.device)
    out = args.out or ws.folder / "flow-decoder.safetensors"
    finish(ws, out, flow_decoder, config, train.train_flow_decoder(
        flow_decoder, vqvae, ws.dataset, config, p.augment, out.with_suffix(""), args.accumulate))


TRAININGS = {"vqvae": train_vqvae, "prior": train_prior, "windowed": train_windowed,
             "flow-decoder": train_flow_decoder}


def shortened(config, args):
    return replace(config, steps=args.steps or config.steps)


def codes_of(ws, args) -> VQVAE:
    """The VQ-VAE whose codes are learnt."""
    path = args.vqvae or ws.folder / "vqvae.safetensors"
    return load_model(path, "vqvae", "python -m vqlib train vqvae")[0].to(ws.device)


def finish(ws, out: Path, model, config, loop) -> None:
    """Run a training to its end, and save the model beside the training's folder."""
    for _ in train.watch(loop, config.steps):
        pass
    save_model(out, model, **ws.metadata, training=config)
    print(f"wrote {out.name}")
