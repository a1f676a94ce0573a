"""A home folder with made-up results of one run, small enough to write in a moment."""
import copy
import itertools
import json

import numpy as np
from conftest import TINY
from PIL import Image

from vqlib.alt_texts import ALT_TEXTS
from vqlib.checkpoint import save_model
from vqlib.gpt import GPT, GPTConfig
from vqlib.presets import PRESETS
from vqlib.report.saved import Run
from vqlib.train import TrainConfig
from vqlib.vqvae import VQVAE
from vqlib.windowed_gpt import WindowedGPT, WindowedGPTConfig

# names that Markdown, HTML, typst and tables could take for their own
CLASSES = ["nv", "<b>mel</b>", "a|b", "$x$ *y*", "[c](http://example.org)"]
TITLE = "class folders <i>my|data</i>"


def spread(numbers) -> dict:
    return {"mean": next(numbers), "std": next(numbers), "min": next(numbers)}


def reconstruction(numbers) -> dict:
    """As vqlib.metrics.summary saves it; the last class has no image in the split."""
    classes = {name: {"images": 3, "psnr": spread(numbers), "ssim": spread(numbers)}
               for name in CLASSES[:-1]}
    return {"images": 12, "psnr": spread(numbers), "ssim": spread(numbers),
            "report_psnr": spread(numbers), "codes_used": 11, "perplexity": next(numbers),
            "n_codes": 16, "bits_per_image_fixed": next(numbers), "classes": classes}


def likelihood(numbers) -> dict:
    names = "nats_per_code", "bits_per_code", "bits_per_image", "bits_per_dim"
    return {name: next(numbers) for name in names}


def made_up(seed=0) -> dict[str, dict]:
    """{notebook: what it would save}; all numbers differ, and differ between seeds."""
    numbers = itertools.count(3.17 + seed, 1.13)
    ours, baseline = reconstruction(numbers), reconstruction(numbers)
    return {
        "01": {"mean": [next(numbers) for _ in range(3)], "std": [next(numbers) for _ in range(3)],
               "variance": next(numbers), "leak": next(numbers), "skipped": 2,
               "counts": {name: [40 + k, 20 + k] for k, name in enumerate(CLASSES)}},
        "02": {"key_metric": "PSNR", "ours": ours, "report's settings": baseline,
               "rows": {"PSNR, ours": "30.0 dB"}},
        "03": {"codes_used": 11, "explained_by_two_axes": next(numbers),
               "largest_lift": {name: next(numbers) for name in CLASSES}},
        "04": {"lines": {"ln K": next(numbers), "unigram": next(numbers)},
               "whole grid": likelihood(numbers), "window": likelihood(numbers),
               "bits_saved_by_class": next(numbers),
               "best": {"step": 41, "train": next(numbers), "held_out": next(numbers)}},
        "05": {"reconstruction": copy.deepcopy(ours), "memorisation": {
            "share": next(numbers), "median": next(numbers), "median_held_out": next(numbers)}},
    }


def models() -> dict:
    return {"vqvae": VQVAE(TINY), "baseline": VQVAE(TINY),
            "prior": GPT(GPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=1)),
            "windowed": WindowedGPT(WindowedGPTConfig(grid=4, n_codes=16, width=16, heads=2,
                                                      layers=1))}


def write_results(run: Run, results: dict) -> None:
    for notebook, saved in results.items():
        (run.folder / f"{notebook}.json").write_text(json.dumps(saved))


def make_run(home, preset="quick", fingerprint="0123456789abcdef") -> Run:
    """Everything that the five notebooks would have left of a run."""
    run = Run(PRESETS[preset], home / "data" / "runs" / f"{preset}-{fingerprint}")
    run.folder.mkdir(parents=True)
    write_results(run, made_up())
    for name, model in models().items():
        save_model(run.folder / f"{name}.safetensors", model, data=TITLE, preset=preset,
                   training=TrainConfig(steps=77, batch=9))
    run.figure("any").parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for name in ALT_TEXTS:
        Image.fromarray(pixels).save(run.figure(name))
    return run

