"""Laws of file sizes: payload and headers, curves of bytes against decibels."""
import pytest
import torch
import torch.nn.functional as F

from vqlib.evaluation import compression


def pictures(n=4, side=64, seed=0):
    cells = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(cells, (side, side), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("codec", compression.codecs())
def test_a_better_quality_costs_more_and_has_a_higher_psnr(codec):
    points = [compression.transcode(pictures(), codec, quality)[1] for quality in (5, 50, 90)]
    for key in ("psnr", "bytes", "payload"):
        assert points[0][key] < points[1][key] < points[2][key]


@pytest.mark.parametrize("codec", compression.codecs())
def test_headers_do_not_grow_with_the_picture(codec):
    """Header and payload sum to the file; JPEG's own Huffman tables are all that varies."""
    files = [compression.encode(pictures(1, side)[0], codec, 40) for side in (64, 256)]
    headers = [len(file) - compression.PAYLOADS[codec](file) for file in files]
    assert all(20 <= header < 500 for header in headers)
    assert abs(headers[0] - headers[1]) <= (60 if codec == "jpeg" else 4)


def test_a_jpegs_parts_sum_to_its_length():
    segment = b"\xff\xe0" + (6).to_bytes(2) + b"1234"
    scan = b"\xff\xda" + (4).to_bytes(2) + b"ab"
    data = b"abc\xff\x00de\xff\xd0fg"  # a stuffed byte and a restart marker belong to the scan
    whole = b"\xff\xd8" + segment + scan + data + segment + scan + data + b"\xff\xd9"
    assert compression.jpeg_payload(whole) == 2 * len(data)


def test_jpegs_halve_their_colours():
    data = compression.encode(pictures(1)[0], "jpeg", 50)
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == 0x22  # luma twice as fine both ways: 4:2:0


def test_a_webps_parts_sum_to_its_length():
    chunk = b"VP8 " + (15).to_bytes(4, "little") + bytes(15) + b"\0"
    other = b"EXIF" + (3).to_bytes(4, "little") + bytes(3) + b"\0"
    assert compression.webp_payload(b"RIFF" + bytes(4) + b"WEBP" + other + chunk) == 5


def test_an_avifs_parts_sum_to_its_length():
    boxes = [
        (12).to_bytes(4) + b"ftyp" + bytes(4),
        (20).to_bytes(4) + b"mdat" + bytes(12),
        bytes(4) + b"mdat" + bytes(9),                               # size 0 reaches to the end
    ]
    assert compression.avif_payload(b"".join(boxes)) == 12 + 9


def test_bytes_are_read_off_between_points_and_not_beyond_them():
    points = [{"psnr": 30.0, "bytes": 100}, {"psnr": 34.0, "bytes": 400}]
    bytes_at = compression.bytes_at_psnr
    assert bytes_at(points, 32) == {"bytes": pytest.approx(200), "outside": False}
    assert bytes_at(points, 40) == {"bytes": pytest.approx(400), "outside": True}
    assert bytes_at(points, 20)["outside"]


def test_the_quality_that_comes_closest_is_found():
    x = pictures(2)
    size = compression.transcode(x, "jpeg", 37)[1]["payload"]
    found = compression.transcode(x, "jpeg", compression.quality_at(x, "jpeg", size))[1]
    assert found["payload"] == pytest.approx(size, rel=0.03)
    assert compression.quality_at(x, "jpeg", 1e9) == 100


def test_256_cells_of_512_codes_are_288_bytes():
    assert compression.fixed_bytes(256, 512) == 288
    assert compression.fixed_bytes(3, 5) == 1                        # 6.97 bits
