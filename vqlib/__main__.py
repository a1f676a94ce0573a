"""python -m vqlib {train-vqvae,train-sharp,train-prior,train-decoder,evaluate,sample}: what the notebooks do, without them."""
import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torchvision.utils import save_image

from vqlib import finishing, metrics, train
from vqlib.backend.distributed import joined
from vqlib.backend.memory import keep_pages
from vqlib.checkpoint import FileError, load_model, save_model, write_atomically
from vqlib.data.dataset import Dataset, Geometry, statistics
from vqlib.data.sources import DataError, open_source
from vqlib.entropy_constrained import encoder
from vqlib.flow_decoder import FlowDecoder, StochasticDecoder
from vqlib.gpt import GPT, SAMPLING
from vqlib.presets import PRESETS, open_workspace
from vqlib.vqvae import VQVAE
from vqlib.windowed_gpt import WindowedGPT


def positive(text: str) -> int:
    if (n := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return n


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m vqlib", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)

    def command(run, text):
        p = commands.add_parser(run.__name__.replace("_", "-"), help=text, description=text)
        p.set_defaults(run=run)
        p.add_argument("--data", help="folder or .npz; default: $VQLIB_DATA, data/ham10000, synthetic")
        return p

    for p in (command(train_vqvae, "train encoder, codebook and decoder; resumes"),
              sharp := command(train_flow_decoder, "train the sharp look at the codes of a VQ-VAE; resumes"),
              prior := command(train_prior, "train a prior on the codes of a VQ-VAE; resumes"),
              decoder := command(train_decoder, "finish a VQ-VAE's decoder on the codes that priors learn; resumes")):
        p.add_argument("--preset", choices=PRESETS, help="default: $VQLIB_PRESET, else quick")
        p.add_argument("--steps", type=positive, help="updates, instead of the preset's")
        p.add_argument("--out", type=Path, help="model file; default: under data/runs, where the notebooks look")
        p.add_argument("--accumulate", type=positive, default=1, help="passes per update: less memory, the same result")
    prior.add_argument("--kind", choices=("gpt", "windowed", "guide"), default="gpt",
                       help="whole-grid GPT, the report's transformer, or a GPT on nearest codes that chooses codes for both")
    for p in (sharp, prior, decoder):
        p.add_argument("--guide", type=Path, help="prior that chooses the codes, if the preset has a rate; default: the guide")
        p.add_argument("--vqvae", type=Path, help="default: the one that train-vqvae wrote")
    judging_and_drawing(command, commands.choices)
    return top


def judging_and_drawing(command, choices) -> None:
    p = command(evaluate, "figures of a VQ-VAE, and of a prior, on a split, as JSON")
    p.add_argument("--vqvae", type=Path, required=True)
    p.add_argument("--prior", type=Path)
    p.add_argument("--guide", type=Path, help="another prior, whose codes this one is judged by")
    p.add_argument("--sharp", type=Path, help="judge this look at the codes beside the faithful one")
    p.add_argument("--split", choices=("train", "validation", "test", "all"), default="validation")
    p.add_argument("--judge", action="store_true", help="add KID, structure, class control, copies, rates (takes minutes)")
    p.add_argument("--sweep", action="store_true", help="add KID for a row of sampling settings (a minute or two for each)")
    p.add_argument("--class-guidance", type=float, help="judge class control and CAS on samples of another guidance")
    p.add_argument("--images", type=positive, help="judge and sweep so many held-out images instead of all")
    p.add_argument("--json", type=Path, help="write here too, besides printing")
    p = command(sample, "draw new images of a class")
    p.add_argument("--vqvae", type=Path, required=True)
    p.add_argument("--prior", type=Path, required=True)
    p.add_argument("--sharp", type=Path, help="default: decode faithfully")
    p.add_argument("--class", dest="label", default="any", help="a diagnosis, or any")
    p.add_argument("--out", type=Path, default=Path("samples.png"))
    for name in ("train-vqvae", "train-prior", "sample"):
        choices[name].add_argument("--compile", nargs="?", const="inductor", metavar="BACKEND", help="torch.compile")
    p.add_argument("--n", type=positive, default=32)
    p.add_argument("--seed", type=int, default=0)
    for name, default in SAMPLING.items():
        for p in (choices["evaluate"], choices["sample"]):
            p.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)


