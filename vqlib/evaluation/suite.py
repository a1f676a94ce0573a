"""All measures at once: generated images against held-out ones, beside references of real images.

Letters: n held-out images (and as many of each other kind), N training images, T codes per image.
"""
import torch
from torch import Tensor

from vqlib.evaluation import arithmetic_coder, compression, layout_stats, memorisation, probe
from vqlib.evaluation.chunks import in_batches
from vqlib.evaluation.context import EvaluationContext
from vqlib.evaluation.distances import bootstrap, kid
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
SHARES = (1 / 3, 2 / 3, 1)                         # of lambda_, for points of rate and distortion


def references(context: EvaluationContext) -> dict:
    """Distances of real images, training ones, to the held-out images: no model causes these."""
    if not len(context.train_rows):
        return {"train": NO_TRAINING_IMAGES}
    return {"train": context.distances(context.train_sample)}


def reconstructions(context: EvaluationContext) -> dict:
    """Distances of the held-out images to their reconstructions.

    Those of image formats have a payload as long as the VQ-VAE's codes at fixed length.
    """
    cfg, results = context.vqvae.cfg, {}
    size = compression.fixed_bytes(cfg.grid**2, cfg.n_codes)
    for encoding, encoder in context.encoders.items():
        codes = context.encode(context.images, encoder)
        for name, decoder in context.decoders.items():
            decoded = context.decode(codes, decoder)
            results[name + encoding] = {
                "bytes": size,
                "psnr": float(psnr(decoded, context.images).mean()),
                **context.distances(decoded, paired=True),
            }
    for codec in sorted({*compression.codecs()} - {"avif"}):
        quality = compression.quality_at(context.images[:32], codec, size)
        decoded, point = compression.transcode(context.images, codec, quality)
        results[codec] = {**point, **context.distances(decoded, paired=True)}
    return results


def samples(context: EvaluationContext) -> dict:
    """Measures of generated images of the held-out images' classes.

    Distances are those of one set, as large as the held-out one; layout and memorisation those of
    `SAMPLE_SETS` sets.
    """
    seeds = [context.seed + 10 * i for i in range(SAMPLE_SETS)]
    code_sets = [context.generate(context.labels, seed) for seed in seeds]
    image_sets = [context.decode(codes, context.sample_decoder) for codes in code_sets]
    generated = [layout_stats.describe(images) for images in image_sets]
    real = layout_stats.describe(context.images)
    by_decoder = {}
    for name, decoder in context.decoders.items():
        shown = decoder is context.sample_decoder
        images = image_sets[0] if shown else context.decode(code_sets[0], decoder)
        by_decoder[name] = context.distances(images)
    return {
        "distances": by_decoder,
        "layout": layout_stats.compare(generated, real, context.train_layout),
        "memorisation": memorised(context, torch.cat(image_sets)),
        "whole": {
            "samples": [layout_stats.whole(statistics) for statistics in generated],
            "held_out": layout_stats.whole(real),
        },
    }


