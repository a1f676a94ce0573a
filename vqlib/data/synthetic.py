"""Procedural dermoscopy: seven classes of skin lesion drawn from known factors.

It stands in where no real data is there. Skin and lesion are maps of pigment; colour follows from
Beer-Lambert absorption, so a lesion darkens its own skin. Texture is random fields: sums of plane
waves. cos(a + b) = cos a cos b - sin a sin b, with a along x and b along y, makes each field one
matrix product.

Letters: B images, S pixels per side, W waves. Lengths are in image sides. The image spans
-0.5..0.5, x to the right, y down.
"""
import numpy as np

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")      # named as in HAM10000
_SHARE = (0.08, 0.10, 0.14, 0.07, 0.14, 0.40, 0.07)               # softer than HAM10000's
TRAITS = {  # of a lesion: normal around the mean of its class, clipped to low..high
    #            low, high, spread  akiec  bcc   bkl   df    mel   nv   vasc
    # outline: mean radius, long / short axis, asymmetry (of colours, too), irregularity,
    # width of the rim in radii
    "radius":    (0.08, 0.42, 0.07, 0.28, 0.20, 0.27, 0.17, 0.29, 0.22, 0.16),
    "aspect":    (1.00, 2.20, 0.20, 1.35, 1.25, 1.30, 1.10, 1.35, 1.15, 1.15),
    "asymmetry": (0.00, 1.00, 0.13, 0.50, 0.40, 0.35, 0.10, 0.75, 0.15, 0.15),
    "border":    (0.00, 1.00, 0.13, 0.55, 0.35, 0.30, 0.12, 0.70, 0.25, 0.15),
    "fuzz":      (0.05, 1.00, 0.10, 0.80, 0.50, 0.12, 0.65, 0.28, 0.32, 0.18),
    # pigments: how unevenly they are spread, melanin, melanin seen through the dermis (blue-grey),
    # blood, scale or scar (scatters light)
    "colours":   (0.10, 1.00, 0.12, 0.60, 0.65, 0.35, 0.25, 0.75, 0.25, 0.25),
    "brown":     (0.00, 1.60, 0.16, 0.22, 0.18, 0.62, 0.65, 0.95, 0.72, 0.05),
    "deep":      (0.00, 0.80, 0.06, 0.00, 0.34, 0.05, 0.00, 0.24, 0.02, 0.10),
    "blood":     (0.00, 0.90, 0.08, 0.42, 0.30, 0.20, 0.22, 0.22, 0.16, 0.40),
    "white":     (0.00, 0.40, 0.03, 0.14, 0.03, 0.01, 0.02, 0.06, 0.00, 0.00),
    # strength of structures; milia: white and dark dots, ring: round a white centre,
    # lagoons: of blood
    "network":   (0.00, 1.00, 0.20, 0.00, 0.00, 0.10, 0.30, 0.55, 0.60, 0.00),
    "globules":  (0.00, 1.00, 0.20, 0.00, 0.00, 0.05, 0.00, 0.30, 0.15, 0.00),
    "streaks":   (0.00, 1.00, 0.20, 0.00, 0.00, 0.00, 0.00, 0.50, 0.00, 0.00),
    "vessels":   (0.00, 1.00, 0.20, 0.15, 0.75, 0.00, 0.00, 0.05, 0.00, 0.00),
    "milia":     (0.00, 1.00, 0.20, 0.00, 0.00, 0.80, 0.00, 0.00, 0.00, 0.00),
    "ring":      (0.00, 1.00, 0.15, 0.00, 0.00, 0.00, 0.85, 0.00, 0.00, 0.00),
    "lagoons":   (0.00, 1.00, 0.15, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.85),
}
_TONES = np.array([  # RGB of bare skin, to be mixed
    (0.78, 0.69, 0.74),  # grey
    (0.87, 0.73, 0.77),  # pale
    (0.94, 0.61, 0.60),  # pink
    (0.84, 0.67, 0.57),  # tan
])
_BROWN, _DEEP, _BLOOD = np.array([  # absorption of R, G, B
    (0.45, 0.90, 1.15),
    (0.85, 0.75, 0.50),
    (0.12, 0.95, 0.55),
], np.float32)
_SCATTER = (0.90, 0.83, 0.86)      # R, G, B of white scale
_HAIR = (0.65, 0.72, 0.72)         # how much of R, G, B a hair takes away


class Factors(np.recarray):
    """True factors of n images, as records (n,); `factors[rows]` renders to those rows' bytes.

    Each field is an attribute: `factors.radius` is (n,).
    Equal in all images of a lesion:
        label          0..6, index into CLASSES
        lesion         number, unique in this set only
        lesion_seed
        tone           RGB of the bare skin, 0.5..1
        and the TRAITS
    New in each image:
        image_seed
        cx, cy         centre of the lesion, -0.12..0.12
        angle          0..2 pi
        light          gain of R, G, B, 0.75..1.15
        hairs          0..15
        bubbles        0..5, in the gel
        vignette       0..1
    """


