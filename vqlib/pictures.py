"""Pictures in and out: anybody's files in, PNG sheets with their settings inside out.

Letters: n images, S side of a square, K codes, h w grid cells, f pixels per cell side.
"""
import io
import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from vqlib.backend.files import is_there
from vqlib.data import folders
from vqlib.data.augment import centre_crop, to_unit
from vqlib.data.decode import FORMATS, Geometry, crop_or_pad, read_rgb, resize_centre
from vqlib.data.records import DataError, printable

EXIF_ORIENTATION = 0x0112   # 1: as stored; 5 to 8: width and height change places


@dataclass
class Picture:
    """A square cut out of a file, and a sentence on what was cut."""

    name: str
    image: Tensor   # (3, S, S) in [0, 1]
    note: str


def list_files(paths: list[Path]) -> list[Path]:
    """The files given, and every picture below the folders given, in order.

    Raises DataError for a path that does not exist or is no file, and for a folder without
    pictures. Hidden files, thumbnails and masks below a folder are left out by their names.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"no such file or folder: {path}")
        if path.is_dir():
            found = folders.list_files(path).images
            if not found:
                raise DataError(f"no picture below {path}: JPEG, PNG, BMP, TIFF and WebP are read")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"{path} is no regular file")          # a pipe would keep us waiting
    return files


def upright_size(source: Path | io.BytesIO) -> tuple[int, int]:
    """Width and height in pixels as a viewer shows the picture."""
    with Image.open(source, formats=FORMATS) as image:
        turned = image.getexif().get(EXIF_ORIENTATION, 1) >= 5
        return image.size[::-1] if turned else image.size


def read_picture(source: Path | io.BytesIO, geometry: Geometry, name="") -> Picture:
    """Any picture as the models see it: upright, RGB, transparent parts on white, the centre.

    name: of the bytes of a file. Raises DataError with the reason if they cannot be read,
    FileError for what is no regular file.
    """
    name = name or printable(source.name)
    if isinstance(source, Path) and not is_there(source):
        raise DataError(f"no such file: {source}")
    try:
        size = upright_size(source)
        image = read_rgb(source, geometry, masks=True)             # a JPEG is shrunk on the way
    except UnidentifiedImageError as e:
        raise DataError(f"{name} is no picture that can be read: save it as JPEG or "
                        "PNG") from e
    except Exception as e:                                       # Pillow raises what it likes
        raise DataError(f"{name}: {str(e).replace(str(source), name)}") from e
    if geometry.resize:
        image = resize_centre(image, geometry)
    square = crop_or_pad(np.asarray(image), geometry.side).transpose(2, 0, 1)       # (3, S', S')
    pixels = torch.from_numpy(np.ascontiguousarray(square))
    image = to_unit(centre_crop(pixels, geometry.crop))          # (3, S, S)
    return Picture(Path(name).stem, image, describe_crop(*size, geometry))


def describe_crop(width: int, height: int, geometry: Geometry) -> str:
    """What `read_picture` keeps of a picture of that many pixels, in words."""
    whole, side, shorter = f"{width} x {height} px", geometry.crop, min(width, height)
    if not geometry.resize:
        kept = "reflected to fill" if shorter < side else "the centre, kept unscaled:"
        return whole if (width, height) == (side, side) else f"{whole}, {kept} {side} x {side}"
    kept = round(shorter * side / geometry.resize)
    parts = [whole]
    if (width, height) != (kept, kept):
        parts.append(f"kept the centre {kept} x {kept}")
    if kept != side:
        parts.append(f"{'enlarged' if kept < side else 'scaled'} to {side} x {side}")
    return ", ".join(parts)


def read_pictures(paths: list[Path], geometry: Geometry):
    """Yield a Picture, or a DataError that says why not, for each file and folder of pictures.

    Names are unique: the second `a` is called `a-2`.
    """
    taken = set()
    for path in list_files(paths):
        try:
            picture = read_picture(path, geometry)
        except DataError as error:
            yield error
            continue
        picture.name = unique(picture.name, taken)
        yield picture


def unique(name: str, taken: set[str]) -> str:
    """The name, or the name with the first number from 2 on that is free; it is taken then."""
    names = (name if n == 1 else f"{name}-{n}" for n in count(1))
    free = next(name for name in names if name not in taken)
    taken.add(free)
    return free


def to_pil(image: Tensor) -> Image.Image:                        # (3, H, W) in [0, 1]
    """Rounded to 8 bits."""
    pixels = (image.detach().cpu().clamp(0, 1) * 255).round().byte()
    return Image.fromarray(pixels.movedim(0, -1).numpy())


def to_png(image: Tensor, **settings) -> bytes:                  # (3, H, W) in [0, 1]
    """A PNG file that carries its settings as JSON in a text chunk named `vqlib`."""
    buffer, text = io.BytesIO(), PngInfo()
    if settings:
        text.add_text("vqlib", json.dumps(settings))
    to_pil(image).save(buffer, "PNG", pnginfo=text)
    return buffer.getvalue()


def to_jpeg(image: Tensor, quality=90) -> bytes:                 # (3, H, W) in [0, 1]
    """A file for the eye: a tenth of a PNG's bytes."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def settings_of(path: Path) -> dict:
    """What `to_png` put into a file; empty for other pictures."""
    with Image.open(path, formats=FORMATS) as image:
        return json.loads(getattr(image, "text", {}).get("vqlib", "{}"))


def sheet(images: Tensor, per_row=8) -> Tensor:                  # (n, 3, S, S) -> (3, H, W)
    """Images in reading order, white lines of two pixels around them; one alone has none."""
    images = images.detach().cpu().clamp(0, 1)
    if len(images) == 1:
        return images[0]
    columns = min(per_row, len(images))
    blank = images.new_ones(-len(images) % columns, *images.shape[1:])
    cells = F.pad(torch.cat([images, blank]), (0, 2, 0, 2), value=1)       # (n', 3, S+2, S+2)
    rows = cells.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4)        # (3, r, S+2, c, S+2)
    return F.pad(rows.flatten(3).flatten(1, 2), (2, 0, 2, 0), value=1)


def code_colours(n_codes: int) -> np.ndarray:                    # -> (K, 3) in [0, 1]
    """One colour per code: only equal colours mean anything, so neighbours differ in hue."""
    k = np.arange(n_codes)
    hue = k * 0.618 % 1
    saturation = 0.45 + 0.4 * (k % 3) / 2
    value = 0.55 + 0.4 * (k % 5) / 4
    # red, green and blue stand 5, 3 and 1 sixths of the colour circle further on
    distance = (np.array([5, 3, 1]) + 6 * hue[:, None]) % 6      # (K, 3)
    chroma = np.minimum(distance, 4 - distance).clip(0, 1)
    return value[:, None] * (1 - saturation[:, None] * chroma)


def code_map(codes: Tensor, n_codes: int, f: int) -> Tensor:     # (h, w) -> (3, f*h, f*w)
    """The codes of an image as a picture, each cell in the colour of its code."""
    colours = torch.from_numpy(code_colours(n_codes)).float()    # (K, 3)
    cells = colours[codes.cpu()].movedim(-1, 0)                  # (3, h, w)
    return cells.repeat_interleave(f, 1).repeat_interleave(f, 2)
