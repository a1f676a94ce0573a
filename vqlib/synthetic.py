"""Procedural dermoscopy: seven classes of skin lesion drawn from known factors, for when no real data is there.

Two ideas carry it. Light: skin and lesion are maps of pigment, and colour follows from Beer-Lambert absorption, so a
lesion darkens its own skin tone as a real one does. Texture: a random field is a sum of plane waves, a plane wave is
cos(a + b) = cos a cos b - sin a sin b with a along x, b along y: a field is one small matrix product, at any rotation.

Letters: B images, S pixels per side, W waves. Lengths are in image sides; the image spans -0.5..0.5, x right, y down.
"""

import zlib
from dataclasses import dataclass, field, fields

import numpy as np

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")      # named as in HAM10000
COLOURS = ("light brown", "dark brown", "black", "blue-grey", "red", "white")
_SHARE = (0.08, 0.10, 0.14, 0.07, 0.14, 0.40, 0.07)               # class frequencies, softer than HAM10000's
_VIEWS = (0.75, 0.19, 0.06)                                       # share of lesions seen in 1, 2, 3 images
_N_COLOURS = np.array([2, 2, 2, 2, 3.4, 1.5, 1.3])                # mean number of colours by class
_MAIN = np.array([4, 4, 0, 0, 1, 0, 4])                           # the colour that most of the lesion has
_EXTRA = np.array([(4, 1, 0, 0, 5, 3), (2, 1, 0, 4, 5, 1), (4, 5, 0, 1, 1, 0.5), (3, 2, 0, 0, 3, 1), (3, 4, 4, 4, 2, 1),
                   (4, 6, 0, 0, 0.4, 0), (0, 0, 0.5, 2, 5, 0)])       # odds of the others, (class, colour)
# Pigments: brown (melanin), deep (melanin seen through the dermis), blood, white (scatter, mixed in after absorption).
_DENSITY = np.array([(0.50, 0, 0.15, 0), (1.10, 0.10, 0.15, 0), (1.40, 0.75, 0.20, 0), (0.20, 0.75, 0, 0.10),
                     (0.12, 0, 0.55, 0), (0.05, 0, 0.05, 0.40)], dtype=np.float32)                  # (colour, pigment)
_ABSORB = np.array([(0.45, 0.85, 0.12), (0.90, 0.75, 0.95), (1.15, 0.50, 0.55)], dtype=np.float32)  # (RGB, pigment)
_TONES = np.array([(0.78, 0.69, 0.74), (0.87, 0.73, 0.77), (0.94, 0.61, 0.60), (0.84, 0.67, 0.57)])  # grey, pale, pink


