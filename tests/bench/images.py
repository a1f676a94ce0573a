"""Images from files into training: augmented batches, memory of an epoch, building the cache.

JPEGs come from `$VQLIB_DATA` if that holds files, else synthetic lesions are saved as such.
HAM10000 is distributed at 600 x 450 px. Smaller copies are also timed enlarged to that, because
what a decoder takes depends on it.
"""
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from vqlib.backend.cpu import keep_pages
from vqlib.data.augment import Augment
from vqlib.data.batches import batches
from vqlib.data.dataset import Dataset, Geometry, build_cache
from vqlib.data.decode import decode
from vqlib.data.sources import Record, Source, open_source
from vqlib.data.synthetic import synthetic
from vqlib.vqvae import VQVAE, VQVAEConfig

from .timing import Row, between, compare

DISTRIBUTED = (600, 450)
BATCH = 32
# epochs in a turn of ours: one would be over in a tenth of a second, most of it waking from a pause
LONGER = 8
AUGMENTS = {"flips and rotation": Augment(),
            "flips and quarter turns": Augment(dihedral=True, rotate=0.0)}
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Scale:
    """How much is measured."""

    n: int                     # files
    rounds: int
    n_batches: int             # of a turn; an epoch: what workers fetched before it is little
    geometry: Geometry
    batch: int = BATCH


FULL = Scale(n=96 * BATCH, rounds=5, n_batches=96, geometry=Geometry())
TINY = Scale(n=12, rounds=1, n_batches=1, geometry=Geometry(16, 16), batch=8)


def sources(folder: Path, n: int):
    """(name, files) of up to n JPEGs as they are found, then the same at HAM10000's size."""
    found = open_source(n_synthetic=1).records if os.environ.get("VQLIB_DATA") else []
    files = [r.place for r in found if isinstance(r.place, Path)][:n]
    if files:
        width, height = Image.open(files[0]).size
        yield f"JPEGs of {width} x {height}", files
        pictures = (Image.open(f).convert("RGB") for f in files)
    else:
        pictures = (Image.fromarray(x.transpose(1, 2, 0)) for x in synthetic(n, 128, 0)[0])
    large = [folder / f"{i:05d}.jpg" for i in range(n)]
    for path, picture in zip(large, pictures):
        picture.resize(DISTRIBUTED, Image.Resampling.BICUBIC).save(path, quality=95)
    yield f"JPEGs of {DISTRIBUTED[0]} x {DISTRIBUTED[1]}", large[: len(files) or n]


def as_source(files) -> Source:
    """One lesion per file."""
    return Source("files", "files", [Record(f.stem, "nv", f.stem, f) for f in files])


class PerImage(torch.utils.data.Dataset):
    """How tutorials feed images: open, transform, one at a time; the same steps as ours."""

    def __init__(self, files, geometry: Geometry, cfg: Augment):
        self.files = files
        turn = transforms.RandomRotation(cfg.rotate, transforms.InterpolationMode.BILINEAR)
        quarters = [transforms.RandomRotation((angle, angle)) for angle in (0, 90, 180, 270)]
        self.steps = transforms.Compose([
            transforms.Resize(geometry.resize), transforms.CenterCrop(geometry.crop),
            transforms.RandomHorizontalFlip(0.5 if cfg.dihedral else cfg.flip),
            transforms.RandomChoice(quarters) if cfg.dihedral else turn, transforms.ToTensor()])

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return self.steps(Image.open(self.files[i]).convert("RGB"))


def consume(feed, n: int) -> None:
    """As a training loop does: a batch is gone when the one after the next comes."""
    for _ in islice(feed, n):
        pass


def endless(loader):
    while True:
        yield from loader


