"""Image formats as rate-distortion references: bytes, with and without headers, against decibels.

Letters: n images.
"""
import io
import math

import numpy as np
import torch
from PIL import Image
from PIL import features as pillow
from torch import Tensor

from vqlib.metrics import psnr

SETTINGS = {
    "jpeg": dict(optimize=True, subsampling="4:2:0"),
    "webp": dict(method=6),
    "avif": dict(speed=6, subsampling="4:2:0"),
}


def codecs() -> list[str]:
    """The formats that this Pillow can write."""
    return ["jpeg", *[codec for codec in ("webp", "avif") if pillow.check(codec)]]


def encode(image: Tensor, codec: str, quality: int) -> bytes:        # (3, H, W) in [0, 1]
    """A file without metadata; JPEG with Huffman tables of its own."""
    pixels = (image.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, codec.upper(), quality=quality, **SETTINGS[codec])
    return file.getvalue()


def decode(data: bytes) -> Tensor:                                   # (3, H, W) in [0, 1]
    with Image.open(io.BytesIO(data)) as opened:
        pixels = np.array(opened.convert("RGB"))
    return torch.from_numpy(pixels).movedim(-1, 0).float() / 255


def jpeg_payload(data: bytes) -> int:
    """Entropy-coded bytes: what follows each SOS header up to the next marker.

    Tables and all other segments are header.
    """
    place, payload = 2, 0
    while data[place + 1] != 0xD9:                                   # EOI
        marker = data[place + 1]
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA:                                           # SOS
            first = place
            while not ends_jpeg_scan(data, place):
                place += 1
            payload += place - first
    return payload


def ends_jpeg_scan(data: bytes, place: int) -> bool:
    """A marker starts here that is neither a stuffed byte nor a restart."""
    after = data[place + 1]
    return data[place] == 0xFF and after != 0 and not 0xD0 <= after <= 0xD7


def webp_payload(data: bytes) -> int:
    """The VP8 chunk without the ten bytes of its frame header (tag, start code, size).

    All else is header, padding too.
    """
    place, payload = 12, 0
    while place < len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        if data[place : place + 4] == b"VP8 ":
            payload += size - 10
        place += 8 + size + size % 2
    return payload


def avif_payload(data: bytes) -> int:
    """The content of the mdat boxes; every other box is header."""
    place, payload = 0, 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big") or len(data) - place
        if data[place + 4 : place + 8] == b"mdat":
            payload += size - 8
        place += size
    return payload


PAYLOADS = {"jpeg": jpeg_payload, "webp": webp_payload, "avif": avif_payload}


def transcode(images: Tensor, codec: str, quality: int) -> tuple[Tensor, dict]:  # (n, 3, H, W)
    """The images (in [0, 1]) as the codec returns them, and means {quality, psnr, bytes, payload}.

    `psnr` is in dB, `bytes` are those of the file, `payload` are bytes without headers.
    """
    files = [encode(image, codec, quality) for image in images]
    returned = torch.stack([decode(file) for file in files])
    point = {
        "quality": quality,
        "psnr": float(psnr(returned, images).mean()),
        "bytes": float(np.mean([len(file) for file in files])),
        "payload": float(np.mean([PAYLOADS[codec](file) for file in files])),
    }
    return returned, point


def curve(images: Tensor, codec: str, qualities) -> list[dict]:
    """The points of `transcode` at several qualities."""
    return [transcode(images, codec, quality)[1] for quality in qualities]


def quality_at(images: Tensor, codec: str, size: float) -> int:      # (n, 3, H, W)
    """The quality in 0..100 whose mean payload (no headers) comes closest to `size` bytes."""
    payload = {}

    def payload_at(quality):
        if quality not in payload:
            payload[quality] = transcode(images, codec, quality)[1]["payload"]
        return payload[quality]

    low, high = 0, 100
    while high - low > 1:
        middle = (low + high) // 2
        if payload_at(middle) < size:
            low = middle
        else:
            high = middle
    payload_at(low), payload_at(high)
    return min(payload, key=lambda quality: (abs(payload[quality] - size), quality))


def bytes_at_psnr(points: list[dict], decibels: float, key: str = "bytes") -> dict:
    """Bytes (or another key) of a curve at a PSNR: log bytes are linear between its points.

    Beyond the curve `outside` is True, and the bytes are those of its end.
    """
    pairs = sorted((point["psnr"], math.log(point[key])) for point in points)
    x, y = zip(*pairs)
    size = math.exp(np.interp(decibels, x, y))
    return {"bytes": size, "outside": not x[0] <= decibels <= x[-1]}


def fixed_bytes(n_cells: int, n_codes: int) -> int:
    """Bytes of codes of fixed length: 256 cells of 512 codes take 288 bytes."""
    return math.ceil(n_cells * math.log2(n_codes) / 8)
