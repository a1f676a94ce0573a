"""What each row of the five tables changes: a path from the report's settings to ours, and single swaps beside it."""
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class VQVAERow:
    """One VQ-VAE; the defaults are ours."""

    key: str
    label: str
    against: str | None = None      # key of the row from which exactly one setting differs
    scale_by_pixels: bool = False   # the report's slip: normalised error divided by the un-normalised variance
    data_init: bool = True
    reset_threshold: float = 0.02
    cosine: bool = True
    n_down: int = 2
    code_dim: int = 128
    quantizer: str = "ema"


@dataclass(frozen=True)
class PriorRow:
    """One prior; the defaults are ours."""

    key: str
    label: str
    against: str | None = None
    window: bool = False            # the report's transformer on a quarter of the sequence
    positions: str = "row + column"  # or "1-D"
    around: bool = True             # codes drawn around a cell are inputs
    class_token: bool = True
    order: str = "sparse to dense"  # or "raster", or "annealed": random at first, raster in the end
    kv_heads: int = 2               # of two heads: each has keys and values of its own; 1 is what `GPTConfig` takes by default
    dropout: float = 0.0
    corruption: float = 0.0         # share of input codes that training replaces by random ones
    views: int = 8                  # flips and quarter turns of each training image
    average: float = 0.0            # decay of a moving average of the weights, which is then judged


@dataclass(frozen=True)
class TransformRow:
    """One linear codec: blocks of `side` pixels, of which `keep` frequencies per side are coded."""

    key: str
    label: str
    side: int
    keep: int
    against: str | None = None


@dataclass(frozen=True)
class LimitRow:
    """One run of the flagship's VQ-VAE, its learning rate falling to the end: more minutes, bits or channels."""

    key: str
    label: str
    steps: int
    n_codes: int = 512
    width: float = 1.0              # times the channels of the nets
    against: str | None = None


@dataclass(frozen=True)
class CodecRow:
    """One way to store images, and to look at what was stored."""

    key: str
    label: str
    codec: str                      # an image format, or a VQ-VAE: "f8", "f4"
    size: int | None = None         # bytes of an image, without headers, that a format's quality is set for
    look: str = "faithful"          # or "sharp", or "both": the probe learns from each image twice
    share: float = 0.0              # of the prior's rate at which codes are chosen; 0: the nearest
    against: str | None = None


def path(first, *changes) -> list:
    """The first row, and one more for each (key, label, change), which is added to all changes before it."""
    rows = [first]
    for change in changes:
        rows += swaps(rows[-1], change)
    return rows


def swaps(base, *changes) -> list:
    """A row for each (key, label, change) of the base alone."""
    return [replace(base, key=key, label=label, against=base.key, **change) for key, label, change in changes]


VQVAE = path(
    VQVAERow("report", "the report's settings", scale_by_pixels=True, data_init=False, reset_threshold=0.0, cosine=False),
    ("scaled", "+ variance scaled right", {"scale_by_pixels": False}),
    ("init", "+ codes start on data", {"data_init": True}),
    ("revival", "+ dead codes resets", {"reset_threshold": 0.02}),
    ("ours", "+ cosine learning rate = ours", {"cosine": True}))
VQVAE += swaps(
    VQVAE[-1],
    ("f8", "8 x 8 codes, f = 8 for 4", {"n_down": 3}),
    ("narrow", "code width 16 for 128", {"code_dim": 16}),
    ("unit", "codes of length one", {"quantizer": "unit"}),
    ("fsq", "scalar quantization, 8 x 8 x 8", {"quantizer": "fsq"}),
    ("rotation", "rotation trick", {"quantizer": "rotation"}))

PRIOR = path(
    PriorRow("window", "the report's window", window=True, positions="1-D", around=False, class_token=False, order="raster"),
    ("whole", "+ whole grid in view", {"window": False}),
    ("positions", "+ row and column positions", {"positions": "row + column"}),
    ("around", "+ codes around as inputs", {"around": True}),
    ("class", "+ class token", {"class_token": True}),
    ("ours", "+ sparse to dense = ours", {"order": "sparse to dense"}))
PRIOR += swaps(
    PRIOR[-1],
    ("shared", "heads share keys and values", {"kv_heads": 1}),
    ("dropout", "dropout 0.1", {"dropout": 0.1}),
    ("corruption", "a tenth of inputs random", {"corruption": 0.1}),
    ("one-view", "one view for eight", {"views": 1}),
    ("average", "weights averaged", {"average": 0.98}))
PRIOR += swaps(PRIOR[4], ("annealed", "raster, order random at first", {"order": "annealed"}))

TRANSFORM = [TransformRow("8", "blocks of 8 px: each cell alone", 8, 8)]
for side, keep in ((16, 16), (32, 16), (64, 26), (128, 40)):
    label = f"blocks of {side} px: {side**2 // 64} cells together"
    TRANSFORM.append(TransformRow(str(side), label, side, keep, TRANSFORM[-1].key))

LIMITS = path(
    LimitRow("625", "625 updates", 625),
    *((str(steps), f"{steps:,} updates", {"steps": steps}) for steps in (1250, 2500, 5000)))
LIMITS += swaps(
    LIMITS[0],
    ("narrow", "625 updates, nets half as wide", {"width": 0.5}),
    ("wide", "625 updates, nets twice as wide", {"width": 2.0}),
    ("few", "625 updates, 128 codes: 7 bits", {"n_codes": 128}),
    ("many", "625 updates, 2,048 codes: 11 bits", {"n_codes": 2048}))

LOOKS = [(look, {"look": look}) for look in ("sharp", "both")]
CODEC = [CodecRow("f8", "256 codes, the nearest", "f8")]
CODEC += swaps(CODEC[0], *((f"f8-{look}", f"256 codes, {look}", change) for look, change in LOOKS),
               ("thrifty", "256 codes, thrifty", {"share": 1.0}))
CODEC += swaps(CODEC[-1], *((f"thrifty-{look}", f"256 codes, thrifty, {look}", change) for look, change in LOOKS))
CODEC.append(CodecRow("f4", "1,024 codes", "f4"))
for codec, sizes in {"avif": (160, 320, 640), "webp": (320, 640, 1280), "jpeg": (330, 660, 1320)}.items():
    CODEC += [CodecRow(f"{codec}-{size}", f"{codec.upper()}, {size} bytes", codec, size) for size in sizes]
