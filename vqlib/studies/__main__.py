"""python -m vqlib.studies {vqvae,prior,transform,limits,codec,all}: run every row of a table, keep its figures as JSON."""
import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vqlib import metrics, train
from vqlib.backend.paths import home
from vqlib.checkpoint import load_model, write_atomically
from vqlib.data.augment import Augment
from vqlib.data.dataset import Dataset, Geometry, statistics
from vqlib.data.sources import open_source
from vqlib.evaluation import layout_stats, probe
from vqlib.flow_decoder import StochasticDecoder
from vqlib.gpt import GPTConfig
from vqlib.presets import PRESETS, Preset
from vqlib.studies import codecs, priors, quantizers, transforms
from vqlib.studies.results import FOLDER, ROWS
from vqlib.studies.rows import CodecRow, LimitRow, PriorRow, TransformRow, VQVAERow
from vqlib.vqvae import VQVAE, VQVAEConfig

SAMPLED = ("window", "whole", "class", "ours")  # rows from which images are drawn, too


def about(dataset: Dataset, run: train.TrainConfig) -> dict:
    return {"data": dataset.title, "images": len(dataset), "updates": run.steps, "batch": run.batch}


@dataclass
class VQVAEBench:
    """What all rows of the first table share."""

    dataset: Dataset
    cfg: VQVAEConfig
    run: train.TrainConfig
    table, seeded = "vqvae", True

    @classmethod
    def open(cls, data):
        """Images, batches, learning rate and updates of `quick`; nets half as wide."""
        p = PRESETS["quick"]
        return cls(Dataset(open_source(data, p.n_synthetic, p.geometry.side), p.geometry),
                   replace(p.vqvae, hidden=32, residual_hidden=16), p.vqvae_training)

    def __post_init__(self):
        self.stats = statistics(self.dataset)

    @property
    def sizes(self) -> dict:
        return {**about(self.dataset, self.run), "image_size": self.cfg.image_size, "hidden": self.cfg.hidden}

    def model(self, row: VQVAERow, seed: int) -> VQVAE:
        width = 3 if row.quantizer == "fsq" else row.code_dim         # 512 = 8 x 8 x 8
        cfg = replace(self.cfg, data_init=row.data_init, reset_threshold=row.reset_threshold, n_down=row.n_down, code_dim=width)
        model = VQVAE(cfg, self.stats["mean"], self.stats["std"], seed)
        if row.quantizer != "ema":
            kind = quantizers.KINDS[row.quantizer]
            model.quantizer = kind(cfg.n_codes, cfg.code_dim, cfg.decay, cfg.data_init, cfg.reset_threshold, seed)
        return model

    def figures(self, row: VQVAERow, seed: int) -> dict:
        model, run = self.model(row, seed), replace(self.run, seed=seed, cosine=row.cosine)
        variance = self.stats["variance"] if row.scale_by_pixels else 1.0
        for _ in train.train_vqvae(model, self.dataset, run, Augment(), variance):
            pass
        r = metrics.evaluate_vqvae(model, self.dataset, "validation")
        return {**{k: r[k]["mean"] for k in ("psnr", "ssim")}, **{k: r[k] for k in ("codes_used", "perplexity")}}


