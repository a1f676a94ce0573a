"""python -m vqlib evaluate: metrics of a VQ-VAE, and of a prior, on a split, as JSON."""
import hashlib
import json
from contextlib import suppress
from pathlib import Path

from vqlib import metrics
from vqlib.backend.device import default_device
from vqlib.backend.files import FileError, is_there, read_regular, write_atomically
from vqlib.backend.paths import pretrained
from vqlib.checkpoint import load_model
from vqlib.cli.options import (
    add_command,
    add_data,
    add_sampling,
    add_weights,
    columns_of,
    path_name,
    positive,
    sampling_of,
)
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.records import listing
from vqlib.data.sources import open_source
from vqlib.entropy_constrained import encoder_for
from vqlib.flow_decoder import StochasticDecoder
from vqlib.gpt import check_settings
from vqlib.identity import known_pictures, origin_of
from vqlib.pipeline import (
    GUIDANCE,
    find_weights,
    load_flow_decoder,
    load_prior,
    notes_on,
    sampling_for,
)
from vqlib.presets import PRESETS
from vqlib.workspace import write_skipped


def add(commands) -> None:
    p = add_command(commands, "evaluate", run, __doc__.split(": ")[1],
                    "python -m vqlib evaluate --split test")
    add_data(p)
    p.add_argument("--split", choices=("train", "validation", "test", "all"), default="validation",
                   help="default: validation")
    p.add_argument("--lambda", dest="lambda_", type=float, default=0.0, metavar="X",
                   help="Lagrange multiplier of the rate in entropy-constrained encoding, squared "
                        "distance per nat; default: 0, the nearest codes")
    p.add_argument("--generation", action="store_true",
                   help="add KID, layout, class recall, memorisation, compression (takes minutes; "
                        "with --json FILE it goes on where it was stopped)")
    p.add_argument("--sweep", action="store_true",
                   help="add KID and layout for a row of sampling settings (a minute or two each)")
    p.add_argument("--class-guidance", type=float, default=GUIDANCE, metavar="X",
                   help=f"guidance of samples for class recall and CAS; default: {GUIDANCE:g}")
    p.add_argument("--images", type=positive, metavar="N",
                   help="held-out images for generation, 256 take two minutes; default: all")
    p.add_argument("--json", type=path_name, metavar="FILE",
                   help="write here, too, besides printing")
    add_sampling(p, shipped=True)
    add_weights(p)


def run(args) -> None:
    if args.json:
        is_there(args.json)                                      # raises for a folder, a pipe ...
    find_models(args)
    vqvae, metadata = load_model(args.vqvae, "vqvae")
    vqvae = vqvae.to(default_device())
    if "geometry" not in metadata:
        raise FileError(f"{args.vqvae.name} does not say how its images were cropped: save it with "
                        "**workspace.metadata")
    prior, classes, decoder = None, None, None
    sampling = sampling_for("any", **sampling_of(args))
    if args.prior:
        prior, classes = load_prior(args.prior, vqvae, ("gpt", "windowed_gpt"))
        encoder = encoder_for(vqvae, prior, args.lambda_)
    if args.flow_decoder:
        decoder = StochasticDecoder(vqvae, load_flow_decoder(args.flow_decoder, vqvae))
    check(args, prior, sampling)
    dataset = open_data(args, metadata)
    if args.json:
        write_skipped(args.json.with_name(f"{args.json.name}.skipped.csv"), dataset.skipped)
    others = [prior, decoder and decoder.flow_decoder]
    seen, notes = trained_on(args, dataset, vqvae, *others)
    result = {"vqvae": args.vqvae.name, "data": dataset.title,
              "images_skipped": len(dataset.skipped), "skipped": listing(dataset.skipped),
              "images_trained_on": seen,
              "notes": [*dataset.notes, *notes_on(*others), *notes],
              "reconstruction": metrics.evaluate_vqvae(vqvae, dataset, args.split)}
    result["notes"] += usage_notes(result["reconstruction"])
    if prior:
        likelihood = metrics.evaluate_prior(prior, encoder, dataset, args.split, classes)
        result["prior"] = {"file": args.prior.name, "lambda": args.lambda_, **likelihood}
    if args.generation or args.sweep:
        options = {"stochastic_decoder": decoder, "n": args.images, "classes": classes,
                   "sampling": sampling}
        parts = parts_of(args, dataset, sampling)
        write(args.json, result | generation(args, vqvae, prior, dataset, options, parts))
        return parts.finish()
    write(args.json, result)


