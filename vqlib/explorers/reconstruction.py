"""Explorer of reconstructions: what each code paints, where it occurs, what a swap changes.

Letters: B images, h w grid cells, K codes, D code width, p side of a patch, S of an image.
"""
import base64
import binascii
import io

import torch
from torch import Tensor

from vqlib import metrics
from vqlib.data import synthetic
from vqlib.data.decode import Geometry
from vqlib.explorers.explorer import Explorer, as_url, whole
from vqlib.pictures import Picture, code_map, read_picture, sheet, to_jpeg
from vqlib.pipeline import Pipeline
from vqlib.plots import code_patches

PAINTED = 6              # lesions of the built-in generator, where there are no photographs
PER_ROW = 32             # patches in a row of the picture of all patches
ALTERNATIVES = 12        # codes that are offered in place of another
LARGEST = 20_000_000     # bytes of a picture of one's own


def painted(n: int, side: int) -> list[Picture]:
    """Lesions that a program painted: pictures of our own, the same on every machine."""
    images, factors = synthetic.synthetic(n, side, seed=0)       # (n, 3, S, S) uint8
    return [Picture(f"painted {i + 1}, {synthetic.CLASSES[label]}",
                    torch.from_numpy(image).float() / 255, "painted by a program")
            for i, (image, label) in enumerate(zip(images, factors.label))]


def uploaded(url: str, name: str, geometry: Geometry) -> Picture:
    """A picture that a browser sent as a data URL; raises ValueError if it is none."""
    head, _, data = str(url).partition(",")
    if not head.startswith("data:image/") or len(data) > LARGEST:
        raise ValueError(f"{name or 'this'} is no picture, or a very large one: JPEG and PNG work")
    try:
        content = base64.b64decode(data, validate=True)
    except binascii.Error as e:
        raise ValueError(f"{name or 'this'} is no picture") from e
    return read_picture(io.BytesIO(content), geometry, name or "your picture")


def alternatives(codebook: Tensor, n: int) -> Tensor:            # (K, D) -> (K, n)
    """For each code n others: half of them the nearest, the rest evenly up to the farthest."""
    K = len(codebook)
    order = torch.cdist(codebook, codebook).fill_diagonal_(-1).argsort(1)[:, 1:]    # (K, K-1)
    near = min(n // 2, K - 1)
    far = torch.linspace(near, K - 2, n - near).long().clamp(0, K - 2)
    return torch.cat([order[:, :near], order[:, far]], 1)


def side_by_side(patches: Tensor) -> Tensor:                     # (K, 3, p, p) -> (3, r*p, 32*p)
    """The decoded patches of all codes without gaps, in the order of the codes."""
    missing = -len(patches) % PER_ROW
    patches = torch.cat([patches, torch.ones(missing, *patches.shape[1:])])
    rows = patches.view(-1, PER_ROW, *patches.shape[1:])         # (rows, 32, 3, p, p)
    return rows.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)


