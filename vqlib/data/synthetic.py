"""Procedural dermoscopy: seven classes of skin lesion drawn from known factors, for when no real data is there.

Light: skin and lesion are maps of pigment; colour follows from Beer-Lambert absorption, so a lesion darkens its own skin.
Texture: a field is a sum of plane waves cos(a + b) = cos a cos b - sin a sin b, a along x, b along y: one matrix product.

Letters: B images, S pixels per side, W waves. Lengths are in image sides; the image spans -0.5..0.5, x right, y down.
"""

import numpy as np

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")      # named as in HAM10000
_SHARE = (0.08, 0.10, 0.14, 0.07, 0.14, 0.40, 0.07)               # class frequencies, softer than HAM10000's
TRAITS = {  # normal around the mean of the class
    #            low, high, spread  akiec  bcc   bkl   df    mel   nv   vasc
    "radius":    (0.08, 0.42, 0.07, 0.28, 0.20, 0.27, 0.17, 0.29, 0.22, 0.16),  # mean over all directions, in image sides
    "aspect":    (1.00, 2.20, 0.20, 1.35, 1.25, 1.30, 1.10, 1.35, 1.15, 1.15),  # long / short axis
    "asymmetry": (0.00, 1.00, 0.13, 0.50, 0.40, 0.35, 0.10, 0.75, 0.15, 0.15),  # of outline and colours
    "border":    (0.00, 1.00, 0.13, 0.55, 0.35, 0.30, 0.12, 0.70, 0.25, 0.15),  # irregularity
    "fuzz":      (0.05, 1.00, 0.10, 0.80, 0.50, 0.12, 0.65, 0.28, 0.32, 0.18),  # width of the rim in radii
    "colours":   (0.10, 1.00, 0.12, 0.60, 0.65, 0.35, 0.25, 0.75, 0.25, 0.25),  # how unevenly the pigments are spread
    "brown":     (0.00, 1.60, 0.16, 0.22, 0.18, 0.62, 0.65, 0.95, 0.72, 0.05),  # melanin
    "deep":      (0.00, 0.80, 0.06, 0.00, 0.34, 0.05, 0.00, 0.24, 0.02, 0.10),  # melanin seen through the dermis: blue-grey
    "blood":     (0.00, 0.90, 0.08, 0.42, 0.30, 0.20, 0.22, 0.22, 0.16, 0.40),
    "white":     (0.00, 0.40, 0.03, 0.14, 0.03, 0.01, 0.02, 0.06, 0.00, 0.00),  # scale or scar, scatters light
    "network":   (0.00, 1.00, 0.20, 0.00, 0.00, 0.10, 0.30, 0.55, 0.60, 0.00),  # from here: strength of structures
    "globules":  (0.00, 1.00, 0.20, 0.00, 0.00, 0.05, 0.00, 0.30, 0.15, 0.00),
    "streaks":   (0.00, 1.00, 0.20, 0.00, 0.00, 0.00, 0.00, 0.50, 0.00, 0.00),
    "vessels":   (0.00, 1.00, 0.20, 0.15, 0.75, 0.00, 0.00, 0.05, 0.00, 0.00),
    "milia":     (0.00, 1.00, 0.20, 0.00, 0.00, 0.80, 0.00, 0.00, 0.00, 0.00),  # white and dark dots
    "ring":      (0.00, 1.00, 0.15, 0.00, 0.00, 0.00, 0.85, 0.00, 0.00, 0.00),  # round a white centre
    "lagoons":   (0.00, 1.00, 0.15, 0.00, 0.00, 0.00, 0.00, 0.00, 0.00, 0.85)}  # of blood
_ABSORB = np.array([(0.45, 0.90, 1.15), (0.85, 0.75, 0.50), (0.12, 0.95, 0.55)], np.float32)        # brown, deep, blood of RGB
_TONES = np.array([(0.78, 0.69, 0.74), (0.87, 0.73, 0.77), (0.94, 0.61, 0.60), (0.84, 0.67, 0.57)])  # grey, pale, pink, tan