def check(args, prior, sampling: dict) -> None:
    """Raises ValueError before minutes are spent if a prior is needed, or settings are none."""
    if not prior and (args.lambda_ or args.sweep):
        raise ValueError(f"{'--sweep' if args.sweep else 'entropy-constrained encoding (--lambda)'}"
                         " needs a prior: --prior FILE")
    for guidance in (sampling["guidance"], args.class_guidance) if prior else ():
        check_settings(prior.cfg, None, **sampling | {"guidance": guidance})


def find_models(args) -> None:
    """Without --vqvae: the models of --weights, or those that ship; a prior need not be there."""
    if args.vqvae:
        return
    folder = args.weights or pretrained()
    args.vqvae = find_weights(folder, "vqvae")
    for name in ("prior", "flow_decoder"):
        with suppress(FileError):
            found = getattr(args, name) or find_weights(folder, name.replace("_", "-"))
            setattr(args, name, found)


def open_data(args, metadata: dict) -> Dataset:
    """The data that the options name, cropped as the VQ-VAE's training images were."""
    geometry = Geometry(**metadata["geometry"])
    preset = PRESETS.get(metadata.get("preset"), PRESETS["quick"])
    source = open_source(args.data, preset.n_synthetic, geometry.side, **columns_of(args))
    return Dataset(source, geometry)


def trained_on(args, dataset, *models) -> tuple[dict, list[str]]:
    """How many of the split's images each model was trained on, and a note if there are any.

    Pictures are known by their content, or by name, class and lesion. None for models whose files
    are too old to say.
    """
    rows, found, notes = dataset.splits[args.split], {}, []
    for model in models:
        if model is not None:
            name, pictures = type(model).__name__, origin_of(model).get("pictures")
            seen = known_pictures(pictures, dataset, rows) if pictures else None
            found[name] = None if seen is None else int(seen.sum())
            if found[name]:
                notes.append(f"the {name} was trained on {found[name]} of these {len(rows)} "
                             f"images of split {args.split}: its numbers are not held-out ones")
    return found, notes


def usage_notes(reconstruction: dict, least=0.1) -> list[str]:
    """A note if hardly any code is in use, on whatever data."""
    used, n = reconstruction["codes_used"], reconstruction["n_codes"]
    return [f"only {used} of {n} codes are in use: the codebook has collapsed, or these images are "
            "all alike"] if used < least * n else []


def write(path: Path | None, result: dict) -> None:
    text = json.dumps(result, indent=1)
    print(text, flush=True)                                      # before a full disk loses it
    if path:
        write_atomically(path, text.encode())


def parts_of(args, dataset, sampling: dict):
    """What is done is kept beside --json FILE until all is."""
    from vqlib.evaluation.parts import Parts
    files = {name: path and hashlib.sha256(read_regular(path)).hexdigest()
             for name, path in (("vqvae", args.vqvae), ("prior", args.prior),
                                ("flow decoder", args.flow_decoder))}
    identity = {"files": files, "data": dataset.fingerprint, "split": args.split,
                "images": args.images, "sampling": sampling,
                "class guidance": args.class_guidance}
    path = args.json and args.json.with_name(f"{args.json.name}.parts")
    return Parts(path, identity, show=True)


def generation(args, vqvae, prior, dataset, options: dict, parts) -> dict:
    """The measures that need the extra `evaluation`, which is slow to import."""
    from vqlib.evaluation import suite
    result, options = {}, options | {"parts": parts}
    if args.generation:
        result["generation"] = suite.evaluate_generation(
            vqvae, prior, dataset, args.split, class_guidance=args.class_guidance, **options)
    if args.sweep:
        settings = options | {"sampling": {}}                    # a row says what differs
        result["sweep"] = suite.sweep_sampling(vqvae, prior, dataset, args.split, **settings)
    return result
