"""Explorer of a data set: classes, splits, augmentation, near-duplicates.

Letters: N images of the data set, n of them shown, S side of a cached square, C of the crop.
"""
import numpy as np
import torch
from torch import Tensor

from vqlib.data.augment import Augment, augment, centre_crop, to_unit
from vqlib.data.near_duplicates import BITS, HASHED, NEAR, dhash
from vqlib.explorers.explorer import Explorer, as_url, one_of, whole
from vqlib.pictures import sheet, to_jpeg
from vqlib.pipeline import MAX_SEED

SHOWN, NEIGHBOURS = 24, 6
AUGMENTATIONS = {
    "none": None,
    "flips": Augment(flip=0.5, rotate=0.0),
    "rotation by up to 10 degrees": Augment(flip=0.0, rotate=10.0),
    "flips and quarter turns": Augment(dihedral=True, rotate=0.0),
}


def matching(dataset, label: int, split: str) -> np.ndarray:     # -> (m,)
    """Rows of a class (-1: all) and a split, in an order that mixes classes and lesions."""
    rows = dataset.splits[split]
    if label >= 0:
        rows = rows[(dataset.labels[rows] == label).numpy()]
    return np.random.default_rng(0).permutation(rows)


def augmented(dataset, rows, config: Augment | None, seed: int) -> Tensor:  # -> (n, 3, C, C)
    """Images in [0, 1], as a training would see them; None: as stored."""
    squares, crop = dataset.squares(rows).cpu(), dataset.geometry.crop
    if config is None:
        return to_unit(centre_crop(squares, crop))
    return augment(squares, config, crop, torch.Generator().manual_seed(seed))


def hashes_of(dataset):
    """Difference hashes (N, 256) of all images; yields how many are done on the way."""
    parts = []
    for rows in np.array_split(np.arange(len(dataset)), -(-len(dataset) // HASHED)):
        parts.append(dhash(dataset.squares(rows).cpu().numpy()))
        yield sum(map(len, parts))
    return torch.cat(parts)


def nearest(hashes: Tensor, row: int, n: int) -> list[tuple[int, int]]:    # (N, 256)
    """(row, differing bits) of the n images whose hashes differ least from that of `row`."""
    bits = (BITS - hashes @ hashes[row]) / 2                     # (N,)
    bits[row] = BITS + 1
    order = bits.argsort(stable=True)[: min(n, len(hashes) - 1)].tolist()
    return [(other, int(bits[other])) for other in order]


class DataExplorer(Explorer):
    """Choose class, split and augmentation; click an image for what is known of it."""

    name, title = "data", "Data"
    about = ("Choose a class, a split, an augmentation. Choose an image to see what is known of "
             "it and which images look almost the same.")

    def __init__(self, dataset, training: Augment | None = None, note=""):
        self.dataset, self.note, self.hashes = dataset, note, None
        self.augmentations = dict(AUGMENTATIONS)
        if training is not None:
            self.augmentations["as in training"] = training

    def do_open(self):
        d = self.dataset
        counts = {split: [len(rows), *torch.bincount(d.labels[rows], minlength=len(d.classes))
                          .tolist()] for split, rows in d.splits.items()}
        splits = ["all", *(name for name in d.splits if name != "all")]
        for reply in self.do_show():
            yield {"title": d.title, "note": self.note, "classes": d.classes, "splits": splits,
                   "counts": counts, "augmentations": [*self.augmentations], **reply}

    def do_show(self, label=-1, split="all", augmentation="none", page=0, seed=0):
        d = self.dataset
        rows = matching(d, whole("class", label, -1, len(d.classes) - 1),
                        one_of("split", split, d.splits))
        page = whole("page", page, 0, max(0, (len(rows) - 1) // SHOWN))
        shown = rows[page * SHOWN :][:SHOWN]
        config = self.augmentations[one_of("augmentation", augmentation, self.augmentations)]
        seed = whole("seed", seed, 0, MAX_SEED)
        images = augmented(d, shown, config, seed) if len(shown) else []
        yield {"tiles": [self.tile(row, image) for row, image in zip(shown, images)],
               "found": len(rows), "page": page, "pages": max(1, -(-len(rows) // SHOWN))}

    def do_inspect(self, row=0):
        row, d = whole("image", row, 0, len(self.dataset) - 1), self.dataset
        facts = self.facts(row)
        yield {"chosen": self.tile(row, d[[row]][0]), "facts": facts, "near": []}
        if self.hashes is None:
            self.hashes = yield from self.hashing()
        near = [{**self.tile(other, d[[other]][0]), "bits": bits}
                for other, bits in nearest(self.hashes, row, NEIGHBOURS)]
        same = sum(tile["bits"] <= NEAR for tile in near)
        facts.append(["near-duplicates", f"{same} differ in at most {NEAR} of {BITS} bits"])
        yield {"facts": facts, "near": near, "progress": None}

    def hashing(self):
        loop = hashes_of(self.dataset)
        while True:
            try:
                yield {"progress": [next(loop), len(self.dataset), "images compared"]}
            except StopIteration as end:
                return end.value

    def facts(self, row: int) -> list[list[str]]:
        d = self.dataset
        split = next(name for name, rows in d.splits.items() if row in rows)
        same = d.lesions.count(d.lesions[row])
        return [["name", d.names[row]], ["class", d.label_names[row]], ["split", split],
                ["lesion", f"{d.lesions[row]}, {same} image{'s' * (same > 1)}"]]

    def tile(self, row: int, image: Tensor) -> dict:             # (3, C, C)
        d = self.dataset
        return {"row": int(row), "image": as_url(image), "name": d.names[row],
                "label": d.label_names[row]}

    def still(self, opened):
        rows = [tile["row"] for tile in opened["tiles"]]
        labels = ", ".join(sorted({tile["label"] for tile in opened["tiles"]}))
        return (to_jpeg(sheet(self.dataset[rows])),
                f"{len(rows)} of {len(self.dataset)} images of {self.dataset.title}: {labels}")
