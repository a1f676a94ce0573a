"""All measures at once: generated images against held-out ones, beside references of real images.

Letters: n held-out images (and as many of each other kind), N training images, T codes per image.
"""
import numpy as np
import torch
from torch import Tensor

from vqlib.data.augment import dihedral
from vqlib.entropy_constrained import encoder_for
from vqlib.evaluation import arithmetic_coder, compression, layout_stats, memorisation, probe
from vqlib.evaluation.chunks import in_batches, over_rows
from vqlib.evaluation.context import EvaluationContext, pick
from vqlib.evaluation.distances import bootstrap, kid
from vqlib.evaluation.memorisation import FEATURE_AUGMENTATIONS
from vqlib.evaluation.parts import Parts
from vqlib.metrics import likelihood, psnr
from vqlib.train import held_out_nats

NO_TRAINING_IMAGES = {
    "skipped": "no training images that are not held out: pass train=(dataset, split)"
}
SWEEP = [
    {},
    {"temperature": 0.9},
    {"temperature": 1.05},
    {"top_k": 200},
    {"top_p": 0.97},
    {"first_top_p": 0.9},
    {"first_top_p": 0.95},
    {"first_top_p": 0.97},
    {"first_top_p": 0.95, "temperature": 0.95},
    {"first_top_p": 0.95, "temperature": 0.98},
    {"first_top_p": 0.95, "temperature": 1.02},
    {"guidance": 1.5},
    {"guidance": 2.0},
]
SAMPLE_SETS = 4                                    # whose layout is compared and averaged
QUALITIES = (0, 5, 10, 15, 20, 30, 40, 60, 80)     # of image formats
CODECS = [codec for codec in compression.codecs() if codec != "avif"]  # of reconstructions
LAMBDAS = (0.1, 0.2, 0.5)        # of entropy-constrained encoding, in mean squared distances


def references(context: EvaluationContext) -> dict:
    """Distances of real images, training ones, to the held-out images: no model causes these."""
    if not len(context.train_rows):
        return {"train": NO_TRAINING_IMAGES}
    embedded = context.real_features(context.train_dataset, context.train_sample)
    return {"train": context.distances(embedded)}


def reconstructions(context: EvaluationContext) -> dict:
    """Distances of the held-out images to their reconstructions from the nearest codes.

    Those of image formats have a payload as long as the VQ-VAE's codes at fixed length.
    """
    cfg, results = context.vqvae.cfg, {}
    size = compression.fixed_bytes(cfg.grid**2, cfg.n_codes)
    for name, (decibels, embedded) in context.reconstructed.items():
        found = context.distances(embedded, paired=True)
        results[name] = {"bytes": size, "psnr": decibels, **found}
    for codec in CODECS:
        quality = compression.quality_at(context.images[:32], codec, size)
        decoded, point = compression.transcode(context.images, codec, quality)
        found = context.distances(context.embed(decoded), paired=True)
        results[codec] = {**point, **found}
    return results


def samples(context: EvaluationContext) -> dict:
    """Measures of generated images of the held-out images' classes.

    Distances and memorisation in features are those of one set, as large as the held-out one;
    layout and memorisation in pixels those of `SAMPLE_SETS` sets.
    """
    seeds = [context.seed + 10 * i for i in range(SAMPLE_SETS)]
    code_sets = [context.generate(context.labels, seed) for seed in seeds]
    image_sets = [context.decode(codes, context.sample_decoder) for codes in code_sets]
    generated = [layout_stats.describe(images) for images in image_sets]
    real = layout_stats.describe(context.images)
    embedded = {}
    for name, decoder in context.decoders.items():
        shown = decoder is context.sample_decoder
        images = image_sets[0] if shown else context.decode(code_sets[0], decoder)
        embedded[name] = context.embed(images)
        if shown:
            features = embedded[name]
    return {
        "distances": {name: context.distances(found) for name, found in embedded.items()},
        "layout": layout_stats.compare(generated, real, context.train_layout),
        "memorisation": memorised(context, image_sets, features),
        "whole": {
            "samples": [layout_stats.whole(statistics) for statistics in generated],
            "held_out": layout_stats.whole(real),
        },
    }