def memorised(context: EvaluationContext, images: Tensor) -> dict:   # (n, 3, H, W)
    """Shares of images that are too near to training images, in pixels and in features."""
    if not len(context.train_rows):
        return NO_TRAINING_IMAGES
    thumbnails = memorisation.thumbnail_bank(context.train_dataset, context.train_rows)
    pixels = [memorisation.augmented_thumbnails(x) for x in (images, context.images)]
    features = [
        memorisation.augmented_features(x, context.device) for x in (images, context.images)
    ]
    return {
        "pixels": memorisation.memorisation(*pixels, thumbnails),
        "features": memorisation.memorisation(*features, context.train_features[0]),
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
    code_sets = conditional_code_sets(context, per_class, guidance)
    decoded = {
        name: [decoded_features(context, *code_set, decoder) for code_set in code_sets]
        for name, decoder in context.decoders.items()
    }
    if len(decoded) > 1:
        decoded["both decoders"] = [pooled(sets) for sets in zip(*decoded.values())]
    results["decoders"] = {
        name: conditional_scores(context, real, *sets) for name, sets in decoded.items()
    }
    return results


def conditional_code_sets(context, per_class: int, guidance: float | None) -> list[tuple]:
    """(codes, labels) of samples of each class, of all training images and of the held-out ones."""
    n_classes, n_train = len(context.classes), len(context.train_rows)
    labels = torch.arange(n_classes).repeat(min(per_class, -(-n_train // n_classes)))
    guidance = guidance or context.sampling["guidance"]
    generated = context.generate(labels, context.seed + 1, guidance=guidance)
    held_out = context.encode(context.images, context.encoder_at(context.lambda_))
    return [
        (generated, labels),
        (context.train_codes, context.train_features[1]),
        (held_out, context.labels),
    ]


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
    auc_real = cas["auc"]["real"]
    auc_again = probe.Probe(*train_again, real.n_classes).scores(*held_out)["auc"]
    return {
        "class_conditional_recall": {**recall, "ratio_reconstructions": recall_again["ratio"]},
        "cas": {**cas, "ratio_reconstructions": auc_again / auc_real if auc_real else None},
    }


def rate_distortion(context: EvaluationContext, n: int) -> dict:
    """Bytes and PSNR of the first n held-out images, as codes and as image formats.

    Codes are the nearest and, at shares of `lambda_`, entropy-constrained ones.
    """
    images, labels = context.images[:n], context.labels[:n].clamp(max=len(context.classes))
    curves = {
        codec: compression.curve(images, codec, QUALITIES) for codec in compression.codecs()
    }
    encoders = {"nearest codes": context.vqvae}
    if context.lambda_:
        for lambda_ in [share * context.lambda_ for share in SHARES]:
            name = f"entropy-constrained codes, lambda {lambda_:.2g}"
            encoders[name] = context.encoder_at(lambda_)
    points = {
        name: rate_point(context, images, labels, encoder, curves)
        for name, encoder in encoders.items()
    }
    return {"images": len(images), "codes": points}


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


def evaluate_generation(
    vqvae, prior, dataset, split, *,
    per_class=1024, rate_images=128, class_guidance=None, **options,
) -> dict:
    """All measures of a held-out split, ready for JSON.

    `prior` None leaves out what needs samples. `class_guidance` is the guidance of the `per_class`
    samples for class-conditional recall and CAS, if not that of the others; `options` are fields of
    EvaluationContext. KID is times 1,000. What cannot be measured (no training images, too few held
    out) is {"skipped": reason}. Features take most of the time, 25 ms an image on a CPU core:
    HAM10000's validation split needs those of 50,000 images.
    """
    context = EvaluationContext(vqvae, prior, dataset, split, **options)
    return {
        "split": split,
        "data": dataset.title,
        "images": len(context.images),
        "seed": context.seed,
        "sampling": context.sampling,
        "lambda": context.lambda_,
        "references": references(context),
        "reconstructions": reconstructions(context),
        "samples": {"skipped": "no prior"} if prior is None else samples(context),
        "probe": class_conditional(context, per_class, class_guidance),
        "rates": rate_distortion(context, rate_images),
    }


def sweep_sampling(vqvae, prior, dataset, split, settings=SWEEP, **options) -> dict:
    """KID times 1,000 and layout of samples for each of the settings of GPT.generate.

    A setting is what differs from `SAMPLING`; `options` are fields of EvaluationContext. Seeds and
    classes are the same for all. Layout is compared with all training images, or without any with
    the held-out ones, whose smaller number leaves more to chance. Raises ValueError without a
    prior.
    """
    if prior is None:
        raise ValueError("a sweep over sampling settings needs a prior: --prior FILE")
    context = EvaluationContext(vqvae, prior, dataset, split, **options)
    real = context.train_layout or layout_stats.describe(context.images)
    rows = []
    for setting in settings:
        codes = context.generate(context.labels, context.seed, **setting)
        images = context.decode(codes, context.sample_decoder)
        embedded = context.embed(images)
        interval = bootstrap(embedded, context.features, seed=context.seed)
        statistics = layout_stats.describe(images)
        rows.append({
            "setting": setting,
            "kid_x1000": 1000 * kid(embedded, context.features),
            "kid_x1000_95": [1000 * end for end in interval],
            "layout": layout_stats.compare([statistics], real, context.train_layout),
        })
    return {"split": split, "images": len(context.images), "seed": context.seed, "rows": rows}
