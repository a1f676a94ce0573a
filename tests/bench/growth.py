"""How cost grows: `python -m tests.bench.growth` draws time and peak memory against every size.

An exponent is the slope of a straight line through the upper half of the points in log-log scale;
below, fixed costs rule.
"""
import argparse
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import NullFormatter

from vqlib.data.dataset import Geometry, build_cache
from vqlib.data.sources import Record, Source
from vqlib.gpt import GPT, GPTConfig
from vqlib.quantizer import Quantizer
from vqlib.vqvae import VQVAE, VQVAEConfig

from .timing import peak_bytes

FIGURE = Path(__file__).resolve().parents[2] / "figures" / "growth.png"
BATCH = 8


def cache(n: int):
    """The first build of n images of 32 px from an array, duplicates looked for among all pairs."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)
    records = [Record(str(i), "nv", str(i), i) for i in range(n)]
    source = Source("noise", "noise", records, array=pixels)

    def run():
        with tempfile.TemporaryDirectory() as folder:
            build_cache(source, Geometry(32, 32), Path(folder) / "cache")
    return run, n


def vqvae(side: int):
    """Forward and backward pass of the report's nets, and the codebook's step."""
    model, images = VQVAE(VQVAEConfig(image_size=side)).train(), torch.rand(BATCH, 3, side, side)

    def run():
        x_hat, q = model(model.normalise(images))
        (x_hat.square().mean() + q.commit).backward()
        model.quantizer.step()
    return run, BATCH


def quantizer(K: int):
    """Forward pass and codebook step on 32 x 32 cells of width 128."""
    layer, z = Quantizer(K, 128).train(), torch.randn(BATCH, 128, 32, 32)

    def run():
        layer(z)
        layer.step()
    return run, BATCH


def training(side: int):
    """Loss and gradient of the default GPT on side**2 codes."""
    model, rng = GPT(GPTConfig(grid=side)).train(), torch.Generator()
    codes = torch.zeros(BATCH, side**2, dtype=torch.long)
    labels = torch.zeros(BATCH, dtype=torch.long)
    return lambda: model.loss(codes, labels, rng).backward(), BATCH


def sampling(side: int):
    """`generate` of the default GPT on side**2 codes."""
    model = GPT(GPTConfig(grid=side))
    return lambda: model.generate(torch.zeros(BATCH, dtype=torch.long)), BATCH


def as_they_are(*sizes):
    return {size: size for size in sizes}


def squares(*sides):
    return {side: side**2 for side in sides}


# title: (what to run, {argument: value on the axis}, axis, order of time per image, of peak memory)
PANELS = {
    "first build of the cache": (cache, as_they_are(500, 1000, 2000, 4000, 8000), "images N",
                                 "decoding 0, all pairs 1", "1, blocks of pairs"),
    "VQ-VAE training step": (vqvae, as_they_are(32, 48, 64, 96, 128, 192), "image side S",
                             "2", "2"),
    "quantizer": (quantizer, as_they_are(64, 128, 256, 512, 1024, 2048), "codes K",
                  "1", "up to 1, one block"),
    "GPT training step": (training, squares(8, 12, 16, 24, 32), "codes per image T",
                          "1, attention 2", "1"),
    "GPT sampling": (sampling, squares(8, 12, 16, 24, 32), "codes per image T",
                     "1, attention 2", "1"),
}


def best(run, repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)                                          # noise only adds


def measure(make, sizes: dict, repeats=3) -> np.ndarray:
    """Size, seconds per image and peak MiB of each size, (n, 3)."""
    points = []
    for argument, size in sizes.items():
        run, n = make(argument)
        peak = peak_bytes(run) / 2**20                           # its first run warms up
        points.append((size, best(run, repeats) / n, peak))
    return np.array(points)


def exponent(x, y) -> float:
    """Slope in log-log scale over the upper half of the sizes."""
    half = len(x) // 2
    return float(np.polyfit(np.log(x[half:]), np.log(np.maximum(y[half:], 1e-9)), 1)[0])


def draw(results: dict[str, np.ndarray], path: Path) -> None:
    fig, axes = plt.subplots(2, len(results), figsize=(2.6 * len(results), 5.6), squeeze=False,
                             constrained_layout=True)
    names = "seconds per image", "peak MiB"
    for (title, points), column in zip(results.items(), axes.T):
        size, *measured = points.T
        for ax, y, name, order in zip(column, measured, names, PANELS[title][3:]):
            ax.loglog(size, y, "o-")
            ax.set_xticks(size[::2], [f"{s:.0f}" for s in size[::2]])
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.set_xlabel(PANELS[title][2])
            ax.set_ylabel(name)
            ax.set_title(f"{title}\nexponent {exponent(size, y):.2f}\n(its algorithm: {order})",
                         fontsize=8)
    path.parent.mkdir(exist_ok=True)
    fig.savefig(path, dpi=120, metadata={"Software": None})


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--out", type=Path, default=FIGURE)
    args = parser.parse_args()
    results = {}
    for title, (make, sizes, *_) in PANELS.items():
        results[title] = measure(make, sizes)
        size, *measured = results[title].T
        exponents = [f"{exponent(size, y):.2f}" for y in measured]
        print(f"{title}: exponents of time and memory", *exponents, flush=True)
    draw(results, args.out)


if __name__ == "__main__":
    main()