def compile_parts(model, backend: str | None) -> None:
    """torch.compile in place: encoder and decoder, or a prior's blocks, which are the step of its sampler, too."""
    for part in (getattr(model, "blocks", None) or (model.encoder, model.decoder)) if backend else ():
        part.compile(backend=backend)                                 # weights keep their names, the quantizer stays eager


def train_vqvae(args):
    ws = open_workspace(args.preset, args.data, shipped=False)
    print(ws)
    p, stats = ws.preset, statistics(ws.dataset)
    run = replace(p.vqvae_training, steps=args.steps or p.vqvae_training.steps)
    model = VQVAE(p.vqvae, stats["mean"], stats["std"], run.seed).to(ws.device)
    compile_parts(model, args.compile)
    ws.dataset.images = ws.dataset.images.to(ws.device)               # 0.5 GB for HAM10000 at 128 px
    variance = stats["variance"] if p.scale_by_pixels else 1.0
    finish(args, ws, "vqvae", model, run.steps, lambda folder: train.train_vqvae(
        model, ws.dataset, run, p.augment, variance, folder, args.accumulate), run=run)


def finish(args, ws, name: str, model, steps: int, loop, **runs) -> None:
    """Run `loop` of a folder to its end, and save the model beside that folder."""
    out = args.out or ws.folder / f"{name}.safetensors"
    for _ in train.watch(loop(out.with_suffix("")), steps):
        pass
    save_model(out, model, **ws.card, **runs)
    print(f"wrote {out.name}")


def on_codes_of(args):
    """Workspace and VQ-VAE of a command that trains on codes."""
    ws = open_workspace(args.preset, args.data, shipped=False)
    print(ws)
    ws.dataset.images = ws.dataset.images.to(ws.device)
    return ws, load_model(args.vqvae or ws.folder / "vqvae.safetensors", "vqvae", "python -m vqlib train-vqvae")[0].to(ws.device)


def train_flow_decoder(args):
    ws, vqvae = on_codes_of(args)
    p = ws.preset
    run = replace(p.flow_decoder_training, steps=args.steps or p.flow_decoder_training.steps)
    sharp = FlowDecoder(p.sharp).to(ws.device)
    codes = finishing.ways_to_code(ws.encoder(vqvae, args.guide), ws.dataset)
    finish(args, ws, "sharp", sharp, run.steps, lambda folder: finishing.train_flow_decoder(
        sharp, vqvae, ws.dataset, *codes, run, folder, args.accumulate), run=run)


def train_decoder(args):
    ws, vqvae = on_codes_of(args)
    p, guided = ws.preset, ws.encoder(vqvae, args.guide)
    if guided is vqvae:
        raise ValueError(f"preset {p.name} has no rate: its decoder is trained on the codes that its priors learn")
    run = replace(p.decoder_run, steps=args.steps or p.decoder_run.steps)
    codes = finishing.ways_to_code(guided, ws.dataset)
    finish(args, ws, "finished", vqvae, run.steps, lambda folder: finishing.train_decoder(
        vqvae, ws.dataset, *codes, run, folder, args.accumulate), run=p.vqvae_training, finished=run)  # the result of both runs


