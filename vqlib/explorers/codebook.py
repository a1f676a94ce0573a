"""Explorer of the codebook: a map of the codes, what they paint, who uses them, and where.

Letters: n images, T codes per image, K codes, D code width.
"""
import hashlib
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vqlib.backend.files import write_atomically
from vqlib.backend.paths import home, pretrained
from vqlib.explorers.explorer import Explorer, as_url, one_of
from vqlib.explorers.reconstruction import PER_ROW, painted, side_by_side
from vqlib.pictures import to_jpeg
from vqlib.pipeline import Pipeline, sampling_for
from vqlib.plots import code_patches

IMAGES = 96              # that are searched for codes: more would not be seen at once
THUMBNAIL = 64           # pixels
# in a process of its own: it takes twenty seconds and could not be stopped otherwise
UMAP = """
import sys, numpy as np
from umap import UMAP
x = np.load(sys.argv[1])
umap = UMAP(n_neighbors=min(15, len(x) - 1), min_dist=0.1, random_state=0, n_jobs=1)
np.savetxt(sys.argv[2], umap.fit_transform(x), "%.5f", ",")
"""


def pca(vectors: np.ndarray) -> np.ndarray:                      # (K, D) -> (K, 2)
    """The plane of largest variance."""
    centred = vectors - vectors.mean(0)
    directions = np.linalg.svd(centred, full_matrices=False)[2]
    return centred @ directions[:2].T


def umap_file(vectors: np.ndarray) -> str:                       # (K, D)
    """A name that changes with any number of the codebook: no map of other codes is shown."""
    return f"umap-{hashlib.sha256(np.ascontiguousarray(vectors)).hexdigest()[:16]}.csv"


def known_umap(vectors: np.ndarray) -> np.ndarray | None:        # (K, D) -> (K, 2)
    """UMAP's coordinates if they ship or were computed before; a damaged file counts as none."""
    for folder in (pretrained(), home() / "data" / "cache"):
        with suppress(FileNotFoundError, ValueError):
            points = np.loadtxt(folder / umap_file(vectors), delimiter=",", ndmin=2)
            if points.shape == (len(vectors), 2) and np.isfinite(points).all():
                return points
    return None


def computed_umap(vectors: np.ndarray):                          # (K, D) -> (K, 2)
    """Yield seconds while UMAP runs in another process, which ends if this is closed."""
    with tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch, "x.npy"), Path(scratch, "y.csv")
        np.save(given, vectors)
        start, command = time.monotonic(), [sys.executable, "-c", UMAP, given, made]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            while process.poll() is None:
                yield time.monotonic() - start
                time.sleep(0.1)
        finally:
            process.kill()
            errors = process.communicate()[1]
        if process.returncode:
            raise ValueError(f"UMAP failed: {errors.strip().splitlines()[-1:]}")
        write_atomically(home() / "data" / "cache" / umap_file(vectors), made.read_bytes())
        return np.loadtxt(made, delimiter=",", ndmin=2)


def unit_square(points: np.ndarray) -> list[list[float]]:        # (K, 2)
    """Scaled to [0, 1], one scale for both axes: distances keep their proportions."""
    low = points.min(0)
    size = max(np.ptp(points, 0).max(), 1e-9)
    margin = (1 - np.ptp(points, 0) / size) / 2
    return ((points - low) / size + margin).round(4).tolist()


def usage(codes: Tensor, labels: list[int], n_classes: int, n_codes: int) -> Tensor:   # (n, T)
    """How often the images of each class pick each code, (classes, K)."""
    counts = torch.zeros(n_classes, n_codes, dtype=torch.long)
    for own, label in zip(codes, labels):
        counts[label] += torch.bincount(own, minlength=n_codes)
    return counts