class Factors(np.recarray):
    """True factors of n images: (n,) records, `factors.radius` is (n,); `factors[rows]` renders to the bytes of those rows.

    Equal in all images of a lesion: label (0..6, index into CLASSES), lesion (number, unique in this set only), lesion_seed,
    tone (RGB of the bare skin, 0.5..1) and the TRAITS. New in each image: image_seed, cx and cy (centre of the lesion,
    -0.12..0.12), angle (0..2 pi), light (gain of R, G, B, 0.75..1.15), hairs (0..15), bubbles (0..5), vignette (0..1).
    """


def synthetic(n, size, seed):
    """Images (n, 3, size, size) uint8 RGB and their Factors; the same arguments give the same bytes."""
    factors = draw_factors(n, seed)
    return render(factors, size), factors


def draw_factors(n, seed):
    """Factors of n images in random order; about a quarter of the lesions are seen in two or three of them."""
    if n != int(n) or n < 1:
        raise ValueError(f"n = {n}: the number of images must be a whole number >= 1")
    rng, n = np.random.default_rng(seed), int(n)
    lesion = rng.permutation(np.repeat(np.arange(n), rng.choice((1, 2, 3), size=n, p=(0.75, 0.19, 0.06)))[:n])
    label = rng.choice(len(CLASSES), size=n, p=_SHARE)            # (n,) by lesion, as traits
    low, high, spread, *means = np.array(list(TRAITS.values())).T
    traits = np.clip(np.array(means)[label] + spread * rng.normal(size=(n, len(low))), low, high)   # (n, 17)
    cx, cy = np.clip(rng.normal(0, 0.035, (2, n)), -0.12, 0.12)
    values = {
        "label": label[lesion], "lesion": lesion, "lesion_seed": rng.integers(2**63, size=n)[lesion],
        "tone": (rng.dirichlet((0.45, 0.5, 0.65, 0.3), size=n) @ _TONES)[lesion], **dict(zip(TRAITS, traits[lesion].T)),
        "image_seed": rng.integers(2**63, size=n), "cx": cx, "cy": cy, "angle": rng.uniform(0, 2 * np.pi, n),
        "light": np.clip(rng.normal(0.95, 0.07, (n, 1)) * rng.normal(1, 0.025, (n, 3)), 0.75, 1.15),
        "hairs": (rng.random(n) < 0.3) * np.int64(np.ceil(15 * rng.random(n) ** 2)),
        "bubbles": (rng.random(n) < 0.15) * rng.integers(1, 6, n), "vignette": (rng.random(n) < 0.25) * rng.uniform(0.2, 1, n)}
    dtype = [(name, "f4" if v.dtype.kind == "f" else "i8", v.shape[1:]) for name, v in values.items()]
    return np.rec.fromarrays([*values.values()], dtype).view(Factors)


def render(factors, size, rows=slice(None)):
    """Images (len(rows), 3, size, size) uint8 RGB; each depends on its own row only, so chunks give equal bytes."""
    if size != int(size) or size < 16:
        raise ValueError(f"size = {size}: the image side must be a whole number of pixels >= 16")
    factors, size = factors[rows], int(size)
    step = max(1, 2**18 // size**2)                               # 64 images of 64 px: 1 MB a field, fits the cache
    chunks = (_Scene(factors[i:i + step], size).draw() for i in range(0, len(factors), step))
    return np.concatenate([np.empty((0, 3, size, size), np.uint8), *chunks])


def _soft(x, low, high):
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)                                    # smoothstep: 0 below low, 1 above high