def synthetic(n: int, size: int, seed: int) -> tuple[np.ndarray, Factors]:
    """Images (n, 3, size, size) uint8 RGB and their Factors; the same arguments, the same bytes.

    Raises ValueError if n < 1, size < 16, or either is not whole.
    """
    factors = draw_factors(n, seed)
    return render(factors, size), factors


def draw_factors(n: int, seed: int) -> Factors:
    """Factors of n images in random order; a quarter of the lesions has two or three images."""
    if n != int(n) or n < 1:
        raise ValueError(f"n = {n}: the number of images must be a whole number >= 1")
    n = int(n)
    rng = np.random.default_rng(seed)          # the order of the draws decides the bytes
    n_images = rng.choice((1, 2, 3), size=n, p=(0.75, 0.19, 0.06))       # of each lesion
    lesion = rng.permutation(np.repeat(np.arange(n), n_images)[:n])      # (n,)
    label = rng.choice(len(CLASSES), size=n, p=_SHARE)                   # of each lesion
    low, high, spread, *means = np.array(list(TRAITS.values())).T
    traits = np.array(means)[label] + spread * rng.normal(size=(n, len(low)))
    traits = np.clip(traits, low, high)                                  # (n, 17) of each lesion
    cx, cy = np.clip(rng.normal(0, 0.035, (2, n)), -0.12, 0.12)
    columns = {
        "label": label[lesion],
        "lesion": lesion,
        "lesion_seed": rng.integers(2**63, size=n)[lesion],
        "tone": (rng.dirichlet((0.45, 0.5, 0.65, 0.3), size=n) @ _TONES)[lesion],
        **dict(zip(TRAITS, traits[lesion].T)),
        "image_seed": rng.integers(2**63, size=n),
        "cx": cx,
        "cy": cy,
        "angle": rng.uniform(0, 2 * np.pi, n),
    }
    light = rng.normal(0.95, 0.07, (n, 1)) * rng.normal(1, 0.025, (n, 3))
    columns["light"] = np.clip(light, 0.75, 1.15)
    columns["hairs"] = (rng.random(n) < 0.3) * np.int64(np.ceil(15 * rng.random(n) ** 2))
    columns["bubbles"] = (rng.random(n) < 0.15) * rng.integers(1, 6, n)
    columns["vignette"] = (rng.random(n) < 0.25) * rng.uniform(0.2, 1, n)
    dtype = []
    for name, values in columns.items():
        dtype.append((name, "f4" if values.dtype.kind == "f" else "i8", values.shape[1:]))
    return np.rec.fromarrays(list(columns.values()), dtype).view(Factors)