class ReconstructionExplorer(Explorer):
    """One picture, its codes and what the decoders make of them, cell by cell.

    dataset: whose split is shown; None: lesions of the built-in generator.
    first: which row of the split is shown first.
    """

    name, title = "reconstruction", "Reconstruction"
    about = ("Every cell of the picture is one code. Point at a cell to see its code, what the "
             "code paints, and where else it stands. Choose a cell, then another code for it.")

    def __init__(self, pipeline: Pipeline, dataset=None, split="validation", first=0, note=""):
        self.pipeline, self.dataset, self.note, self.first = pipeline, dataset, note, first
        self.rows = None if dataset is None else dataset.splits[split]
        self.painted = painted(PAINTED, pipeline.geometry.crop) if dataset is None else []

    def __len__(self) -> int:
        return len(self.painted) if self.dataset is None else len(self.rows)

    def picture(self, i: int) -> Picture:
        if self.dataset is None:
            return self.painted[i]
        row, d = int(self.rows[i]), self.dataset
        return Picture(f"{d.names[row]}, {d.label_names[row]}", d[[row]][0].cpu(), d.title)

    def do_open(self):
        vqvae = self.pipeline.vqvae
        codebook, patches = vqvae.quantizer.codebook.cpu(), code_patches(vqvae).cpu()
        yield None
        for reply in self.do_choose(self.first):
            yield {"pictures": len(self), "patches": as_url(side_by_side(patches), exact=True),
                   "per_row": PER_ROW, "n_codes": len(codebook),
                   "alternatives": alternatives(codebook, ALTERNATIVES).tolist(),
                   "decoders": self.pipeline.decoders[::-1],
                   "note": " ".join([self.note, *self.pipeline.notes]).strip(), **reply}

    def do_choose(self, picture=0):
        i = whole("picture", picture, 0, len(self) - 1)
        yield {"picture": i, **self.described(self.picture(i))}

    def do_upload(self, picture="", name=""):
        """One's own picture."""
        yield {"picture": -1,
               **self.described(uploaded(picture, name, self.pipeline.geometry))}

    def do_swap(self, codes=(), rows=0):
        """Decode codes that somebody changed."""
        grid = self.grid(codes, rows)                            # (1, h, w)
        f, K = 2**self.pipeline.vqvae.cfg.n_down, self.pipeline.vqvae.cfg.n_codes
        yield {"decoded": self.decoded(grid)[0], "codes": grid.flatten().tolist(),
               "map": as_url(code_map(grid[0], K, f), exact=True)}

    def described(self, picture: Picture) -> dict:
        p, x = self.pipeline, picture.image[None]                # (1, 3, S, S)
        codes = p.encode(x)                                      # (1, h, w)
        urls, decibels = self.decoded(codes, x)
        error = 4 * (p.decode(codes, p.decoders[-1]) - x).abs()
        f = x.shape[-1] // codes.shape[-1]
        return {"name": picture.name, "kept": picture.note, "original": as_url(picture.image, True),
                "decoded": urls, "psnr": decibels, "difference": as_url(error[0]),
                "map": as_url(code_map(codes[0], p.vqvae.cfg.n_codes, f), exact=True),
                "rows": codes.shape[1], "codes": codes.flatten().tolist()}

    def decoded(self, codes: Tensor, x=None) -> tuple[dict, dict]:   # (1, h, w), (1, 3, S, S)
        """{decoder: URL}, {decoder: PSNR in dB where there is an original}."""
        images = {name: self.pipeline.decode(codes, name) for name in self.pipeline.decoders[::-1]}
        urls = {name: as_url(image[0], exact=True) for name, image in images.items()}
        if x is None:
            return urls, {}
        return urls, {name: round(float(metrics.psnr(image, x)), 1)
                      for name, image in images.items()}

    def grid(self, codes, rows: int) -> Tensor:                  # -> (1, h, w)
        """Codes that came from a browser; raises ValueError for what are none."""
        K = self.pipeline.vqvae.cfg.n_codes
        if not isinstance(codes, list) or not codes or len(codes) > 2**14:
            raise ValueError("these are no codes")
        found = torch.tensor([whole("code", code, 0, K - 1) for code in codes])
        rows = whole("rows", rows, 1, len(codes))
        if len(codes) % rows:
            raise ValueError(f"{len(codes)} codes do not make {rows} rows")
        return found.view(1, rows, -1)

    def without_python(self):
        """All pictures, if they are few and our own."""
        if self.dataset is not None:
            raise ValueError("photographs are not put into a page: leave out the data set")
        pictures = [{"picture": i, **self.described(picture)}
                    for i, picture in enumerate(self.painted)]
        return {**self.opened(), "samples": pictures}

    def still(self, opened):
        picture = self.picture(opened["picture"])
        codes = self.grid(opened["codes"], opened["rows"])
        f = picture.image.shape[-1] // codes.shape[-1]
        panels = [picture.image, *(self.pipeline.decode(codes, name)[0]
                                   for name in self.pipeline.decoders[::-1]),
                  code_map(codes[0], self.pipeline.vqvae.cfg.n_codes, f)]
        made = " and ".join(f"the {name} decoder ({value} dB)"
                            for name, value in opened["psnr"].items())
        return (to_jpeg(sheet(torch.stack(panels))),
                f"{picture.name}: the original, what {made} made of {codes.numel()} codes, "
                "and the map of the codes")