class _Scene:
    """One chunk of images on its way from factors to pixels; every map is (B, S, S) float32."""

    def __init__(self, f, size):
        self.f, self.t, self.px = f, f[:, None, None], 1 / size   # t.radius: (B, 1, 1)
        self.line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5           # (S,) pixel centres
        self.plane = self.line + 1j * self.line[:, None]          # (S, S) x + iy
        self.own = (self.plane - self.t.cx - 1j * self.t.cy) * np.exp(-1j * self.t.angle)   # (B, S, S) in the lesion's axes
        numbers = ([np.random.default_rng(s).random((20, 6, 16), "f4") for s in seeds] for seeds in (f.lesion_seed, f.image_seed))
        self.lesion, self.skin = (iter(np.stack(x, axis=1)) for x in numbers)        # blocks (B, 6, 16), taken in turn

    def waves(self, length, of_lesion=True):
        """Random field of mean 0 and deviation 1 with detail of this length; it moves with the lesion or not."""
        t, line, r = self.t, self.line[:, None], next(self.lesion if of_lesion else self.skin)[:, :, None]
        length = length * (0.65 + 0.85 * r[:, 0])                 # (B, 1, W), as all up to phase
        turn = np.pi / 16 * (np.arange(16) + r[:, 1]) + of_lesion * t.angle          # all directions
        kx, ky = 2 * np.pi / length * np.cos(turn), 2 * np.pi / length * np.sin(turn)
        phase = 2 * np.pi * r[:, 2] - of_lesion * (kx * t.cx + ky * t.cy)
        a, b = np.float32(line * kx + phase), np.float32(line * ky)                  # (B, S, W)
        size = np.float32(np.sqrt(2 / 16) * np.exp(-4 * (self.px / length) ** 2))    # fades what the pixels cannot hold
        rows = np.concatenate([size * np.cos(b), -size * np.sin(b)], axis=2)
        cols = np.concatenate([np.cos(a), np.sin(a)], axis=2).swapaxes(1, 2)         # (B, 2W, S)
        step = max(1, 2**17 // cols[0].size)                      # BLAS would start threads for more: 100 times slower
        return np.concatenate([rows[:, i:i + step] @ cols for i in range(0, len(line), step)], axis=1)

    def shape(self):
        """Distance rho from the centre (1 = at the rim) and soft mask of the lesion."""
        t, r, k = self.t, next(self.lesion)[:, :2, None, :9], np.arange(1, 10)
        z = (self.own.real / np.sqrt(t.aspect) + 1j * self.own.imag * np.sqrt(t.aspect)) / t.radius
        rho, theta, phase = np.abs(z), np.angle(z), 2 * np.pi * r[:, 1]              # phase and size: (B, 1, 9) harmonics
        size = np.float32(np.where(k <= 3, 0.30 * t.asymmetry / np.sqrt(k), 0.40 * t.border / k) * np.sqrt(r[:, 0]))
        outline = 1 + sum(size[..., j:j + 1] * np.cos((j + 1) * theta + phase[..., j:j + 1]) for j in range(9))
        teeth = np.maximum(np.cos(16 * theta), 0) * _soft(self.waves(1.5 * t.radius), -0.3, 0.8)
        rho /= np.maximum(outline + 0.14 * t.border * self.waves(0.4 * t.radius) + 0.3 * t.streaks * teeth, 0.3)
        return rho, _soft((1 - rho) / np.maximum(t.fuzz, 2.5 * self.px / t.radius), -0.5, 0.5)

    def pigments(self):
        """Maps of brown, deep, blood, white in the lesion: uneven, in patches if asymmetric, else in rings; structures on top."""
        t, (rho, mask), r = self.t, self.shape(), next(self.lesion)[:, :, :1, None]          # r: (B, 6, 1, 1)
        patchy, grain = 0.4 + 0.6 * t.asymmetry, 1.05 - 0.15 * rho + 0.13 * self.waves(0.2 * t.radius)
        fields = (patchy * self.waves(0.9 * t.radius) + (1 - patchy) * np.sign(r[:, k] - 0.5) * (2 - 3 * rho) for k in range(4))
        brown, deep, blood, white = (amount * mask * grain * np.exp(t.colours * gain * field) for amount, gain, field in
                                     zip((t.brown, t.deep, t.blood, t.white), (0.7, 1.5, 0.9, 1.2), fields))
        mesh = 0.038 + 0.012 * r[:, 4] + 0.055 * t.lagoons        # warped honeycomb: 1 in the cells, -0.5 on the lines
        u, v = (4 * np.pi / 3**0.5 * (w / mesh + 0.25 * self.waves(5 * mesh)) for w in (self.own.real, self.own.imag))
        cells = np.exp(-4 * (self.px / mesh) ** 2) / 3 * sum(np.cos(w) for w in (u, u / 2 + 0.866 * v, u / 2 - 0.866 * v))
        patch, spots, core = _soft(self.waves(0.9 * t.radius), -1.2, 0.6), self.waves(0.065), t.ring * np.exp(-(rho / 0.5) ** 2)
        tree = sum(np.exp(-(self.waves(length) / width) ** 2) for length, width in ((0.45, 0.07), (0.2, 0.11)))
        brown *= (1 - 0.95 * t.network * patch * cells) * (1 - core)
        brown += mask * (0.9 * t.globules * _soft(cells, 0.2, 0.8) * (1 - 0.7 * patch) + 0.9 * t.milia * _soft(-spots, 1.4, 2.2))
        blood += 0.6 * t.vessels * tree * _soft(1.6 - rho, 0, 0.8) + t.lagoons * mask * (0.25 + 0.5 * _soft(cells, -0.4, 0.6))
        white += 0.5 * t.milia * mask * _soft(spots, 1.3, 2.1) + 0.4 * core
        return brown, deep, blood, white

    def draw(self):
        """Pixels (B, 3, S, S) uint8: skin, lesion, absorption, scatter, then hairs and bubbles, light and vignette."""
        t, (brown, deep, blood, white) = self.t, self.pigments()
        furrows = 0.013 * self.waves(0.04, False)
        flush = (0.015 + 0.045 * next(self.skin)[:, :1, :1] ** 2) * (self.waves(0.35, False) + 0.6 * self.waves(0.11, False))
        brown += furrows + 0.4 * flush + 0.01 * self.waves(0.15, False)
        blood += furrows + flush
        shade = (1 - 0.8 * t.vignette * _soft(np.abs(self.plane), 0.50, 0.72)) * (1 + 0.035 * self.waves(1.5, False))
        cover, shine = self.overlay()
        white, image = np.clip(white, 0, 0.8), np.empty((len(t), 3, *cover.shape[1:]), np.uint8)
        for c, (scatter, hair) in enumerate(((0.90, 0.65), (0.83, 0.72), (0.86, 0.72))):                # R, G, B
            x = t.tone[..., c] * np.exp(-_ABSORB[0, c] * brown - _ABSORB[1, c] * deep - _ABSORB[2, c] * blood)
            x = (x + white * (scatter - x)) * (1 - hair * cover) + shine
            image[:, c] = np.clip(255 * t.light[..., c] * shade * x + 0.5, 0, 255)
        return image

    def overlay(self):
        """Maps of what hairs cover, 0..1, and of the shine of the bubbles in the gel."""
        thin, (cover, shine) = 0.7 * self.px, np.zeros((2, len(self.f), *self.plane.shape), np.float32)
        hair, bubble = (next(self.skin).swapaxes(1, 2) - np.float32(0.5) for _ in range(2))         # (B, 16, 6)
        for i, f in enumerate(self.f):
            for r in hair[i, :f.hairs]:                           # the hairs of one image run alike
                z = (self.plane - r[1] - 1j * r[2]) * np.exp(-1j * np.pi * (hair[i, 15, 0] + 0.4 * r[0]))
                width, off = 0.0035 + 0.003 * r[4], z.imag - 2 * r[3] * z.real ** 2
                line = np.exp(-(off / max(width, thin)) ** 2) * _soft(0.3 + 0.4 * r[5] - np.abs(z.real), 0, 0.1)
                cover[i] = 1 - (1 - cover[i]) * (1 - min(1, width / thin) * line)
            for r in bubble[i, :f.bubbles]:
                rim = np.abs(self.plane - r[0] - 1j * r[1]) - 0.015 - 0.04 * (r[2] + 0.5) ** 2
                shine[i] += (0.16 + 0.2 * r[3]) * np.exp(-(rim / max(0.007, thin)) ** 2)
        return cover, shine