@dataclass
class PriorBench:
    """What all rows of the second table share: above all the codes."""

    vqvae: VQVAE
    dataset: Dataset
    cfg: GPTConfig
    run: train.TrainConfig
    n_train: int = 1000
    n_samples: int = 64
    table, seeded = "prior", True

    @classmethod
    def open(cls, data):
        """The codes of the VQ-VAE that ships; optimiser of `quick`, smaller nets, and fewer updates."""
        p = PRESETS["quick"]
        vqvae, card = load_model(home() / "data" / "pretrained" / "vqvae-f8.safetensors", "vqvae")
        geometry = Geometry(**card["geometry"])
        dataset = Dataset(open_source(data, p.n_synthetic, geometry.side), geometry)
        cfg = GPTConfig(vqvae.cfg.grid, vqvae.cfg.n_codes, len(dataset.classes), width=64, heads=2, layers=2)
        return cls(vqvae, dataset, cfg, replace(p.gpt_training, steps=300, eval_every=300, eval_images=64))

    def __post_init__(self):
        train_split = self.dataset.splits["train"]                    # one subset for all rows and seeds, shuffled
        self.dataset.splits["some"] = np.random.default_rng(0).permutation(train_split)[: self.n_train]
        self.train = train.encode_dataset(self.vqvae, self.dataset, "some", range(8))
        self.held_out = train.encode_dataset(self.vqvae, self.dataset, "validation")

    @property
    def sizes(self) -> dict:
        return {**about(self.dataset, self.run), "training_images": len(self.train[0]), "width": self.cfg.width,
                "heads": self.cfg.heads, "layers": self.cfg.layers, "samples": self.n_samples}

    def figures(self, row: PriorRow, seed: int) -> dict:
        cfg, run = replace(self.cfg, dropout=row.dropout, kv_heads=row.kv_heads), replace(self.run, seed=seed)
        codes, held = self.train[0][:, : row.views], self.held_out[0]
        y, held_y = (y if row.class_token else torch.full_like(y, cfg.n_classes) for _, y in (self.train, self.held_out))
        prior = priors.build(row, cfg, run.steps, seed)
        average = AveragedModel(prior, multi_avg_fn=get_ema_multi_avg_fn(row.average)) if row.average else None
        for _ in train.train_prior(prior, (codes, y), (held, held_y), run):
            if average:
                average.update_parameters(prior)
        prior = average.module if average else prior
        nats = metrics.likelihood(train.held_out_nats(prior, held[:, 0], held_y), 3 * self.dataset.geometry.crop**2)
        seen = train.held_out_nats(prior, codes[: len(held), 0], y[: len(held)]).mean()
        return {"nats": nats["nats_per_code"], "bits": nats["bits_per_code"], "train_nats": float(seen),
                **(self.structure(prior, row, held_y, seed) if row.key in SAMPLED else {})}

    def structure(self, prior, row: PriorRow, labels: torch.Tensor, seed: int) -> dict:
        """How many times farther from held-out images samples are than training images are; `structure` is the mean."""
        n, grid = self.n_samples, self.cfg.grid
        pick = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:n]
        codes = prior.generate(len(pick), seed=seed) if row.window else prior.generate(labels[pick], seed=seed)
        held_out, some = (self.dataset[np.random.default_rng(0).permutation(self.dataset.splits[name])[:m]]
                          for name, m in (("validation", 256), ("some", n)))
        made, *real = map(layout_stats.describe, (self.vqvae.decode(codes.view(-1, grid, grid)), held_out, some))
        ratio = layout_stats.compare([made], *real)["ratio"]
        return {"structure": float(np.exp(np.mean(np.log([*ratio.values()])))), "structure_parts": ratio}


@dataclass
class TransformBench:
    """What all rows of the third table share: the geometry, bits and held-out images of the flagship."""

    dataset: Dataset
    n_codes: int = 512
    n_train: int = 3000
    table, seeded = "transform", True

    @classmethod
    def open(cls, data):
        p = PRESETS["flagship"]
        return cls(Dataset(open_source(data, p.n_synthetic, p.geometry.side), p.geometry), p.vqvae.n_codes)

    @property
    def sizes(self) -> dict:
        return {"data": self.dataset.title, "images": len(self.dataset), "training_images": self.n_train, "n_codes": self.n_codes}

    def figures(self, row: TransformRow, seed: int) -> dict:
        some = np.random.default_rng(0).permutation(self.dataset.splits["train"])[: self.n_train]
        held_out = self.dataset[self.dataset.splits["validation"]]
        return transforms.figures(self.dataset[some], held_out, row.side, row.keep, self.n_codes, seed)