@dataclass(frozen=True)
class Factors:
    """True factors of n images, one row each; `factors[rows]` renders to the same bytes as those rows of the whole.

    Traits: mean radius (image sides), aspect (long / short axis), asymmetry of outline and colours, irregularity of the
    border, fuzz (width of the rim in radii), depth (amount of pigment), and from network on the strength of structures.
    """

    label: np.ndarray        # (n,) 0..6, index into CLASSES; from here to lagoons: equal in all images of a lesion
    lesion: np.ndarray       # (n,) lesion number >= 0, unique within this set only
    lesion_seed: np.ndarray  # (n,) uint64, fixes harmonics, fields and spots of the lesion
    palette: np.ndarray      # (n, 4) indices into COLOURS, main colour first, -1 = not used
    tone: np.ndarray         # (n, 3) RGB of the bare skin, 0.5..1
    # Traits (n,), normal around the mean of the class: low, high, spread, means of akiec, bcc, bkl, df, mel, nv, vasc.
    radius: np.ndarray = field(metadata={"law": (0.08, 0.42, 0.07, 0.28, 0.20, 0.27, 0.17, 0.29, 0.22, 0.16)})
    aspect: np.ndarray = field(metadata={"law": (1.0, 2.2, 0.20, 1.35, 1.25, 1.30, 1.10, 1.35, 1.15, 1.15)})
    asymmetry: np.ndarray = field(metadata={"law": (0, 1, 0.13, 0.50, 0.40, 0.35, 0.10, 0.75, 0.15, 0.15)})
    border: np.ndarray = field(metadata={"law": (0, 1, 0.13, 0.55, 0.35, 0.30, 0.12, 0.70, 0.25, 0.15)})
    fuzz: np.ndarray = field(metadata={"law": (0.05, 1, 0.10, 0.80, 0.50, 0.12, 0.65, 0.28, 0.32, 0.18)})
    depth: np.ndarray = field(metadata={"law": (0.4, 1.6, 0.20, 0.75, 0.65, 0.80, 0.85, 1.10, 0.95, 0.90)})
    network: np.ndarray = field(metadata={"law": (0, 1, 0.20, 0, 0, 0.10, 0.30, 0.55, 0.60, 0)})
    globules: np.ndarray = field(metadata={"law": (0, 1, 0.20, 0, 0, 0.05, 0, 0.30, 0.15, 0)})
    streaks: np.ndarray = field(metadata={"law": (0, 1, 0.20, 0, 0, 0, 0, 0.50, 0, 0)})
    vessels: np.ndarray = field(metadata={"law": (0, 1, 0.20, 0.15, 0.75, 0, 0, 0.05, 0, 0)})
    blotches: np.ndarray = field(metadata={"law": (0, 1, 0.20, 0, 0.75, 0, 0, 0.20, 0, 0)})  # blue-grey
    milia: np.ndarray = field(metadata={"law": (0, 1, 0.20, 0, 0, 0.80, 0, 0, 0, 0)})  # white and dark dots
    scale: np.ndarray = field(metadata={"law": (0, 1, 0.20, 0.80, 0.10, 0.15, 0, 0, 0, 0)})  # white flakes on red
    ring: np.ndarray = field(metadata={"law": (0, 1, 0.15, 0, 0, 0, 0.85, 0, 0, 0)})  # round a white centre
    lagoons: np.ndarray = field(metadata={"law": (0, 1, 0.15, 0, 0, 0, 0, 0, 0, 0.85)})
    image_seed: np.ndarray  # (n,) uint64, fixes skin texture, hairs and bubbles; from here: new in each image
    cx: np.ndarray          # (n,) centre of the lesion, -0.12..0.12
    cy: np.ndarray
    angle: np.ndarray       # (n,) rotation of the lesion, 0..2 pi
    light: np.ndarray       # (n, 3) gain of R, G, B, 0.75..1.15
    hairs: np.ndarray       # (n,) number, 0..16
    bubbles: np.ndarray     # (n,) number, 0..5
    vignette: np.ndarray    # (n,) darkness of the corners, 0..1

    @property
    def n_colours(self):
        return (self.palette >= 0).sum(axis=1)                    # (n,) 1..4

    def __len__(self):
        return len(self.label)

    def __getitem__(self, rows):
        return Factors(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def synthetic(n, size, seed):
    """Images (n, 3, size, size) uint8 RGB and their Factors; the same arguments give the same bytes."""
    factors = draw_factors(n, seed)
    return render(factors, size), factors


def draw_factors(n, seed):
    """Factors of n images in random order; about a quarter of the lesions are seen in two or three of them."""
    if n != int(n) or n < 1:
        raise ValueError(f"n = {n}: the number of images must be a whole number >= 1")
    rng, n = np.random.default_rng(seed), int(n)
    lesions = _draw_lesions(n, rng)
    rows = rng.permutation(np.repeat(np.arange(n), rng.choice((1, 2, 3), size=n, p=_VIEWS))[:n])    # image -> lesion
    return Factors(
        **{name: values[rows] for name, values in lesions.items()},
        image_seed=rng.integers(2**63, size=n, dtype=np.uint64),
        cx=np.clip(rng.normal(0, 0.035, n), -0.12, 0.12), cy=np.clip(rng.normal(0, 0.035, n), -0.12, 0.12),
        angle=rng.uniform(0, 2 * np.pi, n),
        light=np.clip(rng.normal(0.95, 0.07, (n, 1)) * rng.normal(1, 0.025, (n, 3)), 0.75, 1.15),
        hairs=(rng.random(n) < 0.3) * np.ceil(16 * rng.random(n) ** 2).astype(int),
        bubbles=(rng.random(n) < 0.15) * rng.integers(1, 6, n),
        vignette=(rng.random(n) < 0.25) * rng.uniform(0.2, 1, n))


def _draw_lesions(n, rng):
    label = rng.choice(len(CLASSES), size=n, p=_SHARE)
    odds = np.log(_EXTRA + 1e-9)[label] + rng.gumbel(size=(n, len(COLOURS)))         # draws without replacement
    odds[np.arange(n), _MAIN[label]] = np.inf
    n_colours = np.clip(np.rint(_N_COLOURS[label] + rng.normal(0, 0.6, n)), 1, 4)
    return {
        "label": label, "lesion": np.arange(n), "lesion_seed": rng.integers(2**63, size=n, dtype=np.uint64),
        "palette": np.where(np.arange(4) < n_colours[:, None], np.argsort(-odds)[:, :4], -1),
        "tone": rng.dirichlet((0.45, 0.5, 0.65, 0.3), size=n) @ _TONES,
        **{f.name: _draw_trait(label, rng, *f.metadata["law"]) for f in fields(Factors) if f.metadata}}


def _draw_trait(label, rng, low, high, spread, *means):
    return np.clip(np.array(means)[label] + rng.normal(0, spread, len(label)), low, high)


def render(factors, size, rows=slice(None)):
    """Images (len(rows), 3, size, size) uint8 RGB; each depends on its own row only, so chunks give equal bytes."""
    if size != int(size) or size < 16:
        raise ValueError(f"size = {size}: the image side must be a whole number of pixels >= 16")
    factors, size = factors[rows], int(size)
    images = np.empty((len(factors), 3, size, size), dtype=np.uint8)
    step = max(1, 2**18 // size**2)                               # 64 images of 64 px: 1 MB a field, fits the cache
    for i in range(0, len(factors), step):
        images[i:i + step] = _Scene(factors[i:i + step], size).draw()
    return images


def _col(values):
    return np.asarray(values, dtype=np.float32)[:, None, None]    # (B,) -> (B, 1, 1)


def _soft(x, low, high):
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)                                    # smoothstep: 0 below low, 1 above high


def _uniform(seeds, tag, *shape):
    """Numbers (B, *shape) in [0, 1), a pure function of seed and tag (splitmix64): no image disturbs another."""
    count = np.arange(1, np.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = seeds[:, None] + np.uint64(zlib.crc32(tag.encode()) << 20) + count
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return (x >> np.uint64(40)).astype(np.float32).reshape(-1, *shape) / 2**24


def _mix(table, maps):
    return sum(table[..., k, None, None] * maps[:, None, k] for k in range(maps.shape[1]))          # (B, C, S, S)


class _Scene:
    """One chunk of images on its way from factors to pixels; every map is (B, S, S) float32."""

    def __init__(self, f, size):
        self.f, self.px = f, 1 / size
        self.line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5           # (S,) pixel centres
        x, y = self.line - _col(f.cx), self.line[:, None] - _col(f.cy)
        c, s = _col(np.cos(f.angle)), _col(np.sin(f.angle))
        self.u, self.v = c * x + s * y, c * y - s * x             # (B, S, S) in the lesion's own axes

    def waves(self, tag, length, of_lesion=True, count=16):
        """Random field of mean 0 and deviation 1 with detail of this length; it moves with the lesion or not."""
        f = self.f
        r = _uniform(f.lesion_seed if of_lesion else f.image_seed, tag, 3, count)
        length = np.broadcast_to(length, len(f))[:, None] * (0.65 + 0.85 * r[:, 0])  # (B, W)
        turn = np.pi / count * (np.arange(count) + r[:, 1]) + of_lesion * f.angle[:, None]    # all directions
        kx, ky = 2 * np.pi / length * np.cos(turn), 2 * np.pi / length * np.sin(turn)
        phase = 2 * np.pi * r[:, 2] - of_lesion * (kx * f.cx[:, None] + ky * f.cy[:, None])
        a = np.float32(self.line[:, None] * kx[:, None] + phase[:, None])            # (B, S, W)
        b = np.float32(self.line[:, None] * ky[:, None])
        size = np.sqrt(2 / count) * np.exp(-4 * (self.px / length) ** 2)             # fades what the pixels cannot hold
        rows = np.concatenate([np.cos(b), -np.sin(b)], axis=2) * np.float32(np.tile(size, 2))[:, None]
        cols = np.concatenate([np.cos(a), np.sin(a)], axis=2).swapaxes(1, 2)         # (B, 2W, S)
        step = max(1, 2**17 // cols[0].size)                      # BLAS would start threads for more: 100 times slower
        return np.concatenate([rows[:, i:i + step] @ cols for i in range(0, len(self.line), step)], axis=1)

    def shape(self):
        """Distance rho from the centre (1 = at the rim) and soft mask of the lesion."""
        f, stretch = self.f, _col(np.sqrt(self.f.aspect))
        z = (self.u / stretch + 1j * self.v * stretch) / _col(f.radius)
        rho = np.abs(z)
        z /= np.maximum(rho, 1e-3)                                # e^(i theta)
        r, k = _uniform(f.lesion_seed, "outline", 2, 9), np.arange(1, 10)
        size = np.where(k <= 3, 0.30 * f.asymmetry[:, None] / np.sqrt(k), 0.40 * f.border[:, None] / k)
        outline = np.zeros_like(z)
        for a in (size * np.sqrt(r[:, 0]) * np.exp(2j * np.pi * r[:, 1])).astype(np.complex64).T[::-1]:
            outline = z * (a[:, None, None] + outline)            # Horner: sum of a_k e^(i k theta)
        rough = 0.8 * self.waves("rough", 0.5 * f.radius) + 0.35 * self.waves("rougher", 0.25 * f.radius)
        z16 = (((z ** 2) ** 2) ** 2) ** 2                         # sixteen teeth
        spikes = np.maximum(z16.real, 0) * _soft(self.waves("sector", 1.5 * f.radius), -0.3, 0.8)
        rim = 1 + outline.real + 0.15 * _col(f.border) * rough + 0.3 * _col(f.streaks) * spikes
        rho /= np.maximum(rim, 0.3)
        edge = _col(np.maximum(f.fuzz, 2.5 * self.px / f.radius) / 2)
        return rho, _soft(1 - rho, -edge, edge)

    def pigment(self, rho):
        """Densities (B, 4, S, S) of the four pigments: up to four colours share the lesion between them."""
        f, scatter = self.f, _col(0.25 + 0.75 * self.f.asymmetry)
        sign = np.sign(_uniform(f.lesion_seed, "rings", 4, 1, 1) - 0.5)              # at the centre or at the rim
        share = np.empty((len(f), 4, *rho.shape[1:]), np.float32)
        for j in range(4):
            where = scatter * self.waves(f"colour{j}", 1.3 * f.radius) + (1 - scatter) * sign[:, j] * (2 - 3 * rho)
            share[:, j] = np.exp(np.minimum(2.5 * where + (j == 0), 8)) * _col(f.palette[:, j] >= 0)
        share /= share.sum(axis=1, keepdims=True)
        return _mix(_DENSITY[f.palette].swapaxes(1, 2), share)    # (B, pigment, colour) by (B, colour, S, S)

    def structures(self, p, rho, mask):
        """Add network, globules, vessels and the rest to the pigments p (B, 4, S, S), in place."""
        f, mesh = self.f, 0.038 + 0.012 * _uniform(self.f.lesion_seed, "mesh", 1)[:, 0] + 0.055 * self.f.lagoons
        u, v = (w + _col(0.25 * mesh) * self.waves(f"warp{i}", 5 * mesh) for i, w in enumerate((self.u, self.v)))
        k = 4 * np.pi / np.sqrt(3) / mesh                         # warped honeycomb: 1 in the cells, -0.5 on the lines
        cells = sum(np.cos(_col(k * np.cos(t)) * u + _col(k * np.sin(t)) * v) for t in (0, np.pi / 3, 2 * np.pi / 3))
        cells *= _col(np.exp(-4 * (self.px / mesh) ** 2) / 3)
        brown, deep, blood, white = p.swapaxes(0, 1)
        patch = _soft(self.waves("patch", 0.9 * f.radius), -1.2, 0.6)
        core = _col(f.ring) * np.exp(-(rho / 0.5) ** 2)
        brown *= (1 - _col(0.95 * f.network) * patch * cells) * (1 - core)
        brown += _col(0.9 * f.globules) * mask * _soft(cells, 0.2, 0.8) * (1 - 0.7 * patch)
        brown += _col(0.9 * f.milia) * mask * _soft(self.waves("comedo", 0.07), 1.4, 2.2)
        deep += _col(0.25 * f.lagoons) * mask * patch
        deep += _col(0.75 * f.blotches) * _soft(self.waves("blotches", f.radius), -0.1, 1.6) * _soft(1.3 - rho, 0, 0.4)
        tree = np.exp(-(self.waves("trunk", 0.45) / 0.07) ** 2) + 0.7 * np.exp(-(self.waves("branch", 0.2) / 0.11) ** 2)
        blood += _col(0.65 * f.vessels) * tree * _soft(1.6 - rho, 0, 0.8)
        blood += _col(f.lagoons) * mask * (0.25 + 0.5 * _soft(cells, -0.4, 0.6))
        blood += _col(0.5 * f.scale) * mask * (patch - 0.5 - 0.5 * _soft(cells, 0.1, 0.8))
        flakes = _soft(0.6 * self.waves("flakes", 0.07) + 0.8 * self.waves("crust", 0.25), 0.3, 1.8)
        white += _col(0.35 * f.scale) * mask * flakes
        white += _col(0.5 * f.milia) * mask * _soft(self.waves("milia", 0.06), 1.3, 2.1)
        white += 0.4 * core * (0.75 + 0.25 * self.waves("scar", 0.08))

    def draw(self):
        """Pixels (B, 3, S, S) uint8: pigments of lesion and skin, absorption, scatter, overlay."""
        f, (rho, mask) = self.f, self.shape()
        p = self.pigment(rho)
        grain = 1.05 - 0.15 * rho + 0.12 * self.waves("mottling", 0.35 * f.radius) + 0.08 * self.waves("grain", 0.06)
        p *= (_col(f.depth) * mask * np.maximum(grain, 0.2))[:, None]
        self.structures(p, rho, mask)
        fine = 0.013 * self.waves("furrows", 0.04, False, 32)     # bare skin: furrows, flush, freckles
        mottle = _col(0.015 + 0.045 * _uniform(f.image_seed, "mottle", 1)[:, 0] ** 2)
        flush = self.waves("flush", 0.35, False) + 0.6 * self.waves("capillaries", 0.11, False, 24)
        p[:, 0] += fine + 0.4 * mottle * (flush + self.waves("freckles", 0.15, False, 24))
        p[:, 2] += fine + mottle * flush
        rgb = np.float32(f.tone)[:, :, None, None] * np.exp(-_mix(_ABSORB, p[:, :3]))
        rgb += np.clip(p[:, 3:], 0, 0.8) * (np.float32([0.90, 0.83, 0.86])[:, None, None] - rgb)
        self.overlay(rgb)
        return np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8)

    def overlay(self, rgb):
        """Hairs, gel bubbles, light and vignette on top of rgb (B, 3, S, S), in place."""
        f, x, y, thin = self.f, self.line, self.line[:, None], 0.7 * self.px
        hair, bubble = (_uniform(f.image_seed, tag, 17, 6) - np.float32(0.5) for tag in ("hairs", "bubbles"))
        for i in range(len(f)):
            for r in hair[i, :f.hairs[i]]:
                turn = np.pi * (hair[i, 16, 0] + 0.4 * r[0])      # the hairs of one image run alike
                a = (x - r[1]) * np.cos(turn) + (y - r[2]) * np.sin(turn)
                b = (y - r[2]) * np.cos(turn) - (x - r[1]) * np.sin(turn) - 2 * r[3] * a * a
                width = 0.0035 + 0.003 * r[4]
                cover = np.exp(-(b / max(width, thin)) ** 2) * _soft(0.3 + 0.4 * r[5] - np.abs(a), 0, 0.1)
                rgb[i] *= 1 - min(1, width / thin) * np.float32([0.65, 0.72, 0.72])[:, None, None] * cover
            for r in bubble[i, :f.bubbles[i]]:
                d = np.hypot(x - r[0], y - r[1]) - 0.015 - 0.04 * (r[2] + 0.5) ** 2
                rgb[i] += (0.16 + 0.2 * r[3]) * np.exp(-(d / max(0.007, thin)) ** 2)
        corner = 1 - _col(0.8 * f.vignette) * _soft(np.hypot(x, y), 0.50, 0.72)
        shade = corner * (1 + 0.035 * self.waves("shade", 1.5, False))
        rgb *= np.float32(f.light)[:, :, None, None] * shade[:, None]
