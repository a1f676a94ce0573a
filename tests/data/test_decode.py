"""Laws of decoding: every file becomes the pixels that a viewer shows, or is skipped by name."""
import io
import struct

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image
from small_data import class_folder, pixels

from vqlib.data.dataset import Dataset
from vqlib.data.decode import Geometry
from vqlib.data.sources import DataError, open_source

RED = (200, 30, 40)
WHITE = (255, 255, 255)
GEOMETRY = Geometry(32, 32)
geometries = pytest.mark.parametrize(
    "geometry", [Geometry(32, None), Geometry(32, 32)], ids=["raw", "resized"]
)


def half_transparent():
    image = Image.new("RGBA", (40, 40), (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, 40, 20))                      # the upper half
    return image


def outline():
    image = plain("L", 0)
    image.paste(255, (10, 10, 30, 30))
    return image


def plain(mode, colour):
    return Image.new(mode, (40, 40), colour)


FORMATS = {  # name: suffix, image, options of save, colour of the upper and of the lower half
    "grey": (".png", plain("L", 77), {}, (77, 77, 77), (77, 77, 77)),
    "cmyk": (
        ".jpg", plain("CMYK", (255, 0, 0, 0)), {"quality": 100}, (0, 255, 255), (0, 255, 255)
    ),
    "alpha": (".png", half_transparent(), {}, WHITE, RED),
    "palette": (".png", plain("RGB", RED).quantize(4), {}, RED, RED),
}


@pytest.mark.parametrize("name", FORMATS)
@geometries
def test_every_colour_mode_becomes_the_rgb_that_a_viewer_shows(tmp_path, name, geometry):
    suffix, image, options, above, below = FORMATS[name]
    x = pixels(class_folder(tmp_path, **{name: (suffix, image, options)}), name, geometry)
    upper, lower = x[:, 4, 16], x[:, -4, 16]
    assert (upper - torch.tensor(above)).abs().max() <= 2, f"upper half is {upper.tolist()}"
    assert (lower - torch.tensor(below)).abs().max() <= 2, f"lower half is {lower.tolist()}"


def test_a_photograph_that_is_marked_as_rotated_is_turned_upright(tmp_path):
    image = Image.new("RGB", (48, 40))
    image.paste(RED, (0, 0, 24, 40))                               # red on the left as stored
    exif = Image.Exif()
    exif[0x0112] = 6                                               # turn clockwise: left is up
    options = {"exif": exif, "quality": 100}
    folder = class_folder(tmp_path, turned=(".jpg", image, options))
    x = pixels(folder, "turned", Geometry(32, 32))
    assert (x[0, :10] > 150).all()
    assert (x[0, -10:] < 50).all()


def stored(suffix):
    out = io.BytesIO()
    picture(5).save(out, suffix)
    return out.getvalue()


def photograph(entry):
    """A JPEG marked as turned, with an EXIF entry that Pillow reads and cannot write again."""
    turned = struct.pack("<HHII", 0x0112, 3, 1, 6)
    tiff = b"II*\0" + struct.pack("<IH", 8, 2) + turned + entry + struct.pack("<III", 0, 2, 1)
    exif = b"Exif\0\0" + tiff
    data = stored("jpeg")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def misplaced_chunk():
    """A PNG in which what follows byte 100 of the pixels is taken for the head of a chunk."""
    data = stored("png")
    at = data.index(b"IDAT")
    return data[: at - 4] + (100).to_bytes(4, "big") + data[at:]


UNUSABLE = {
    "sixteen_bits": (".png", Image.fromarray(np.full((40, 40), 30000, np.uint16)), {}),
    "cut": (".jpg", stored("jpeg")[:700], {}),
    "zero": (".jpg", b"", {}),
    "text": (".jpg", b"this is not a photograph", {}),
    "tiny": (".png", Image.new("RGB", (20, 60)), {}),
    "cut_png": (".png", stored("png")[:700], {}),
    "chunk": (".png", misplaced_chunk(), {}),
    "pages": (".tif", picture(6), {"save_all": True, "append_images": [picture(7)]}),
    "one_bit": (".png", plain("1", 1), {}),
    "black_and_white": (".png", outline(), {}),
    "postscript": (".jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n", {}),
    "software": (".jpg", photograph(struct.pack("<HHIf", 0x0131, 11, 1, 1.0)), {}),
    "unit": (".jpg", photograph(struct.pack("<HHII", 0x0128, 5, 1, 38)), {}),
}


@geometries
def test_an_unusable_file_is_listed_by_name_and_the_rest_is_used(tmp_path, geometry):
    source = open_source(class_folder(tmp_path, **UNUSABLE))
    dataset = Dataset(source, geometry, cache=tmp_path / "cache")
    assert dataset.names == ["nv/good.png"]
    reasons = dict(dataset.skipped)
    assert set(reasons) == {f"nv/{name}{suffix}" for name, (suffix, *_) in UNUSABLE.items()}
    assert all(reasons.values())
    assert "20 x 60" in reasons["nv/tiny.png"]
    assert "16" in reasons["nv/sixteen_bits.png"]
    assert "2 pages" in reasons["nv/pages.tif"]
    assert not any(str(tmp_path) in reason for reason in reasons.values())


