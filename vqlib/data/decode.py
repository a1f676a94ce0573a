"""One image, a file or a row of an array -> a square of RGB bytes.

Letters: H, W height and width of a picture, S side of the cached square.
"""
import math
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

Image.init()
# not Ghostscript and what only looks like an image: plugins that run programs, or read headers only
FORMATS = tuple(name for name in Image.ID if name in Image.OPEN and name not in {
    "EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"})
LEVELS = 8           # greys, or colours of a palette, that a segmentation has at most
SAMPLE = (64, 64)    # pixels that are looked at for one with soft edges
MOST_PIXELS = 2**26  # of a picture that is decoded, on each core at a time: 0.2 GB as RGB

@dataclass(frozen=True)
class Geometry:
    """Shorter side to `resize` (antialiased), then the centre; None keeps the pixels (report)."""

    crop: int = 128            # side of what the models see
    resize: int | None = 128

    @property
    def side(self) -> int:
        """Side of the cached square.

        Squares that are not resized keep a margin, so that a rotation by 10 degrees has real
        pixels in its corners.
        """
        return self.crop if self.resize else 2 * math.ceil(self.crop * 1.17 / 2)


def decode(place: Path | int, array: np.ndarray | None, geometry: Geometry) -> np.ndarray:
    """Decode one image, a file or a row of `array` (N, H, W, 3), to (3, S, S) uint8 RGB.

    Raises ValueError or OSError with the reason if it cannot.
    """
    if isinstance(place, Path):
        image, may_be_enlarged = read_rgb(place, geometry), False
    else:
        image, may_be_enlarged = Image.fromarray(array[place]), bool(geometry.resize)  # has a note
    if min(image.size) < geometry.crop and not may_be_enlarged:
        size = f"{image.width} x {image.height} px"
        raise ValueError(f"{size} is smaller than the crop of {geometry.crop}")
    if geometry.resize:
        image = resize_centre(image, geometry)
    return crop_or_pad(np.asarray(image), geometry.side).transpose(2, 0, 1)


def read_rgb(source: Path | BinaryIO, geometry: Geometry, masks=False) -> Image.Image:
    """Read an image as a viewer shows it: upright, RGB, transparent parts on white.

    source: a file, or its bytes as an open file. Of an animation the first frame is read. Raises
    OSError for what is cut or no image, ValueError for pixels of more than 8 bits, for a TIFF of
    several pages, for too many pixels, and for a segmentation, unless `masks` are wanted.
    """
    with Image.open(source, formats=FORMATS) as opened:
        image = opened
        if image.format == "TIFF" and image.n_frames > 1:
            raise ValueError(f"{image.n_frames} pages: save each as an image of its own")
        if geometry.resize:            # a JPEG is shrunk while it is decoded: faster
            image.draft("RGB", (2 * geometry.resize, 2 * geometry.resize))
        assert_fits_memory(image)
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"{image.mode} pixels of more than 8 bits are not supported")
        if "A" in image.getbands() or "transparency" in image.info:
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image.convert("RGBA"))
        mode = image.mode
        if image.mode != "RGB":        # grayscale, palette, CMYK
            image = image.convert("RGB")
        image.load()                   # before the file is closed
    if not masks and (mode == "1" or is_mask(image, palette=mode == "P")):
        raise ValueError("black and white only, or a few flat colours: a mask, no photograph")
    return image


def assert_fits_memory(image: Image.Image) -> None:
    """Raises ValueError for a picture of too many pixels, before they are decoded."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} px are more than {MOST_PIXELS:,}: "
                         "save it smaller")


def is_mask(image: Image.Image, palette=False) -> bool:
    """Whether an RGB image is a segmentation, whatever its name.

    It has a few greys, or a few colours of a palette on black, or is black and white but for the
    soft edges that JPEG and resizing make.
    """
    if found := image.getcolors(LEVELS):                           # None if there are more
        colours = {colour for _, colour in found}
        flat = all(r == g == b for r, g, b in colours) or (palette and (0, 0, 0) in colours)
        return len(colours) > 1 and flat
    sample = np.asarray(image.resize(SAMPLE, Image.Resampling.NEAREST))
    black, white = (sample < 16).mean(), (sample >= 240).mean()
    grey = (sample == sample[..., :1]).all()
    return bool(grey and min(black, white) > 0.01 and black + white > 0.9)


def is_mask_file(path: Path) -> bool:
    """Whether a file is a mask by its pixels, or of one colour; an unreadable one is none."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            assert_fits_memory(image)
            rgb = image.convert("RGB")
            return bool(rgb.getcolors(1)) or is_mask(rgb, image.mode == "P")
    except Exception:                  # whatever is wrong with it is told when it is decoded
        return False


def resize_centre(image: Image.Image, geometry: Geometry) -> Image.Image:
    """Resize the shorter side, crop the centre -> (S, S); pixels outside are never computed."""
    side, shorter = geometry.side, min(image.size)
    spans = []                         # across, down: where the crop begins and ends in `image`
    for length in image.size:
        resized = max(geometry.resize, round(length * geometry.resize / shorter))
        first = (resized - side) // 2
        spans.append((length * first / resized, length * (first + side) / resized))
    (left, right), (top, bottom) = spans
    return image.resize((side, side), Image.Resampling.LANCZOS, (left, top, right, bottom))


def crop_or_pad(pixels: np.ndarray, side: int) -> np.ndarray:      # (H, W, 3) -> (S, S, 3)
    """Centre square; where the picture is too small for it, its pixels are reflected."""
    top, left = (max(0, length - side) // 2 for length in pixels.shape[:2])
    pixels = pixels[top : top + side, left : left + side]
    missing = [side - length for length in pixels.shape[:2]]
    if any(missing):
        margins = [(m // 2, m - m // 2) for m in missing]
        pixels = np.pad(pixels, [*margins, (0, 0)], mode="reflect")
    return pixels
