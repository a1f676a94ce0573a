"""Explorer of inpainting: paint a region, choose a diagnosis, see several redraws.

Letters: n redraws, T codes per image, h w grid cells, S side of an image.
"""
import torch
from torch import Tensor

from vqlib.explorers.drawing import DrawingExplorer
from vqlib.explorers.reconstruction import uploaded
from vqlib.pictures import sheet, to_jpeg
from vqlib.pipeline import sampling_for

FIRST_MASK = 0.5         # side of the square in the middle that is marked at first
REDRAWS = 3


def middle(side: int) -> Tensor:                                 # -> (T,) bool
    """The cells of a square in the middle of a side x side grid."""
    line = (torch.arange(side) + 0.5) / side
    inside = (line - 0.5).abs() < FIRST_MASK / 2
    return (inside[:, None] & inside).flatten()


class InpaintingExplorer(DrawingExplorer):
    """Redraw the marked cells of a lesion, drawn or of one's own, as another diagnosis."""

    name, title = "inpainting", "Inpainting"
    about = ("Paint over a part of the lesion and choose a diagnosis: the prior draws that part "
             "anew and sees what is around it.")

    def do_open(self):
        p, side = self.pipeline, self.pipeline.gpt.cfg.grid
        label = "mel" if "mel" in p.classes else "any"
        for reply in self.do_new(label="any", seed=5):
            base = reply or base_of(None)
            yield reply and {**self.settings(), **reply}
        mask = middle(side).int().tolist()
        for reply in self.do_redraw(base["base_codes"], mask, label, REDRAWS):
            yield reply and {**self.settings(), **base, "mask": mask, "label": label, **reply}

    def do_new(self, label="any", seed=0, decoder=None):
        """Another lesion to begin with."""
        for reply in self.drawing(label, 1, seed, {}, decoder):
            if reply and "codes" in reply:
                yield base_of(reply["images"][0], reply["codes"][0],
                              f"a sample of class {label}, seed {seed}")
            else:
                yield reply and {"base": reply["images"][0], "progress": reply["progress"]}

    def do_upload(self, picture="", name="", decoder=None):
        """One's own picture to begin with; what is shown is what its codes keep of it."""
        found = uploaded(picture, name, self.pipeline.geometry)
        codes = self.pipeline.encode(found.image[None]).flatten(1)
        self.codes_of(codes.tolist())                            # a size that the prior knows
        images = yield from self.decoding(codes, decoder or self.pipeline.decoders[0])
        yield base_of(images[0], codes[0].tolist(), f"{found.name}: {found.note}")

    def do_redraw(self, codes=(), mask=(), label="any", n=REDRAWS, seed=0, decoder=None, **given):
        known = self.codes_of([codes])                           # (1, T)
        where = torch.tensor([bool(cell) for cell in mask])      # (T,)
        if where.shape != known[0].shape or not where.any():
            raise ValueError("paint over the part that should be drawn anew")
        keep = ~where.expand(int(n), -1)
        yield from self.drawing(label, n, seed, given, decoder, known.expand(int(n), -1), keep)

    def still(self, opened):
        p, side = self.pipeline, self.pipeline.gpt.cfg.grid
        codes = torch.tensor([opened["base_codes"], *opened["codes"]])
        images = p.decode(codes, p.decoders[0])                  # (1 + n, 3, S, S)
        where = torch.tensor(opened["mask"]).view(1, side, side).bool()
        f = images.shape[-1] // side
        where = where.repeat_interleave(f, 1).repeat_interleave(f, 2)
        marked = torch.where(where, 0.5 + images[0] / 2, images[0])
        sampling = sampling_for(opened["label"])
        return (to_jpeg(sheet(torch.cat([marked[None], images[1:]]))),
                f"A lesion with its middle marked, and {len(images) - 1} redraws of the middle as "
                f"class {opened['label']}, guidance {sampling['guidance']:g}")


def base_of(image, codes=(), note="") -> dict:
    """A reply that changes what is redrawn."""
    return {"base": image, "base_codes": list(codes), "base_note": note, "progress": None}
