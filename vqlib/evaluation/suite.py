"""Everything at once: how far generated images are from held-out ones, beside the floors that real images set.

Letters: n held-out images (and as many of each other kind), T codes per image, K classes.
"""
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from vqlib.data.dataset import Dataset
from vqlib.entropy_constrained import encoder
from vqlib.evaluation import compression, layout_stats, memorisation, probe
from vqlib.evaluation.distances import bootstrap, distances, kid
from vqlib.evaluation.features import dataset_features, features
from vqlib.gpt import SAMPLING
from vqlib.metrics import assert_fits, likelihood, psnr
from vqlib.train import held_out_nats

NO_TRAIN = {"skipped": "no training images that are not held out: pass train=(dataset, split)"}
SWEEP = [{}, {"temperature": 0.9}, {"temperature": 1.05}, {"top_k": 200}, {"top_p": 0.97},
         *({"first_top_p": p} for p in (0.9, 0.95, 0.97)), *({"first_top_p": 0.95, "temperature": t} for t in (0.95, 0.98, 1.02)),
         {"guidance": 1.5}, {"guidance": 2.0}]
SETS, QUALITIES = 4, (0, 5, 10, 15, 20, 30, 40, 60, 80)


def pick(rows: np.ndarray, n: int | None, seed: int) -> np.ndarray:
    """n of the rows (None: all) in a random order: files are sorted by class."""
    return np.random.default_rng(seed).permutation(rows)[:n]


def in_parts(f, x: Tensor, size: int = 64) -> Tensor:
    return torch.cat([f(part).cpu() for part in x.split(size)])


