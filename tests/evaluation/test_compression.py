"""Laws of file sizes, of the prior's coder, and of what both share."""
import pytest
import torch
import torch.nn.functional as F

from vqlib.evaluation import coder
from vqlib.evaluation import compression as rates
from vqlib.gpt import GPT, GPTConfig


def pictures(n=4, side=64, seed=0):
    cells = torch.rand(n, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(cells, (side, side), mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("codec", rates.codecs())
def test_a_better_quality_costs_more_and_looks_better(codec):
    points = [rates.transcode(pictures(), codec, q)[1] for q in (5, 50, 90)]
    for key in ("psnr", "bytes", "payload"):
        assert points[0][key] < points[1][key] < points[2][key]


@pytest.mark.parametrize("codec", rates.codecs())
def test_headers_do_not_grow_with_the_picture(codec):
    """Header and payload sum to the file; JPEG's own Huffman tables are all that varies."""
    files = [rates.encode(pictures(1, side)[0], codec, 40) for side in (64, 256)]
    headers = [len(f) - rates.PAYLOADS[codec](f) for f in files]
    assert all(20 <= h < 500 for h in headers)
    assert abs(headers[0] - headers[1]) <= (60 if codec == "jpeg" else 4)


def test_a_jpegs_parts_sum_to_its_length():
    segment = b"\xff\xe0" + (6).to_bytes(2) + b"1234"
    scan = b"\xff\xda" + (4).to_bytes(2) + b"ab"
    data = b"abc\xff\x00de\xff\xd0fg"                                # a stuffed byte and a restart marker belong to the scan
    whole = b"\xff\xd8" + segment + scan + data + segment + scan + data + b"\xff\xd9"
    assert rates.jpeg_payload(whole) == 2 * len(data)


def test_jpegs_halve_their_colours():
    data = rates.encode(pictures(1)[0], "jpeg", 50)
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == 0x22                                  # luma twice as fine both ways: 4:2:0


def test_a_webps_parts_sum_to_its_length():
    chunk = b"VP8 " + (15).to_bytes(4, "little") + bytes(15) + b"\0"
    other = b"EXIF" + (3).to_bytes(4, "little") + bytes(3) + b"\0"
    assert rates.webp_payload(b"RIFF" + bytes(4) + b"WEBP" + other + chunk) == 5


def test_an_avifs_parts_sum_to_its_length():
    boxes = [(12).to_bytes(4) + b"ftyp" + bytes(4), (20).to_bytes(4) + b"mdat" + bytes(12), bytes(4) + b"mdat" + bytes(9)]
    assert rates.avif_payload(b"".join(boxes)) == 12 + 9            # a box of size 0 reaches to the end


def test_bytes_are_read_off_between_points_and_not_beyond_them():
    points = [{"psnr": 30.0, "bytes": 100}, {"psnr": 34.0, "bytes": 400}]
    assert rates.bytes_at_psnr(points, 32) == {"bytes": pytest.approx(200), "outside": False}
    assert rates.bytes_at_psnr(points, 40) == {"bytes": pytest.approx(400), "outside": True}
    assert rates.bytes_at_psnr(points, 20)["outside"]


def test_the_quality_that_comes_closest_is_found():
    x = pictures(2)
    size = rates.transcode(x, "jpeg", 37)[1]["payload"]
    assert rates.transcode(x, "jpeg", rates.quality_at(x, "jpeg", size))[1]["payload"] == pytest.approx(size, rel=0.03)
    assert rates.quality_at(x, "jpeg", 1e9) == 100


def test_256_cells_of_512_codes_are_288_bytes():
    assert rates.fixed_bytes(256, 512) == 288
    assert rates.fixed_bytes(3, 5) == 1                              # 6.97 bits


def test_steps_are_the_priors_own_predictions(gpt, codes):
    c, labels = codes
    loop, seen = gpt.steps(labels), []
    seen.append(next(loop))
    seen += [loop.send(c[:, t]) for t in range(15)]
    with torch.no_grad():
        assert torch.allclose(torch.stack(seen, 1), gpt(c[:, :-1], labels), atol=1e-4)


@pytest.fixture
def blobs(gpt, codes):
    pytest.importorskip("constriction")
    return coder.compress(gpt, *codes)


def test_codes_come_back_exactly(gpt, codes, blobs):
    assert torch.equal(coder.decompress(gpt, blobs, codes[1]), codes[0])


def test_groups_of_any_size_come_back(gpt):
    pytest.importorskip("constriction")
    labels = torch.arange(19) % 8
    c = gpt.generate(labels, seed=1)
    assert torch.equal(coder.decompress(gpt, coder.compress(gpt, c, labels), labels), c)


def test_a_wrong_label_decodes_to_other_codes(gpt, codes, blobs):
    assert not torch.equal(coder.decompress(gpt, blobs, (codes[1] + 1) % 7), codes[0])


def test_a_file_is_as_long_as_its_nll():
    pytest.importorskip("constriction")
    prior = GPT(GPTConfig(grid=16, n_codes=64, width=16, heads=2, layers=1)).eval()
    labels = torch.zeros(4, dtype=torch.long)
    c = prior.generate(labels)
    with torch.no_grad():
        nats = prior.nats(c, labels)
    coded = rates.coded_bytes(prior, c, labels, nats)
    assert coded["nll_bytes"] == pytest.approx(256 * 6 / 8, rel=0.02)
    assert 0 <= coded["overhead_bits"] <= 8 + 0.001 * 256 * 6


def test_no_shorter_file_decodes_to_the_same_codes():
    queue = pytest.importorskip("constriction").stream.queue
    drawn, codes, saved = torch.Generator().manual_seed(0), [3, 1, 4], 0
    for _ in range(10):
        models, encoder = coder.models(torch.randn(3, 16, generator=drawn)), queue.RangeEncoder()
        for code, model in zip(codes, models):
            encoder.encode(code, model)
        plain = coder.pack(encoder.get_compressed())
        blob = coder.shortest(plain, models)
        assert coder.decoded(blob, models) == codes
        n = len(blob) - 1                                            # 1 or 2 bytes
        assert not any(coder.decoded(i.to_bytes(n, "big"), models) == codes for i in range(256**n))
        saved += len(plain) - len(blob)
    assert saved >= 10                                               # a byte an image


def test_an_impossible_code_can_be_written():
    pytest.importorskip("constriction")
    logits = torch.tensor([[1000.0, -1000.0, 0.0]])
    queue = pytest.importorskip("constriction").stream.queue
    encoder = queue.RangeEncoder()
    encoder.encode(1, coder.models(logits)[0])
    blob = coder.pack(encoder.get_compressed())
    assert queue.RangeDecoder(coder.unpack(blob)).decode(coder.models(logits)[0]) == 1