def labelled(mode="L", levels=(0, 1, 2)):
    """A label image: background, a lesion, and a structure in it."""
    image = plain(mode, levels[0])
    image.paste(levels[1], (8, 8, 32, 32))
    image.paste(levels[2], (12, 12, 20, 20))
    if mode == "P":
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    return image


def soft():
    """A mask that was scaled: its edge has all greys."""
    return outline().resize((120, 120), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("suffix", "mask"), [
    pytest.param(".jpg", outline(), id="JPEG"),
    pytest.param(".jpg", outline().convert("RGB"), id="JPEG in colour"),
    pytest.param(".png", soft(), id="soft edges"),
    pytest.param(".png", labelled(), id="labels"),
    pytest.param(".png", labelled("P"), id="palette"),
    pytest.param(".tif", labelled(levels=(0, 127, 255)), id="grey levels"),
])
def test_segmentations_are_known_by_their_pixels(tmp_path, suffix, mask):
    source = open_source(class_folder(tmp_path, drawn=(suffix, mask, {})))
    dataset = Dataset(source, GEOMETRY, cache=tmp_path / "cache")
    [(name, reason)] = dataset.skipped
    assert name == f"nv/drawn{suffix}"
    assert "a mask" in reason


def test_photographs_in_grey_or_with_black_corners_are_no_masks(tmp_path):
    framed = picture(3, (120, 120))
    framed.paste(0, (0, 0, 120, 40))
    framed.paste((255, 255, 255), (0, 80, 120, 120))
    source = open_source(class_folder(tmp_path, grey=(".jpg", picture(2).convert("L"), {}),
                                      framed=(".png", framed, {}),
                                      few=(".png", picture(4).quantize(6), {})))
    assert Dataset(source, GEOMETRY, cache=tmp_path / "cache").skipped == []


def test_a_raw_crop_is_the_very_pixels_of_the_centre(tmp_path):
    (tmp_path / "nv").mkdir()
    x = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(x).save(tmp_path / "nv" / "a.png")
    dataset = Dataset(open_source(tmp_path), Geometry(32, None), cache=tmp_path / "cache")
    cropped = dataset[[0]][0].mul(255).round().numpy()             # (3, 32, 32)
    assert (cropped == x[9:41, 14:46].transpose(2, 0, 1)).all()


def test_a_resized_crop_shows_the_whole_shorter_side(tmp_path):
    (tmp_path / "nv").mkdir()
    rows = np.arange(200, dtype=np.uint8)[:, None, None]           # brightness = row
    ramp = np.ascontiguousarray(np.broadcast_to(rows, (200, 300, 3)))
    Image.fromarray(ramp).save(tmp_path / "nv" / "a.png")
    dataset = Dataset(open_source(tmp_path), Geometry(20, 20), cache=tmp_path / "cache")
    brightness = dataset[[0]][0, 0].mul(255).mean(1)               # (20,)
    assert (brightness - (torch.arange(20) * 10 + 4.5)).abs().max() < 1.5


def test_large_photographs_are_not_decoded_so_small_that_detail_is_lost(tmp_path):
    (tmp_path / "nv").mkdir()
    large = picture(1, (1200, 900))
    large.save(tmp_path / "nv" / "a.jpg", quality=98)
    dataset = Dataset(open_source(tmp_path), Geometry(64, 64), cache=tmp_path / "cache")
    x = dataset[[0]][0].mul(255).movedim(0, -1).numpy()            # (64, 64, 3)
    whole = np.asarray(large.resize((85, 64), Image.Resampling.LANCZOS), np.float32)
    assert np.abs(x - whole[:, 10:74]).mean() < 2


def test_arrays_are_enlarged_for_a_geometry_that_resizes_and_say_so(npz, tmp_path):
    dataset = Dataset(open_source(npz), Geometry(32, 32), cache=tmp_path)
    assert dataset[[0]].shape == (1, 3, 32, 32)
    assert any("28 px are enlarged to 32" in note for note in dataset.notes)
    smaller = Dataset(open_source(npz), Geometry(16, 16), cache=tmp_path)
    assert not any("enlarged" in note for note in smaller.notes)


def test_arrays_smaller_than_a_raw_crop_are_refused(npz, tmp_path):
    with pytest.raises(DataError, match="28 x 28 px is smaller than the crop of 32"):
        Dataset(open_source(npz), Geometry(32, None), cache=tmp_path)


def test_a_picture_of_too_many_pixels_is_left_out_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("vqlib.data.decode.MOST_PIXELS", 100 * 100)
    folder = tmp_path / "set" / "nv"
    folder.mkdir(parents=True)
    for i, (side, suffix) in enumerate([(100, "png"), (101, "png"), (200, "jpg"), (900, "jpg")]):
        picture(i).resize((side, side)).save(folder / f"{side}.{suffix}")
    dataset = Dataset(open_source(tmp_path / "set"), GEOMETRY, cache=tmp_path / "cache")
    assert dataset.names == ["nv/100.png", "nv/200.jpg"]           # JPEGs are shrunk while decoded
    assert dict(dataset.skipped) == {
        "nv/101.png": "ValueError: 101 x 101 px are more than 10,000: save it smaller",
        "nv/900.jpg": "ValueError: 113 x 113 px are more than 10,000: save it smaller"}