def feeding(what: str, name: str, files: list[Path], folder: Path, scale: Scale):
    """Images per second with the augmentation `what`."""
    cfg, geometry = AUGMENTS[what], scale.geometry
    dataset = Dataset(as_source(files), geometry, cache=folder / name)
    ours = batches(dataset, "all", scale.batch, 0, cfg)
    loader = DataLoader(PerImage(files, geometry, cfg), scale.batch, shuffle=True, drop_last=True,
                        num_workers=2, persistent_workers=True)
    theirs = endless(loader)
    pause = 0 if scale is TINY else 1                            # its workers fetch ahead
    turns = {"ours": scale.n_batches * LONGER, "peer": scale.n_batches}
    seconds = compare(scale.rounds, lambda: time.sleep(pause),
                      ours=lambda: consume(ours, turns["ours"]),
                      peer=lambda: consume(theirs, turns["peer"]))
    per_image = {who: s / (turns[who] * scale.batch) for who, s in seconds.items()}
    rates = [f"{1 / np.median(per_image[who]):,.0f}" for who in ("ours", "peer")]
    return Row(f"images/s into training, {geometry.crop} px, {what}",
               f"torchvision per image, 2 workers, {name}", ">= 10",
               per_image["peer"] / per_image["ours"], f"{' : '.join(rates)} images/s")


def resident() -> int:
    """Bytes of this process in memory, mapped files included; Linux."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def one_epoch(folder: Path) -> int:
    """By how many bytes this process grows at most while it takes each cached image once.

    The model is there before.
    """
    model = VQVAE(VQVAEConfig())
    model(torch.zeros(BATCH, 3, 128, 128))
    model.quantizer.step()
    before = most = resident()
    dataset = Dataset(as_source(sorted(folder.glob("*.jpg"))), Geometry(), cache=folder)
    for _ in islice(batches(dataset, "all", BATCH, 0, Augment()), len(dataset) // BATCH):
        most = max(most, resident())
    return most - before


def residency(folder: Path, n: int):
    """In a process of its own: this one has seen too much."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        cells = Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8))
        cells.resize((128, 128)).save(folder / f"{i:05d}.jpg")
    files = sorted(folder.glob("*.jpg"))
    Dataset(as_source(files), Geometry(), cache=folder)          # builds the cache
    command = [sys.executable, "-m", "tests.bench.images", str(folder)]
    grown = int(subprocess.check_output(command, cwd=ROOT)) / 1e6
    return Row(f"memory of one epoch of {n:,} images of 128 px, above the model, MB", "",
               "<= 300", [grown], "resident, mapped files included")


def first_build(files, folder: Path, geometry: Geometry, rounds: int):
    """The whole build, duplicates and all, against nothing but decoding in one thread."""
    scratch = iter(range(10**6))

    def ours():
        build_cache(as_source(files), geometry, folder / f"build{next(scratch)}")

    def peer():
        out = np.empty((len(files), 3, geometry.side, geometry.side), np.uint8)
        for i, file in enumerate(files):
            out[i] = decode(file, None, geometry)
        np.save(folder / "peer.npy", out)

    # the disk still writes what the turn before left
    seconds = compare(rounds, os.sync, ours=ours, peer=peer)
    return Row(f"first build of the cache, {len(files):,} JPEGs, {geometry.crop} px",
               "one process with PIL", ">= 1.7",
               seconds["peer"] / seconds["ours"], between(seconds["ours"], seconds["peer"]))


def bench(tiny=False):
    scale = TINY if tiny else FULL
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        folder = Path(folder)
        for name, files in sources(folder, scale.n):
            for what in AUGMENTS:
                yield feeding(what, name, files, folder, scale)
        if sys.platform == "linux":
            yield residency(folder / "noise", 40 if tiny else 10_015)
        files = next(sources(folder, scale.n if tiny else 9_025))[1]
        yield first_build(files, folder, scale.geometry, 1 if tiny else 3)


if __name__ == "__main__":
    keep_pages()                                                 # as commands and notebooks do
    print(one_epoch(Path(sys.argv[1])))