@dataclass
class LimitBench:
    """What all rows of the fourth table share: all settings of the flagship's VQ-VAE that a row does not change."""

    preset: Preset
    dataset: Dataset
    table, seeded = "limits", True

    @classmethod
    def open(cls, data):
        p = PRESETS["flagship"]
        return cls(p, Dataset(open_source(data, p.n_synthetic, p.geometry.side), p.geometry))

    @property
    def sizes(self) -> dict:
        return {"data": self.dataset.title, "images": len(self.dataset), "batch": self.preset.vqvae_training.batch}

    def figures(self, row: LimitRow, seed: int) -> dict:
        stats, run, cfg = statistics(self.dataset), replace(self.preset.vqvae_training, steps=row.steps, seed=seed), self.preset.vqvae
        widths = {name: round(row.width * getattr(cfg, name)) for name in ("hidden", "residual_hidden")}
        model = VQVAE(replace(cfg, n_codes=row.n_codes, **widths), stats["mean"], stats["std"], seed)
        for _ in train.train_vqvae(model, self.dataset, run, self.preset.augment):
            pass
        r = metrics.evaluate_vqvae(model, self.dataset, "validation")
        return {**{k: r[k]["mean"] for k in ("psnr", "ssim")}, "perplexity": r["perplexity"]}


@dataclass
class CodecBench:
    """What all rows of the fifth table share: images, weights that ship, and what photographs teach."""

    teacher: codecs.Teacher
    weights: dict[str, str]       # digests: results of other weights are other results
    table, seeded = "codec", False

    @classmethod
    def open(cls, data):
        p, shipped = PRESETS["flagship"], home() / "data" / "pretrained"
        files = [shipped / f"{name}.safetensors" for name in ("vqvae-f8", "vqvae-f4", "gpt-f8", "sharp-f8")]
        f8, f4, prior, sharp = (load_model(path)[0] for path in files)
        dataset = Dataset(open_source(data, p.n_synthetic, p.geometry.side), p.geometry)
        return cls(codecs.Teacher(dataset, {"f8": f8, "f4": f4}, prior, StochasticDecoder(f8, sharp)),
                   {path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in files})

    @property
    def sizes(self) -> dict:
        t = self.teacher
        return {"data": t.dataset.title, "training_images": len(t.labels), "held_out": len(t.images), "rate": t.prior.cfg.rate,
                "probe": probe.WEIGHT, "weights": self.weights}

    def figures(self, row: CodecRow, seed: int) -> dict:
        return self.teacher.figures(row)                              # nothing is drawn at random but the sharp look's noise


BENCHES = VQVAEBench, PriorBench, TransformBench, LimitBench, CodecBench


def run(bench, row, seed: int, folder: Path) -> bool:
    """Train and judge a row unless a result with the same settings is there; says which."""
    path = folder / f"{bench.table}-{row.key}-{seed}.json"
    settings = {"table": bench.table, **asdict(row), "seed": seed, "sizes": bench.sizes}
    del settings["label"], settings["against"]                        # what it is called and compared with trains nothing
    if path.exists() and settings.items() <= json.loads(path.read_text()).items():
        return False
    start = time.process_time()
    figures = bench.figures(row, seed)
    result = {**settings, "figures": figures, "cpu_seconds": round(time.process_time() - start), "torch": torch.__version__}
    write_atomically(path, json.dumps(result, indent=1).encode() + b"\n")
    return True


def main(argv=None) -> None:
    p = argparse.ArgumentParser(prog="python -m vqlib.studies", description=__doc__)
    p.add_argument("table", choices=(*ROWS, "all"))
    p.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    p.add_argument("--data", help="folder or .npz; default: $VQLIB_DATA, data/ham10000, synthetic")
    p.add_argument("--out", type=Path, default=FOLDER, help="where results lie; default: data/studies")
    args = p.parse_args(argv)
    benches = [bench.open(args.data) for bench in BENCHES if args.table in (bench.table, "all")]
    for seed in args.seeds:                                           # a whole table of one seed first
        for bench in benches:
            for row in ROWS[bench.table] if bench.seeded or seed == args.seeds[0] else ():
                new = run(bench, row, seed, args.out)
                print(f"{bench.table} {row.key} {seed}: {'done' if new else 'was there'}", flush=True)


if __name__ == "__main__":
    main()
