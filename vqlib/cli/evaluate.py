"""python -m vqlib evaluate: metrics of a VQ-VAE, and of a prior, on a split, as JSON."""
import hashlib
import json
from pathlib import Path

from vqlib import metrics
from vqlib.backend.device import default_device
from vqlib.checkpoint import FileError, load_model, write_atomically
from vqlib.cli.options import (
    add_data,
    add_sampling,
    columns_of,
    load_stochastic,
    positive,
    sampling_of,
)
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.records import listing
from vqlib.data.sources import open_source
from vqlib.entropy_constrained import encoder_for
from vqlib.presets import PRESETS
from vqlib.workspace import write_skipped


def add(commands) -> None:
    text = __doc__.split(": ")[1]
    p = commands.add_parser("evaluate", help=text, description=text)
    p.set_defaults(run=run)
    p.add_argument("--vqvae", type=Path, required=True, metavar="FILE")
    p.add_argument("--prior", type=Path, metavar="FILE")
    p.add_argument("--flow-decoder", type=Path, metavar="FILE",
                   help="evaluate this decoder beside the VQ-VAE's own")
    add_data(p)
    p.add_argument("--split", choices=("train", "validation", "test", "all"), default="validation",
                   help="default: validation")
    p.add_argument("--lambda", dest="lambda_", type=float, default=0.0, metavar="X",
                   help="bits of codes that the prior chooses (entropy-constrained encoding), in "
                        "squared distance per nat; default: 0, the nearest codes")
    p.add_argument("--generation", action="store_true",
                   help="add KID, layout, class recall, memorisation, compression (takes minutes; "
                        "with --json FILE it goes on where it was stopped)")
    p.add_argument("--sweep", action="store_true",
                   help="add KID and layout for a row of sampling settings (a minute or two each)")
    p.add_argument("--class-guidance", type=float, metavar="X",
                   help="guidance of the samples for class recall and CAS; default: --guidance")
    p.add_argument("--images", type=positive, metavar="N",
                   help="evaluate generation on so many held-out images, 256 for a look of two "
                        "minutes; default: all")
    p.add_argument("--json", type=Path, metavar="FILE", help="write here too, besides printing")
    add_sampling(p)


def run(args) -> None:
    vqvae, metadata = load_model(args.vqvae, "vqvae")
    vqvae = vqvae.to(default_device())
    if "geometry" not in metadata:
        raise FileError(f"{args.vqvae.name} does not say how its images were cropped: save it with "
                        "**workspace.metadata")
    geometry = Geometry(**metadata["geometry"])
    source = open_source(args.data, PRESETS[metadata["preset"]].n_synthetic, geometry.side,
                         **columns_of(args))
    dataset = Dataset(source, geometry)
    prior, prior_metadata = load_prior(args.prior)
    if args.lambda_ and not prior:
        raise ValueError("entropy-constrained encoding (--lambda) needs a prior: --prior FILE")
    result = {"vqvae": args.vqvae.name, "data": dataset.title,
              "images_skipped": len(dataset.skipped), "skipped": listing(dataset.skipped),
              "notes": dataset.notes,
              "reconstruction": metrics.evaluate_vqvae(vqvae, dataset, args.split)}
    if args.json:
        write_skipped(args.json.with_name(f"{args.json.name}.skipped.csv"), dataset.skipped)
    if prior:
        encoder = encoder_for(vqvae, prior, args.lambda_)
        likelihood = metrics.evaluate_prior(prior, encoder, dataset, args.split,
                                            prior_metadata["classes"])
        result["prior"] = {"file": args.prior.name, "lambda": args.lambda_, **likelihood}
    if not (args.generation or args.sweep):
        return write(args.json, result)
    decoder = load_stochastic(vqvae, args.flow_decoder) if args.flow_decoder else None
    options = {"stochastic_decoder": decoder, "n": args.images,
               "classes": prior_metadata.get("classes"), "sampling": sampling_of(args)}
    parts = parts_of(args, dataset)
    write(args.json, result | generation(args, vqvae, prior, dataset, options, parts))
    parts.finish()


def write(path: Path | None, result: dict) -> None:
    text = json.dumps(result, indent=1)
    print(text)
    if path:
        write_atomically(path, text.encode())


def parts_of(args, dataset):
    """What is done is kept beside --json FILE until all is."""
    from vqlib.evaluation.parts import Parts
    files = {name: path and hashlib.sha256(path.read_bytes()).hexdigest()
             for name, path in (("vqvae", args.vqvae), ("prior", args.prior),
                                ("flow decoder", args.flow_decoder))}
    identity = {"files": files, "data": dataset.fingerprint, "split": args.split,
                "images": args.images, "sampling": sampling_of(args),
                "class guidance": args.class_guidance}
    path = args.json and args.json.with_name(f"{args.json.name}.parts")
    return Parts(path, identity, show=True)


def load_prior(path):
    """A prior and its metadata, None and {} without a path; FileError for other models."""
    if not path:
        return None, {}
    prior, metadata = load_model(path)
    if metadata["kind"] not in ("gpt", "windowed_gpt"):
        raise FileError(f"{path.name} holds a {metadata['kind']}, a gpt or windowed_gpt is needed")
    if "classes" not in metadata:
        raise FileError(f"{path.name} does not say which classes it knows: save it with "
                        "**workspace.metadata")
    return prior.to(default_device()), metadata


def generation(args, vqvae, prior, dataset, options: dict, parts) -> dict:
    """The measures that need the extra `evaluation`, which is slow to import."""
    from vqlib.evaluation import suite
    result, options = {}, options | {"parts": parts}
    if args.generation:
        result["generation"] = suite.evaluate_generation(
            vqvae, prior, dataset, args.split, class_guidance=args.class_guidance, **options)
    if args.sweep:
        result["sweep"] = suite.sweep_sampling(vqvae, prior, dataset, args.split, **options)
    return result