@dataclass
class Bench:
    """What is judged and on what: nets, held-out images with features, training rows; `names`: the prior's classes first.

    Raises ValueError for an empty split, a prior that does not fit the VQ-VAE, and one whose classes are not known.
    """

    vqvae: nn.Module
    prior: nn.Module | None
    dataset: Dataset
    split: str
    sharp: object = None                          # decodes codes, too; has .decode or is a function
    n: int | None = None                          # held-out images; None: all
    seed: int = 0
    classes: list[str] | None = None              # the prior's; None: those of the training data
    train: tuple[Dataset, str] | None = None      # None: "train" of the same data set, unless the held-out split contains it
    sampling: dict = field(default_factory=dict)  # see GPT.generate

    def __post_init__(self):
        if not len(self.dataset.splits[self.split]):
            raise ValueError(f"split {self.split} of {self.dataset.title} has no image; 'all' takes the whole folder for it")
        if self.prior is not None:
            assert_fits(self.prior, self.vqvae)
        self.device, self.sampling = self.vqvae.mean.device, SAMPLING | self.sampling
        self.source, part = self.train or (self.dataset, "train")
        rows, held_out = self.source.splits[part], self.dataset.splits[self.split]
        leaks = self.source.fingerprint == self.dataset.fingerprint and np.isin(rows, held_out).any()
        self.source_rows = rows[:0] if leaks else rows
        self.classes = list(self.classes or self.source.classes)
        if self.prior is not None and len(self.classes) != self.prior.cfg.n_classes:
            raise ValueError(f"the prior knows {self.prior.cfg.n_classes} classes, not {self.classes}: name them in classes=")
        self.names = self.classes + sorted({*self.dataset.classes, *self.source.classes} - {*self.classes})
        held_out = pick(held_out, self.n, self.seed)
        self.images, self.labels = self.dataset[held_out], self.labels_of(self.dataset, held_out)
        self.features = self.see(self.images)

    def labels_of(self, dataset, rows) -> Tensor:                    # (n,) -> (n,) places in `names`
        return torch.tensor([self.names.index(c) for c in dataset.classes])[dataset.labels[rows]]

    def see(self, images: Tensor) -> Tensor:                         # (n, 3, H, W) -> (n, 1280)
        return features(images, device=self.device)

    def distances(self, images: Tensor, paired: bool = False) -> dict:
        return distances(self.see(images), self.features, self.seed, paired)

    def encode(self, images: Tensor, by=None) -> Tensor:             # (n, 3, H, W) -> (n, h, w)
        return in_parts(lambda x: (by or self.vqvae).encode(x.to(self.device)), images)

    def decode(self, codes: Tensor, by=None) -> Tensor:              # (n, T) or (n, h, w) -> (n, 3, H, W)
        decode = getattr(by or self.vqvae, "decode", by)
        return in_parts(lambda c: decode(c.view(len(c), self.vqvae.cfg.grid, -1).to(self.device)), codes)

    def generate(self, labels: Tensor, seed: int, **sampling) -> Tensor:  # (n,) -> (n, T)
        """Codes of classes in `names`; a class that the prior does not know is drawn as "any"."""
        seeds = iter(range(1_000_003 * seed, 1_000_003 * (seed + 1)))
        options = self.sampling | sampling
        return in_parts(lambda y: self.prior.generate(y, seed=next(seeds), **options), labels.clamp(max=len(self.classes)))

    @cached_property
    def encoders(self) -> dict:
        """Nearest codes, and those that the prior is for if it is for others."""
        by = encoder(self.vqvae, self.prior)
        return {"": self.vqvae} | ({} if by is self.vqvae else {", thrifty codes": by})

    @cached_property
    def decoders(self) -> dict:
        return {"faithful": self.vqvae} | ({} if self.sharp is None else {"sharp": self.sharp})

    @cached_property
    def train_images(self) -> Tensor:                                # (n, 3, H, W) as many as are held out
        return self.source[pick(self.source_rows, len(self.images), self.seed)]

    def of_training(self, f) -> list:
        """f of all training images, 512 at a time: HAM10000's would take 1.4 GB."""
        return [f(self.source[c]) for c in np.array_split(self.source_rows, -(-len(self.source_rows) // 512))]

    @cached_property
    def shapes(self) -> dict | None:                                 # of all training images, see layout_stats.describe
        parts = self.of_training(layout_stats.describe) if len(self.source_rows) else []
        return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]} if parts else None

    @cached_property
    def source_codes(self) -> Tensor:                                # (N, h, w) of all training images, as the prior is for
        return torch.cat(self.of_training(lambda x: self.encode(x, encoder(self.vqvae, self.prior))))

    @cached_property
    def taught(self) -> tuple[Tensor, Tensor]:                       # (N, 1280), (N,) of all training images
        return dataset_features(self.source, self.source_rows, device=self.device), self.labels_of(self.source, self.source_rows)


def floors(bench: Bench) -> dict:
    """Distances that no model causes: of training images, and of one half of the held-out ones to the other."""
    halves = distances(bench.features[::2], bench.features[1::2], bench.seed)
    return {"train": bench.distances(bench.train_images) if len(bench.source_rows) else NO_TRAIN, "halves": halves}


def reconstructions(bench: Bench) -> dict:
    """Distances of the same photographs after the codes, and after a codec whose payload is as long as the plain codes."""
    size, out = compression.fixed_bytes(bench.vqvae.cfg.grid**2, bench.vqvae.cfg.n_codes), {}
    for way, by in bench.encoders.items():
        codes = bench.encode(bench.images, by)
        for name, look in bench.decoders.items():
            x = bench.decode(codes, look)
            out[name + way] = {"bytes": size, "psnr": float(psnr(x, bench.images).mean()), **bench.distances(x, True)}
    for codec in sorted({*compression.codecs()} - {"avif"}):
        x, point = compression.transcode(bench.images, codec, compression.quality_at(bench.images[:32], codec, size))
        out[codec] = {**point, **bench.distances(x, True)}
    return out


def samples(bench: Bench) -> dict:
    """Distances of as many samples as held-out images, of the same classes; structure and copies of `SETS` times as many."""
    sets = [bench.generate(bench.labels, bench.seed + 10 * i) for i in range(SETS)]
    shown = [bench.decode(codes, bench.sharp) for codes in sets]
    seen = {name: shown[0] if by is bench.sharp else bench.decode(sets[0], by) for name, by in bench.decoders.items()}
    made, real = [*map(layout_stats.describe, shown)], layout_stats.describe(bench.images)
    return {"distances": {name: bench.distances(x) for name, x in seen.items()},
            "structure": layout_stats.compare(made, real, bench.shapes), "memorised": copies(bench, torch.cat(shown)),
            "whole": {"samples": [*map(layout_stats.whole, made)], "held_out": layout_stats.whole(real)}}


def copies(bench: Bench, images: Tensor) -> dict:
    """Shares of images that are too near to training images, in pixels and in features."""
    if not len(bench.source_rows):
        return NO_TRAIN
    bank = memorisation.thumbnail_bank(bench.source, bench.source_rows)
    pixels = [memorisation.pixel_views(x) for x in (images, bench.images)]
    seen = [memorisation.feature_views(x, bench.device) for x in (images, bench.images)]
    return {"pixels": memorisation.memorisation(*pixels, bank), "features": memorisation.memorisation(*seen, bench.taught[0])}


def teaching(bench: Bench, per_class: int, guidance: float | None = None) -> dict:
    """The probe on real images, and with a prior class control and CAS, on at most as many samples as training images.

    Beside both what reconstructions reach (for CAS of training images): a perfect prior's codes, in the same look. In "both
    looks" each sample is seen twice. `guidance`: of these samples, if another: a diagnosis on demand is what it is for.
    """
    if not len(bench.source_rows):
        return NO_TRAIN
    if len(bench.taught[1].unique()) < 2:
        return {"skipped": "all training images are of one class"}
    held_out, linear, K = (bench.features, bench.labels), probe.Probe(*bench.taught, len(bench.names)), len(bench.classes)
    out = {"classes": bench.names, "images": len(bench.taught[1]), "held_out": linear.scores(*held_out), "guidance": guidance}
    if bench.prior is None:
        return out
    labels = torch.arange(K).repeat(min(per_class, -(-len(bench.taught[1]) // K)))
    drawn = bench.generate(labels, bench.seed + 1, guidance=guidance or bench.sampling["guidance"])
    found = bench.encode(bench.images, encoder(bench.vqvae, bench.prior))
    coded = (drawn, labels), (bench.source_codes, bench.taught[1]), (found, bench.labels)
    looks = {name: [in_parts(lambda c, by=by: bench.see(bench.decode(c, by)), codes) for codes, _ in coded]
             for name, by in bench.decoders.items()}
    if len(looks) > 1:
        looks["both looks"] = [torch.cat(parts) for parts in zip(*looks.values())]
    for name, seen in looks.items():
        made, retold, again = ((x, y.repeat(len(x) // len(y))) for x, (_, y) in zip(seen, coded))
        cas = probe.classification_accuracy_score(linear, bench.taught, made, held_out)
        real, ceiling = cas["auc"]["real"], probe.Probe(*retold, len(bench.names)).scores(*held_out)["auc"]
        control, kept = (probe.class_control(linear, held_out, part) for part in (made, again))
        out.setdefault("looks", {})[name] = {"class_control": control, "reconstructions": kept["ratio"],
                                             "cas": {**cas, "ratio_reconstructions": ceiling / real if real else None}}
    return out


def rate_distortion(bench: Bench, n: int) -> dict:
    """Ours beside image formats on the first n held-out images, for nearest codes and at shares of the prior's rate.

    Bytes of the formats are those at the PSNR of our faithful reconstruction.
    """
    x, labels = bench.images[:n], bench.labels[:n].clamp(max=len(bench.classes))
    curves = {codec: compression.curve(x, codec, QUALITIES) for codec in compression.codecs()}
    out = {"images": len(x), "curves": curves, "codes": {}}
    for share in (0, 1 / 3, 2 / 3, 1) if len(bench.encoders) > 1 else (0,):
        by = encoder(bench.vqvae, bench.prior, share * bench.prior.cfg.rate if share else 0.0)
        codes = bench.encode(x, by)
        decibels = float(psnr(bench.decode(codes), x).mean())
        at = {codec: {key: compression.bytes_at_psnr(points, decibels, key) for key in ("bytes", "payload")}
              for codec, points in curves.items()}
        ours = {"psnr": decibels, "plain": compression.fixed_bytes(codes[0].numel(), bench.vqvae.cfg.n_codes), "codecs_at_psnr": at}
        if bench.prior is not None:
            codes = codes.flatten(1)
            nats = held_out_nats(bench.prior, codes, labels)
            ours |= {"prior": likelihood(nats, x[0].numel()), "coded": compression.coded_bytes(bench.prior, codes, labels, nats)}
        out["codes"][f"thrifty codes, rate {by.rate:.1f}" if share else "nearest codes"] = ours
    return out


def judge(vqvae, prior, dataset, split, *, per_class=1024, rate_images=128, class_guidance=None, **options) -> dict:
    """All figures of a held-out split, ready for JSON; `prior` None leaves out what needs samples; `options` see Bench.

    `class_guidance`: of the samples for class control and CAS, if not the setting of the others. KID is times 1,000. Figures
    that cannot be had (no training images, too few held out) are {"skipped": reason}. Features take most of the time, 25 ms an
    image on a CPU core: HAM10000's validation split needs those of some 50,000 images.
    """
    bench = Bench(vqvae, prior, dataset, split, **options)
    return {"split": split, "data": dataset.title, "images": len(bench.images), "seed": bench.seed, "sampling": bench.sampling,
            "floors": floors(bench), "reconstructions": reconstructions(bench),
            "samples": {"skipped": "no prior"} if prior is None else samples(bench),
            "probe": teaching(bench, per_class, class_guidance), "rates": rate_distortion(bench, rate_images)}


def sweep(vqvae, prior, dataset, split, settings=SWEEP, **options) -> dict:
    """KID times 1,000 and structure for each of the settings of GPT.generate, as differences to `SAMPLING`; `options` see Bench.
    Same seeds and classes for all. Structure is compared with all training images, if any: fewer leave more to luck."""
    if prior is None:
        raise ValueError("a sweep over sampling settings needs a prior: --prior FILE")
    bench, rows = Bench(vqvae, prior, dataset, split, **options), []
    real = bench.shapes or layout_stats.describe(bench.images)
    for setting in settings:
        images = bench.decode(bench.generate(bench.labels, bench.seed, **setting), bench.sharp)
        seen = bench.see(images)
        ends = bootstrap(seen, bench.features, seed=bench.seed)
        rows.append({"setting": setting, "kid_x1000": 1000 * kid(seen, bench.features), "kid_x1000_95": [1000 * v for v in ends],
                     "structure": layout_stats.compare([layout_stats.describe(images)], real, bench.shapes)})
    return {"split": split, "images": len(bench.images), "seed": bench.seed, "rows": rows}
