"""Explorer of samples: a lesion grows from coarse to fine, with every setting of `generate`.

Letters: n images, N training images, d numbers of a thumbnail.
"""
import torch

from vqlib.data.dataset import in_chunks
from vqlib.evaluation import memorisation
from vqlib.explorers.drawing import DrawingExplorer
from vqlib.explorers.explorer import as_url, one_of
from vqlib.pictures import sheet, to_jpeg

BANK = 256               # photographs at a time


class SamplerExplorer(DrawingExplorer):
    """Draw lesions of a class; compare with the nearest photographs; keep them as a file.

    dataset: photographs to compare with, or None.
    """

    name, title = "sampler", "Sampler"
    about = ("Choose a diagnosis and draw. Every sample starts with a few codes far apart, and "
             "each later code fills a gap between them.")

    def __init__(self, pipeline, dataset=None):
        super().__init__(pipeline)
        self.dataset, self.bank = dataset, None

    def do_open(self, n=4):
        for reply in self.drawing("any", n, 0, {}):
            yield reply and {**self.settings(), "photographs": self.dataset is not None, **reply}

    def do_draw(self, label="any", n=8, seed=0, decoder=None, **given):
        yield from self.drawing(label, n, seed, given, decoder)

    def do_nearest(self, codes=(), decoder=None):
        """Under each sample the nearest training photograph, see vqlib.evaluation.memorisation."""
        if self.dataset is None:
            raise ValueError("no photographs here: HAM10000 goes to data/ham10000 "
                             "(data/README.md); figures/05_nearest.png shows this comparison")
        rows = self.dataset.splits["train"]
        decoder = one_of("decoder", decoder, self.pipeline.decoders)
        images = self.pipeline.decode(self.codes_of(codes), decoder)               # (n, 3, S, S)
        if self.bank is None:
            parts = []
            for chunk in in_chunks(rows, BANK):
                parts.append(memorisation.thumbnails(self.dataset[chunk].cpu()))
                yield {"progress": [sum(map(len, parts)), len(rows), "photographs compared"]}
            self.bank = torch.cat(parts)                                           # (N, d)
        augmented = memorisation.augmented_thumbnails(images)                      # (8, n, d)
        distance, found = memorisation.nearest(augmented, self.bank)               # (n,) twice
        near = [{"image": as_url(self.dataset[[rows[i]]][0]), "name": self.dataset.names[rows[i]],
                 "label": self.dataset.label_names[rows[i]], "distance": round(float(far), 3)}
                for i, far in zip(found.tolist(), distance)]
        yield {"near": near, "progress": None}

    def still(self, opened):
        images = self.pipeline.decode(self.codes_of(opened["codes"]), self.pipeline.decoders[0])
        s = opened["settings"]
        return to_jpeg(sheet(images)), f"{len(images)} samples of class {s['class']}, seed 0"