def memorised(context: EvaluationContext, image_sets: list[Tensor], features: Tensor) -> dict:
    """Shares of samples that are too near to training images, in pixels and in features.

    features: (n, 1280) of the first of the sets of images (n, 3, H, W).
    """
    if not len(context.train_rows):
        return NO_TRAINING_IMAGES
    bank = memorisation.thumbnail_bank(context.train_dataset, context.train_rows)
    pixels = [memorisation.augmented_thumbnails(x)
              for x in (torch.cat(image_sets), context.images)]
    mirrored = [context.embed(dihedral(image_sets[0], k)) for k in FEATURE_AUGMENTATIONS[1:]]
    held_out = [context.real_features(context.dataset, context.held_out, k)
                for k in FEATURE_AUGMENTATIONS]
    found = torch.stack([features, *mirrored]), torch.stack(held_out)
    return {
        "pixels": memorisation.memorisation(*pixels, bank, seed=context.seed),
        "features": memorisation.memorisation(*found, context.train_features[0],
                                              seed=context.seed),
    }


def class_conditional(
    context: EvaluationContext, per_class: int, guidance: float | None = None
) -> dict:
    """Scores of a probe trained on real images; with a prior, class-conditional recall and CAS too.

    There are `per_class` samples of each of the prior's classes, at most as many in all as training
    images. `guidance` is that of these samples, None: the guidance of all others. With two
    decoders, "both decoders" takes each sample in both versions.
    """
    if not len(context.train_rows):
        return NO_TRAINING_IMAGES
    features, labels = context.train_features
    if len(labels.unique()) < 2:
        return {"skipped": "all training images are of one class"}
    real = probe.Probe(features, labels, len(context.class_names))
    results = {
        "classes": context.class_names,
        "images": len(labels),
        "held_out": real.scores(context.features, context.labels),
        "guidance": guidance,
    }
    if context.prior is None:
        return results
    wanted = wanted_labels(context, per_class)
    guidance = guidance or context.sampling["guidance"]
    generated = context.generate(wanted, context.seed + 1, guidance=guidance)
    again, labels_again = train_part(context, per_class)
    decoded = {}                                                     # three sets for each decoder
    for name, decoder in context.decoders.items():
        decoded[name] = [
            decoded_features(context, generated, wanted, decoder),
            decoded_features(context, again, labels_again, decoder),
            (context.reconstructed[name][1], context.labels),
        ]
    if len(decoded) > 1:
        decoded["both decoders"] = [pooled(sets) for sets in zip(*decoded.values())]
    results["decoders"] = {
        name: conditional_scores(context, real, *sets) for name, sets in decoded.items()
    }
    return results