class CodebookExplorer(Explorer):
    """Point at codes, draw a line around some: patches, usage by class, images full of them.

    images: (n, 3, S, S) in [0, 1] with labels (n,) and class names, whose codes are counted; None:
        samples of the prior, or painted lesions where there is no prior.
    layouts: {name: (K, 2)} maps that are already there, such as a notebook's UMAP.
    """

    name, title = "codebook", "Codebook"
    about = ("Every dot is a code in the colour it paints. Point at one, or draw a line around "
             "several: below are their patches, the diagnoses that use them, and the images that "
             "consist of them most. Distances between far clusters mean nothing in a UMAP.")

    def __init__(self, pipeline: Pipeline, images=None, labels=(), classes=(), layouts=None,
                 note=""):
        self.pipeline, self.note, self.photographs = pipeline, note, images is not None
        self.images, self.labels, self.classes = images, list(map(int, labels)), list(classes)
        vectors = pipeline.vqvae.quantizer.codebook.cpu().numpy()
        self.layouts = {"PCA": pca(vectors)}
        found = known_umap(vectors)
        if found is not None:
            self.layouts = {"UMAP": found, **self.layouts}
        self.layouts = {**(layouts or {}), **self.layouts}

    def do_open(self):
        codes = yield from self.codes()                          # (n, T)
        K, p = self.pipeline.vqvae.cfg.n_codes, self.pipeline
        counts = usage(codes, self.labels, len(self.classes), K)
        yield None
        patches = code_patches(p.vqvae).cpu()                    # (K, 3, p, p)
        yield None
        colours = patches.mean((2, 3)).clamp(0, 1)               # (K, 3)
        small = torch.nn.functional.interpolate(self.images, (THUMBNAIL, THUMBNAIL),
                                                mode="bilinear", antialias=True)
        yield {"note": " ".join([self.note, *p.notes]).strip(), "n_codes": K,
               "maps": {name: unit_square(points) for name, points in self.layouts.items()},
               "more": [] if "UMAP" in self.layouts else ["UMAP"],
               "colours": (colours * 255).round().int().tolist(),
               "patches": as_url(side_by_side(patches), exact=True), "per_row": PER_ROW,
               "classes": self.classes, "usage": counts.tolist(), "progress": None,
               "images": [{"image": as_url(x), "label": self.classes[label], "codes": own}
                          for x, label, own in zip(small, self.labels, codes.tolist())]}

    def codes(self):
        """Codes (n, T) of the images; draws images first where none are there."""
        p = self.pipeline
        if self.images is None and p.gpt is None:
            lesions = painted(IMAGES // 4, p.geometry.crop)
            self.classes = sorted({x.name.split(", ")[1] for x in lesions})
            self.labels = [self.classes.index(x.name.split(", ")[1]) for x in lesions]
            self.images = torch.stack([x.image for x in lesions])
        if self.images is None:
            return (yield from self.drawn())
        parts = []
        for some in self.images.split(16):
            parts.append(p.encode(some).flatten(1))
            yield {"progress": [sum(map(len, parts)), len(self.images), "images encoded"]}
        return torch.cat(parts)

    def drawn(self):
        """Equally many samples of each class: their codes are known."""
        p = self.pipeline
        self.classes, each = p.classes, max(1, IMAGES // len(p.classes) // 2)
        self.labels = torch.arange(len(p.classes)).repeat_interleave(each).tolist()
        self.note = f"{self.note} Counted over {len(self.labels)} samples of the prior.".strip()
        growing = p.gpt.growing(torch.tensor(self.labels), **sampling_for("mel"), seed=0)
        for t, codes in growing:
            yield {"progress": [t, codes.shape[1], "codes"]} if t % 16 == 0 else None
        images = []
        for some in codes.cpu().split(4):
            images.append(p.decode(some))
            yield None
        self.images = torch.cat(images)
        return codes.cpu()

    def do_map(self, kind="UMAP"):
        """Another map of the codes."""
        one_of("map", kind, [*self.layouts, "UMAP"])
        if kind not in self.layouts:
            loop = computed_umap(self.pipeline.vqvae.quantizer.codebook.cpu().numpy())
            while True:
                try:
                    yield {"progress": [round(next(loop)), 0, "seconds of about twenty for UMAP"]}
                except StopIteration as end:
                    self.layouts[kind] = end.value
                    break
        yield {"maps": {name: unit_square(points) for name, points in self.layouts.items()},
               "more": [], "map": kind, "progress": None}

    def without_python(self):
        if self.photographs:
            raise ValueError("photographs are not put into a page: leave out the images")
        return self.opened()

    def still(self, opened):
        kind = next(iter(opened["maps"]))
        total = np.array(opened["usage"]).sum(0)                 # (K,)
        side, dot = 1200, 14                                     # drawn large, then made smooth
        canvas = Image.new("RGB", (side, side), "white")
        pen = ImageDraw.Draw(canvas)
        for (x, y), colour, n in zip(opened["maps"][kind], opened["colours"], total):
            x, y = (40 + (side - 80) * v for v in (x, 1 - y))
            r = dot * (0.5 + (n / max(total.mean(), 1)) ** 0.5 / 2) if n else dot / 3
            pen.ellipse((x - r, y - r, x + r, y + r), tuple(colour), "black", 2)
        pixels = np.asarray(canvas.resize((side // 2, side // 2), Image.Resampling.LANCZOS))
        image = torch.from_numpy(pixels.copy()).movedim(-1, 0) / 255
        return (to_jpeg(image), f"{kind} of {opened['n_codes']} codes, each a dot in the colour it "
                f"paints, larger where it is used more; {int((total > 0).sum())} are used")
