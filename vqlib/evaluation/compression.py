"""Bytes against decibels: image formats, with and without their headers, and codes with and without the prior.

Letters: n images.
"""
import io
import math

import numpy as np
import torch
from PIL import Image
from PIL import features as pillow
from torch import Tensor

from vqlib.evaluation.coder import compress
from vqlib.metrics import psnr

SETTINGS = {"jpeg": dict(optimize=True, subsampling="4:2:0"), "webp": dict(method=6), "avif": dict(speed=6, subsampling="4:2:0")}


def codecs() -> list[str]:
    """What this Pillow can write."""
    return ["jpeg", *[c for c in ("webp", "avif") if pillow.check(c)]]


def encode(image: Tensor, codec: str, quality: int) -> bytes:        # (3, H, W) in [0, 1]
    """A file without metadata; JPEG with Huffman tables of its own."""
    pixels, out = (image.clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy(), io.BytesIO()
    Image.fromarray(pixels).save(out, codec.upper(), quality=quality, **SETTINGS[codec])
    return out.getvalue()


def decode(data: bytes) -> Tensor:                                   # (3, H, W) in [0, 1]
    with Image.open(io.BytesIO(data)) as opened:
        return torch.from_numpy(np.array(opened.convert("RGB"))).movedim(-1, 0).float() / 255


def jpeg_payload(data: bytes) -> int:
    """Entropy-coded bytes: what follows each SOS header up to the next marker; tables and all other segments are header."""
    place, payload = 2, 0
    while data[place + 1] != 0xD9:                                   # EOI
        marker, place = data[place + 1], place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA:                                           # SOS
            first = place
            while data[place] != 0xFF or data[place + 1] == 0 or 0xD0 <= data[place + 1] <= 0xD7:  # stuffing and restarts
                place += 1
            payload += place - first
    return payload


def webp_payload(data: bytes) -> int:
    """The VP8 chunk without the ten bytes of its frame header (tag, start code, size); all else is header, padding too."""
    place, payload = 12, 0
    while place < len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        payload += (size - 10) * (data[place : place + 4] == b"VP8 ")
        place += 8 + size + size % 2
    return payload


def avif_payload(data: bytes) -> int:
    """What the mdat boxes hold; every other box is header."""
    place, payload = 0, 0
    while place < len(data):
        size = int.from_bytes(data[place : place + 4], "big") or len(data) - place
        payload += (size - 8) * (data[place + 4 : place + 8] == b"mdat")
        place += size
    return payload


PAYLOADS = {"jpeg": jpeg_payload, "webp": webp_payload, "avif": avif_payload}


def transcode(images: Tensor, codec: str, quality: int) -> tuple[Tensor, dict]:  # (n, 3, H, W) in [0, 1]
    """The images as the codec returns them, and {quality, psnr, bytes, payload}: means, with and without headers."""
    files = [encode(x, codec, quality) for x in images]
    back = torch.stack([decode(f) for f in files])
    return back, {"quality": quality, "psnr": float(psnr(back, images).mean()), "bytes": float(np.mean([len(f) for f in files])),
                  "payload": float(np.mean([PAYLOADS[codec](f) for f in files]))}


def curve(images: Tensor, codec: str, qualities) -> list[dict]:
    return [transcode(images, codec, q)[1] for q in qualities]


def quality_at(images: Tensor, codec: str, size: float) -> int:      # (n, 3, H, W)
    """The quality in 0..100 whose mean payload comes closest to `size` bytes: headers are forgiven."""
    low, high = 0, 100
    payload = {}
    while high - low > 1:
        middle = (low + high) // 2
        payload[middle] = transcode(images, codec, middle)[1]["payload"]
        low, high = (middle, high) if payload[middle] < size else (low, middle)
    payload |= {q: transcode(images, codec, q)[1]["payload"] for q in (low, high) if q not in payload}
    return min(payload, key=lambda q: (abs(payload[q] - size), q))


def bytes_at_psnr(points: list[dict], decibels: float, key: str = "bytes") -> dict:
    """Bytes of a curve at a PSNR, log bytes linear in between; `outside` is True, and bytes those of the end, beyond it."""
    x, y = zip(*sorted((p["psnr"], math.log(p[key])) for p in points))
    return {"bytes": math.exp(np.interp(decibels, x, y)), "outside": not x[0] <= decibels <= x[-1]}


def fixed_bytes(n_cells: int, n_codes: int) -> int:
    """Plain codes: 256 cells of 512 codes are 288 bytes."""
    return math.ceil(n_cells * math.log2(n_codes) / 8)


def coded_bytes(prior, codes: Tensor, labels: Tensor, nats: Tensor) -> dict:  # (n, T), (n,), (n, T)
    """Mean bytes that the prior's coder writes, its NLL in bytes, and what the coder adds in bits per image."""
    written = np.mean([len(blob) for blob in compress(prior, codes, labels)])
    ideal = float(nats.double().sum(1).mean()) / math.log(2) / 8
    return {"images": len(codes), "bytes": float(written), "nll_bytes": ideal, "overhead_bits": 8 * (float(written) - ideal)}