def train_prior(args):
    ws, vqvae = on_codes_of(args)
    p, by = ws.preset, vqvae if args.kind == "guide" else ws.encoder(vqvae, args.guide)
    if args.kind == "windowed":
        run, prior = p.windowed_training, WindowedGPT(p.windowed)
    else:
        run = (args.kind == "guide" and p.guide_run) or p.gpt_training
        prior = GPT(replace(p.gpt, n_classes=len(ws.dataset.classes), rate=getattr(by, "rate", 0.0)))
        if by is not vqvae:                                           # it goes on where the guide stopped
            prior.load_state_dict(by.prior.state_dict())
    run = replace(run, steps=args.steps or run.steps)
    codes = [train.encode_dataset(by, ws.dataset, *part) for part in (("train", p.views), ("validation",))]
    compile_parts(prior.to(ws.device), args.compile)
    finish(args, ws, args.kind, prior, run.steps, lambda folder: train.train_prior(
        prior, *codes, run, folder, ws.dataset.fingerprint, args.accumulate), run=run)


def look(vqvae, path: Path) -> StochasticDecoder:
    sharp, _ = load_model(path, "sharp", "python -m vqlib train-sharp")
    if sharp.cfg.code_dim != vqvae.cfg.code_dim:
        raise FileError(f"{path.name} is for codes of width {sharp.cfg.code_dim}, the VQ-VAE's have {vqvae.cfg.code_dim}")
    return StochasticDecoder(vqvae, sharp)


def evaluate(args):
    vqvae, card = load_model(args.vqvae, "vqvae")
    if "geometry" not in card:
        raise FileError(f"{args.vqvae.name} does not say how its images were cropped: save it with **workspace.card")
    geometry = Geometry(**card["geometry"])
    dataset = Dataset(open_source(args.data, PRESETS[card["preset"]].n_synthetic, geometry.side), geometry)
    result = {"vqvae": args.vqvae.name, "data": dataset.title, "images_skipped": len(dataset.skipped), "notes": dataset.notes,
              "reconstruction": metrics.evaluate_vqvae(vqvae, dataset, args.split)}
    prior, prior_card = load_model(args.prior) if args.prior else (None, {})
    sharp = look(vqvae, args.sharp) if args.sharp else None
    if prior:
        by = encoder(vqvae, load_model(args.guide, "gpt")[0] if args.guide else prior)
        said = metrics.evaluate_prior(prior, by, dataset, args.split, prior_card["classes"])
        result["prior"] = {"file": args.prior.name, **said}
    if args.judge or args.sweep:
        from vqlib.evaluation import suite as judging  # an extra, and slow to import
        for name, chosen, run, more in (("judged", args.judge, judging.judge, {"class_guidance": args.class_guidance}),
                                        ("sweep", args.sweep, judging.sweep, {})):
            if chosen:
                result[name] = run(vqvae, prior, dataset, args.split, sharp=sharp, n=args.images,
                                   classes=prior_card.get("classes"), sampling={k: getattr(args, k) for k in SAMPLING}, **more)
    text = json.dumps(result, indent=1)
    if args.json:
        write_atomically(args.json, text.encode())
    print(text)


def sample(args):
    vqvae, _ = load_model(args.vqvae, "vqvae")
    gpt, card = load_model(args.prior, "gpt")
    metrics.assert_fits(gpt, vqvae)
    compile_parts(gpt, args.compile)
    compile_parts(vqvae, args.compile)
    names = [*card["classes"], "any"]
    if args.label not in names:
        raise DataError(f"no class {args.label!r}; this prior knows {', '.join(names)}")
    labels = torch.full((args.n,), names.index(args.label))
    codes = gpt.generate(labels, **{k: getattr(args, k) for k in SAMPLING}, seed=args.seed)
    decoder = look(vqvae, args.sharp) if args.sharp else vqvae
    save_image(decoder.decode(codes.view(args.n, gpt.cfg.grid, gpt.cfg.grid)), args.out)
    print(f"wrote {args.out}: {args.n} images of class {args.label}, seed {args.seed}")


def main(argv=None) -> int:
    args = parser().parse_args(argv)
    keep_pages()
    try:
        with joined():
            args.run(args)
    except (ValueError, OSError, ImportError, FloatingPointError) as e:  # DataError and FileError are ValueErrors
        print(f"vqlib: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