def wanted_labels(context, per_class: int) -> Tensor:                # (n_classes * least,)
    """Classes of the samples: equally many of each, in all hardly more than training images."""
    n_classes, n_train = len(context.classes), len(context.train_rows)
    return torch.arange(n_classes).repeat(min(per_class, -(-n_train // n_classes)))


def train_part(context, per_class: int) -> tuple[Tensor, Tensor]:
    """Codes (n, h, w) and labels (n,) of at most `per_class` training images of each class."""
    rows = train_part_rows(context, per_class)
    codes = over_rows(context.encode, context.train_dataset, rows)
    return torch.cat(codes), context.labels_of(context.train_dataset, rows)


def train_part_rows(context, per_class: int) -> np.ndarray:
    """Rows of at most `per_class` training images of each class, drawn by seed."""
    rows = pick(context.train_rows, None, context.seed)
    labels = context.labels_of(context.train_dataset, rows)
    classes = range(len(context.class_names))
    return np.concatenate([rows[labels == k][:per_class] for k in classes])


def decoded_features(context, codes: Tensor, labels: Tensor, decoder) -> tuple[Tensor, Tensor]:
    """(features (n, 1280), labels (n,)) of decoded codes, 64 images in memory at a time."""
    return in_batches(lambda c: context.embed(context.decode(c, decoder)), codes), labels


def pooled(sets) -> tuple[Tensor, Tensor]:
    """One set of (features, labels) from several."""
    features, labels = zip(*sets)
    return torch.cat(features), torch.cat(labels)


def conditional_scores(context, real, generated, train_again, held_out_again) -> dict:
    """Class-conditional recall and CAS of one decoder's samples.

    Each has the value that reconstructions reach (for CAS those of training images) beside it: that
    of a perfect prior with the same decoder. `real` is the probe trained on real images; sets are
    (features, labels).
    """
    held_out = context.features, context.labels
    recall = probe.class_conditional_recall(real, held_out, generated)
    recall_again = probe.class_conditional_recall(real, held_out, held_out_again)
    cas = probe.classification_accuracy_score(real, context.train_features, generated, held_out)
    auc_real, again = cas["auc"]["real"], probe.Probe(*train_again, real.n_classes)
    for suffix, scale in (("", None), ("_standardised", real.scale)):
        auc_again = again.scores(*held_out, scale=scale)["auc"]
        cas[f"ratio_reconstructions{suffix}"] = auc_again / auc_real if auc_real else None
    return {
        "class_conditional_recall": {**recall, "ratio_reconstructions": recall_again["ratio"]},
        "cas": cas,
    }


def rate_distortion(context: EvaluationContext, n: int) -> dict:
    """Bytes and PSNR of the first n held-out images, as codes and as image formats.

    Codes are the nearest and, with a prior, entropy-constrained ones at `LAMBDAS` times the mean
    squared distance to the nearest.
    """
    images, labels = context.images[:n], context.labels[:n].clamp(max=len(context.classes))
    curves = {
        codec: compression.curve(images, codec, QUALITIES) for codec in compression.codecs()
    }
    encoders = {"nearest codes": context.vqvae}
    if context.prior is not None:
        distance = nearest_distance(context, images)
        for lambda_ in [share * distance for share in LAMBDAS]:
            name = f"entropy-constrained codes, lambda {lambda_:.2g}"
            encoders[name] = encoder_for(context.vqvae, context.prior, lambda_)
    points = {
        name: rate_point(context, images, labels, encoder, curves)
        for name, encoder in encoders.items()
    }
    return {"images": len(images), "codes": points}


def nearest_distance(context, images: Tensor) -> float:              # (n, 3, H, W)
    """Mean squared distance of encoder outputs to their nearest codes."""
    vqvae = context.vqvae

    def distances(x):                                                # (b, 3, H, W) -> (b, h, w)
        x = x.to(context.device)
        z, e = vqvae.encoder(vqvae.normalise(x)), vqvae.quantizer.lookup(vqvae.encode(x))
        return (z - e).square().sum(1)

    with torch.no_grad():
        return float(in_batches(distances, images).mean())


def rate_point(context, images: Tensor, labels: Tensor, encoder, curves: dict) -> dict:
    """PSNR by the least-squares decoder, the prior's bytes, and image formats' at that PSNR."""
    codes = context.encode(images, encoder)
    decibels = float(psnr(context.decode(codes), images).mean())
    at_psnr = {
        codec: compression.bytes_at_psnr(points, decibels, "payload")
        for codec, points in curves.items()
    }
    point = {"psnr": decibels, "codecs_at_psnr": at_psnr}
    if context.prior is not None:
        codes = codes.flatten(1)                                     # (n, T)
        nats = held_out_nats(context.prior, codes, labels)           # (n, T)
        point["prior"] = likelihood(nats, images[0].numel())
        point["coded"] = arithmetic_coder.coded_bytes(context.prior, codes, labels, nats)
    return point


def images_to_embed(context: EvaluationContext, per_class: int) -> dict[str, int]:
    """Images whose features each part computes; those of photographs are not counted."""
    n, decoders = len(context.images), len(context.decoders)
    images = {"reconstructions": n * (decoders + len(CODECS))}
    if context.prior is not None:
        mirrored = n * len(FEATURE_AUGMENTATIONS[1:]) if len(context.train_rows) else 0
        images["samples"] = n * decoders + mirrored
        taught = len(train_part_rows(context, per_class)) + len(wanted_labels(context, per_class))
        images["probe"] = decoders * taught
    return images


def evaluate_generation(
    vqvae, prior, dataset, split, *,
    per_class=None, rate_images=None, class_guidance=None, parts=None, **options,
) -> dict:
    """All measures of a held-out split, ready for JSON.

    `prior` None leaves out what needs samples. `class_guidance` is the guidance of the `per_class`
    samples for class-conditional recall and CAS, if not that of the others. `per_class` and
    `rate_images`, None: 512 and 128, fewer for a look at n images only. `parts` (see `Parts`) keeps
    what is done and says what is left; `options` are fields of EvaluationContext. KID is times
    1,000. What cannot be measured (no training images, too few held out) is {"skipped": reason}.
    Features take most of the time, 25 ms an image on a CPU core; those of photographs are computed
    once for a data set.
    """
    parts = parts or Parts()
    context = EvaluationContext(vqvae, prior, dataset, split, parts=parts, **options)
    look = context.n or 2048
    per_class, rate_images = per_class or min(512, look // 4), rate_images or min(128, look // 8)
    parts.plan(images_to_embed(context, per_class))
    functions = {
        "references": lambda: references(context),
        "reconstructions": lambda: reconstructions(context),
        "samples": lambda: {"skipped": "no prior"} if prior is None else samples(context),
        "probe": lambda: class_conditional(context, per_class, class_guidance),
        "rates": lambda: rate_distortion(context, rate_images),
    }
    return {
        "split": split,
        "data": dataset.title,
        "images": len(context.images),
        "seed": context.seed,
        "sampling": context.sampling,
        **{name: parts.run(name, function) for name, function in functions.items()},
    }


def sweep_sampling(vqvae, prior, dataset, split, settings=SWEEP, parts=None, **options) -> dict:
    """KID times 1,000 and layout of samples for each of the settings of GPT.generate.

    A setting is what differs from `SAMPLING`; `parts` keeps the rows that are done; `options` are
    fields of EvaluationContext. Seeds and classes are the same for all. Layout is compared with all
    training images, or without any with the held-out ones, whose smaller number leaves more to
    chance. Raises ValueError without a prior.
    """
    if prior is None:
        raise ValueError("a sweep over sampling settings needs a prior: --prior FILE")
    parts = parts or Parts()
    context = EvaluationContext(vqvae, prior, dataset, split, parts=parts, **options)
    real = context.train_layout or layout_stats.describe(context.images)

    def row(setting: dict) -> dict:
        codes = context.generate(context.labels, context.seed, **setting)
        images = context.decode(codes, context.sample_decoder)
        embedded = context.embed(images)
        interval = bootstrap(embedded, context.features, seed=context.seed)
        statistics = layout_stats.describe(images)
        return {
            "setting": setting,
            "kid_x1000": 1000 * kid(embedded, context.features),
            "kid_x1000_95": [1000 * end for end in interval],
            "layout": layout_stats.compare([statistics], real, context.train_layout),
        }

    names = {f"sweep, row {i} of {len(settings)}": setting
             for i, setting in enumerate(settings, 1)}
    parts.plan(dict.fromkeys(names, len(context.images)))
    rows = [parts.run(name, lambda setting=setting: row(setting))
            for name, setting in names.items()]
    return {"split": split, "images": len(context.images), "seed": context.seed, "rows": rows}
