"""What sampler and inpainting share: codes that grow before one's eyes, and files to keep.

Letters: B images, T codes per image, h w grid cells, K codes, S side of an image.
"""
import base64
import time

import torch
from torch import Tensor

from vqlib.explorers.explorer import Explorer, as_url, number, one_of, whole
from vqlib.pictures import sheet, to_png
from vqlib.pipeline import MAX_SEED, Pipeline, sampling_for

MOST = 16                # images at a time: more would not be seen to grow
EVERY = 0.15             # seconds between two pictures of what grows


def nearest_known(known: Tensor, side: int) -> Tensor:           # (T,) bool -> (T,)
    """For each cell of a side x side grid the nearest cell that is known, itself if it is.

    Raises ValueError if none is known.
    """
    if not known.any():
        raise ValueError("no cell is known")
    place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    place = place.flatten(1).T.float()                           # (T, 2) row and column
    cells = known.nonzero()[:, 0]
    return cells[torch.cdist(place, place[cells]).argmin(1)]


def filled(codes: Tensor, known: Tensor) -> Tensor:              # (B, T), (T,) bool -> (B, T)
    """Cells that are not known take the code of the nearest that is: a coarse whole picture."""
    return codes[:, nearest_known(known, round(codes.shape[1] ** 0.5))]


def growth(gpt, labels: Tensor, sampling: dict, seed: int, known=None, keep=None, every=EVERY):
    """Yield (t, codes (B, T)) every `every` seconds and at the end, None after other codes.

    What is not drawn yet is filled in from what is. known, keep: see `GPT.generate`.
    """
    last, T = time.monotonic(), gpt.cfg.grid**2
    for t, codes in gpt.growing(labels, **sampling, seed=seed, known=known, keep=keep):
        now = time.monotonic()
        if t == T:
            yield t, codes.cpu()
        elif now - last >= every:
            drawn = (codes[0] >= 0).cpu()
            so_far = codes.cpu()
            if keep is not None:
                so_far = torch.where(keep, known, so_far)
                drawn = drawn | keep[0]
            yield t, filled(so_far, drawn)
            last = time.monotonic()
        else:
            yield None


class DrawingExplorer(Explorer):
    """An explorer that draws with the prior."""

    def __init__(self, pipeline: Pipeline):
        if pipeline.gpt is None:
            raise ValueError("drawing needs a prior: notebook 04 or python -m vqlib train prior "
                             "trains one; weights that ship: load_pipeline(needs=('prior',))")
        self.pipeline = pipeline

    def settings(self) -> dict:
        """What the controls of the explorer need to know."""
        p, notes = self.pipeline, list(self.pipeline.notes)
        return {"labels": p.labels, "decoders": p.decoders, "defaults": sampling_for("mel"),
                "n_codes": p.gpt.cfg.n_codes, "side": p.gpt.cfg.grid, "most": MOST,
                "max_seed": MAX_SEED, "note": " ".join(notes)}

    def sampling(self, label: str, given: dict) -> dict:
        """Checked settings of `GPT.generate`; those not given are the shipped ones."""
        known = sampling_for(one_of("class", label, self.pipeline.labels))
        for name, value in given.items():
            one_of("setting", name, known)
            if value is not None:
                top = self.pipeline.gpt.cfg.n_codes
                known[name] = whole(name, value, 0, top) if name == "top_k" else number(name, value)
        return known

    def drawing(self, label: str, n: int, seed: int, given: dict, decoder=None, known=None,
                keep=None):
        """Yield replies while n images grow; the last has codes, settings and seconds."""
        p, start = self.pipeline, time.monotonic()
        sampling = self.sampling(label, given)
        n, seed = whole("number of images", n, 1, MOST), whole("seed", seed, 0, MAX_SEED)
        decoder = one_of("decoder", decoder or p.decoders[0], p.decoders)
        labels, T = torch.full((n,), p.label(label)), p.gpt.cfg.grid**2
        for grown in growth(p.gpt, labels, sampling, seed, known, keep):
            if grown is None:
                yield None
                continue
            t, codes = grown
            images = yield from self.decoding(codes, p.decoders[-1])
            yield {"images": images, "progress": [t, T, "codes"]}
        if decoder != p.decoders[-1]:
            images = yield from self.decoding(codes, decoder)
        yield {"images": images, "codes": codes.tolist(), "progress": None,
               "settings": {"class": label, "n": n, "decoder": decoder, **sampling, "seed": seed},
               "seconds": round(time.monotonic() - start, 2)}

    def decoding(self, codes: Tensor, decoder: str):             # (B, T)
        """URLs of the images of codes, a few at a time: it may be stopped between."""
        images = []
        for some in codes.split(2):
            images += [as_url(x) for x in self.pipeline.decode(some, decoder)]
            yield None
        return images

    def codes_of(self, codes) -> Tensor:                         # -> (B, T)
        """Codes that came from a browser; raises ValueError for what are none."""
        cfg = self.pipeline.gpt.cfg
        try:
            found = torch.tensor(codes, dtype=torch.long)
        except (TypeError, ValueError, RuntimeError, OverflowError) as e:
            raise ValueError("these are no codes") from e
        if found.dim() != 2 or found.shape[1] != cfg.grid**2 or not 1 <= len(found) <= MOST or \
                found.min() < 0 or found.max() >= cfg.n_codes:
            raise ValueError("these are no codes of this prior")
        return found

    def do_decode(self, codes=(), decoder=None):
        """The same codes by another decoder."""
        name = one_of("decoder", decoder, self.pipeline.decoders)
        images = yield from self.decoding(self.codes_of(codes), name)
        yield {"images": images, "decoder": name}

    def do_download(self, codes=(), settings=None):
        """A PNG sheet with its settings and seed inside."""
        found, settings = self.codes_of(codes), dict(settings or {})
        decoder = one_of("decoder", settings.get("decoder"), self.pipeline.decoders)
        yield None
        data = to_png(sheet(self.pipeline.decode(found, decoder)), **settings)
        words = f"{settings.get('class', 'any')}-seed-{settings.get('seed', 0)}"
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in words)
        yield {"file": f"data:image/png;base64,{base64.b64encode(data).decode()}",
               "name": f"{safe}.png"}