def render(factors: Factors, size: int, rows=slice(None)) -> np.ndarray:
    """Images (len(rows), 3, size, size) uint8 RGB of these rows of the factors.

    Each image depends on its own row only: chunks give equal bytes.
    """
    if size != int(size) or size < 16:
        raise ValueError(f"size = {size}: the image side must be a whole number of pixels >= 16")
    factors, size = factors[rows], int(size)
    chunk = max(1, 2**18 // size**2)           # 64 images of 64 px: 1 MB a field, fits the cache
    images = [np.empty((0, 3, size, size), np.uint8)]
    for start in range(0, len(factors), chunk):
        images.append(_Scene(factors[start : start + chunk], size).draw())
    return np.concatenate(images)


def _smoothstep(x, low, high):
    """0 below low, 1 above high, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _random_blocks(seeds: np.ndarray):
    """Iterator over 20 blocks (B, 6, 16) of numbers in [0, 1), each image's from its own seed."""
    numbers = [np.random.default_rng(seed).random((20, 6, 16), "f4") for seed in seeds]
    return iter(np.stack(numbers, axis=1))


class _Scene:
    """One chunk of images on its way from factors to pixels; every map is (B, S, S) float32.

    Random blocks are taken in turn: the order of the calls decides which field gets which numbers.
    """

    def __init__(self, factors: Factors, size: int):
        self.factors = factors
        self.f = factors[:, None, None]                            # self.f.radius: (B, 1, 1)
        self.pixel = 1 / size
        self.line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5        # (S,) centres
        self.plane = self.line + 1j * self.line[:, None]           # (S, S) x + iy
        from_centre = self.plane - self.f.cx - 1j * self.f.cy      # (B, S, S)
        self.own = from_centre * np.exp(-1j * self.f.angle)        # in the axes of the lesion
        self.lesion_blocks = _random_blocks(factors.lesion_seed)
        self.image_blocks = _random_blocks(factors.image_seed)

    def draw(self) -> np.ndarray:
        """Pixels (B, 3, S, S) uint8.

        In this order: pigments of lesion and skin, absorption, scatter, hairs and bubbles, light.
        """
        f = self.f
        brown, deep, blood, white = self.pigments()
        self.add_skin(brown, blood)
        vignette = 1 - 0.8 * f.vignette * _smoothstep(np.abs(self.plane), 0.50, 0.72)
        shade = vignette * (1 + 0.035 * self.waves(1.5, of_lesion=False))
        hairs, shine = self.hairs_and_bubbles()
        white = np.clip(white, 0, 0.8)
        image = np.empty((len(f), 3, *hairs.shape[1:]), np.uint8)
        for c in range(3):                                         # R, G, B
            x = f.tone[..., c] * np.exp(-_BROWN[c] * brown - _DEEP[c] * deep - _BLOOD[c] * blood)
            x = (x + white * (_SCATTER[c] - x)) * (1 - _HAIR[c] * hairs) + shine
            image[:, c] = np.clip(255 * f.light[..., c] * shade * x + 0.5, 0, 255)
        return image

    def waves(self, length, of_lesion=True):
        """Random field (B, S, S) of mean 0 and deviation 1 with detail of this length.

        It moves with the lesion, or stays with the image.
        """
        f, line = self.f, self.line[:, None]
        r = next(self.lesion_blocks if of_lesion else self.image_blocks)[:, :, None]
        length = length * (0.65 + 0.85 * r[:, 0])                  # (B, 1, W), as all up to phase
        direction = np.pi / 16 * (np.arange(16) + r[:, 1]) + of_lesion * f.angle
        kx = 2 * np.pi / length * np.cos(direction)
        ky = 2 * np.pi / length * np.sin(direction)
        phase = 2 * np.pi * r[:, 2] - of_lesion * (kx * f.cx + ky * f.cy)
        a, b = np.float32(line * kx + phase), np.float32(line * ky)          # (B, S, W)
        fade = np.exp(-4 * (self.pixel / length) ** 2)             # what the pixels cannot hold
        size = np.float32(np.sqrt(2 / 16) * fade)
        rows = np.concatenate([size * np.cos(b), -size * np.sin(b)], axis=2)
        columns = np.concatenate([np.cos(a), np.sin(a)], axis=2).swapaxes(1, 2)   # (B, 2W, S)
        step = max(1, 2**17 // columns[0].size)    # for more BLAS starts threads: 100 times slower
        parts = [rows[:, i : i + step] @ columns for i in range(0, len(line), step)]
        return np.concatenate(parts, axis=1)

    def shape(self):
        """Distance from the centre (1 = at the rim), and soft mask of the lesion."""
        f = self.f
        r = next(self.lesion_blocks)[:, :2, None, :9]              # (B, 2, 1, 9) of 9 harmonics
        k = np.arange(1, 10)
        stretch = np.sqrt(f.aspect)
        z = (self.own.real / stretch + 1j * self.own.imag * stretch) / f.radius
        rho, theta = np.abs(z), np.angle(z)
        phase = 2 * np.pi * r[:, 1]                                # (B, 1, 9)
        size = np.where(k <= 3, 0.30 * f.asymmetry / np.sqrt(k), 0.40 * f.border / k)
        size = np.float32(size * np.sqrt(r[:, 0]))                 # (B, 1, 9)
        outline = 1 + sum(
            size[..., j : j + 1] * np.cos((j + 1) * theta + phase[..., j : j + 1])
            for j in range(9)
        )
        teeth = np.maximum(np.cos(16 * theta), 0)
        teeth = teeth * _smoothstep(self.waves(1.5 * f.radius), -0.3, 0.8)
        ragged = 0.14 * f.border * self.waves(0.4 * f.radius)
        rho /= np.maximum(outline + ragged + 0.3 * f.streaks * teeth, 0.3)
        fuzz = np.maximum(f.fuzz, 2.5 * self.pixel / f.radius)     # at least 2.5 pixels
        return rho, _smoothstep((1 - rho) / fuzz, -0.5, 0.5)

    def pigments(self):
        """Maps of brown, deep, blood and white in the lesion, with its structures.

        Pigments lie in patches if the lesion is asymmetric, else in rings.
        """
        f = self.f
        rho, mask = self.shape()
        r = next(self.lesion_blocks)[:, :, :1, None]               # (B, 6, 1, 1)
        grain = 1.05 - 0.15 * rho + 0.13 * self.waves(0.2 * f.radius)
        patchy = 0.4 + 0.6 * f.asymmetry
        maps = []
        for k, (name, gain) in enumerate(
            (("brown", 0.7), ("deep", 1.5), ("blood", 0.9), ("white", 1.2))
        ):
            patches = patchy * self.waves(0.9 * f.radius)
            rings = (1 - patchy) * np.sign(r[:, k] - 0.5) * (2 - 3 * rho)
            uneven = np.exp(f.colours * gain * (patches + rings))
            maps.append(f[name] * mask * grain * uneven)
        self.add_structures(*maps, rho, mask, r[:, 4])
        return maps

    def add_structures(self, brown, deep, blood, white, rho, mask, r):
        """Add network, globules, vessels, milia, ring and lagoons to the maps, in place."""
        f = self.f
        cells = self.honeycomb(0.038 + 0.012 * r + 0.055 * f.lagoons)
        patch = _smoothstep(self.waves(0.9 * f.radius), -1.2, 0.6)
        spots = self.waves(0.065)
        core = f.ring * np.exp(-((rho / 0.5) ** 2))
        tree = sum(
            np.exp(-((self.waves(length) / width) ** 2))
            for length, width in ((0.45, 0.07), (0.2, 0.11))
        )
        brown *= (1 - 0.95 * f.network * patch * cells) * (1 - core)
        globules = 0.9 * f.globules * _smoothstep(cells, 0.2, 0.8) * (1 - 0.7 * patch)
        dark_milia = 0.9 * f.milia * _smoothstep(-spots, 1.4, 2.2)
        brown += mask * (globules + dark_milia)
        vessels = 0.6 * f.vessels * tree * _smoothstep(1.6 - rho, 0, 0.8)
        lagoons = f.lagoons * mask * (0.25 + 0.5 * _smoothstep(cells, -0.4, 0.6))
        blood += vessels + lagoons
        white += 0.5 * f.milia * mask * _smoothstep(spots, 1.3, 2.1) + 0.4 * core

    def honeycomb(self, mesh):                                     # (B, 1, 1): size of a cell
        """Warped honeycomb in the axes of the lesion: 1 in the cells, -0.5 on the lines."""
        u, v = (
            4 * np.pi / 3**0.5 * (axis / mesh + 0.25 * self.waves(5 * mesh))
            for axis in (self.own.real, self.own.imag)
        )
        fade = np.exp(-4 * (self.pixel / mesh) ** 2)               # what the pixels cannot hold
        waves = (u, u / 2 + 0.866 * v, u / 2 - 0.866 * v)
        return fade / 3 * sum(np.cos(wave) for wave in waves)

    def add_skin(self, brown, blood):
        """Add furrows and flushes of the skin to the maps, in place."""
        furrows = 0.013 * self.waves(0.04, of_lesion=False)
        strength = 0.015 + 0.045 * next(self.image_blocks)[:, :1, :1] ** 2
        coarse, fine = self.waves(0.35, of_lesion=False), self.waves(0.11, of_lesion=False)
        flush = strength * (coarse + 0.6 * fine)
        brown += furrows + 0.4 * flush + 0.01 * self.waves(0.15, of_lesion=False)
        blood += furrows + flush

    def hairs_and_bubbles(self):
        """Maps of what hairs cover, 0..1, and of the shine of bubbles in the gel."""
        hairs, shine = np.zeros((2, len(self.f), *self.plane.shape), np.float32)
        hair_blocks, bubble_blocks = (
            next(self.image_blocks).swapaxes(1, 2) - np.float32(0.5) for _ in range(2)
        )                                                          # (B, 16, 6) in -0.5..0.5
        for i, f in enumerate(self.factors):
            for r in hair_blocks[i, : f.hairs]:
                hair = self.hair(r, combed=hair_blocks[i, 15, 0])
                hairs[i] = 1 - (1 - hairs[i]) * (1 - hair)
            for r in bubble_blocks[i, : f.bubbles]:
                shine[i] += self.bubble(r)
        return hairs, shine

    def hair(self, r, combed):                                     # (6,), () -> (S, S) in 0..1
        """One curved hair; the hairs of one image run alike, as they are combed."""
        thinnest = 0.7 * self.pixel
        z = self.plane - r[1] - 1j * r[2]
        z = z * np.exp(-1j * np.pi * (combed + 0.4 * r[0]))
        width = 0.0035 + 0.003 * r[4]
        off = z.imag - 2 * r[3] * z.real**2                        # distance from the curve
        line = np.exp(-((off / max(width, thinnest)) ** 2))
        line = line * _smoothstep(0.3 + 0.4 * r[5] - np.abs(z.real), 0, 0.1)
        return min(1, width / thinnest) * line

    def bubble(self, r):                                           # (6,) -> (S, S)
        """The bright rim of one bubble."""
        radius = 0.04 * (r[2] + 0.5) ** 2
        rim = np.abs(self.plane - r[0] - 1j * r[1]) - 0.015 - radius
        return (0.16 + 0.2 * r[3]) * np.exp(-((rim / max(0.007, 0.7 * self.pixel)) ** 2))
