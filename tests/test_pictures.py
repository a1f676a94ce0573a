"""Laws of pictures: anybody's files come in upright and square, settings go out inside the file."""
import os

import numpy as np
import pytest
import torch
from conftest import picture
from matplotlib.colors import hsv_to_rgb
from PIL import Image, UnidentifiedImageError
from torchvision.utils import make_grid

from vqlib.data.decode import Geometry
from vqlib.data.records import DataError
from vqlib.pictures import (
    EXIF_ORIENTATION,
    code_colours,
    code_map,
    describe_crop,
    list_files,
    read_picture,
    read_pictures,
    settings_of,
    sheet,
    to_pil,
    to_png,
)

SMALL, RAW = Geometry(16, 16), Geometry(16, None)


def test_a_phone_photograph_comes_in_upright_and_says_what_was_cropped(tmp_path):
    upright = picture(0, (30, 40))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6                                   # stored lying on its side
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    upright.save(tmp_path / "b.png")
    turned, plain = (read_picture(tmp_path / name, SMALL) for name in ("a.png", "b.png"))
    assert torch.equal(turned.image, plain.image)
    assert turned.note == plain.note == "30 x 40 px, kept the centre 30 x 30, scaled to 16 x 16"


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_kind_of_pixels_becomes_a_square_of_three_channels(tmp_path, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    picture(0).convert(mode).save(tmp_path / f"a.{suffix}")
    image = read_picture(tmp_path / f"a.{suffix}", SMALL).image
    assert image.shape == (3, 16, 16)
    assert 0 <= image.min() <= image.max() <= 1


def test_what_is_transparent_is_white(tmp_path):
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png", SMALL).image == 1).all()


@pytest.mark.parametrize(("size", "geometry", "words"), [
    ((4000, 3000), Geometry(128, 128),
     "4000 x 3000 px, kept the centre 3000 x 3000, scaled to 128 x 128"),
    ((128, 128), Geometry(128, 128), "128 x 128 px"),
    ((200, 128), Geometry(128, 128), "200 x 128 px, kept the centre 128 x 128"),
    ((9, 9), SMALL, "9 x 9 px, enlarged to 16 x 16"),
    ((40, 30), RAW, "40 x 30 px, the centre, kept unscaled: 16 x 16"),
    ((40, 9), RAW, "40 x 9 px, reflected to fill 16 x 16"),
])
def test_words_say_what_is_kept(tmp_path, size, geometry, words):
    assert describe_crop(*size, geometry) == words
    if max(size) < 100:
        picture(0, size).save(tmp_path / "a.png")
        assert read_picture(tmp_path / "a.png", geometry).image.shape == (3, 16, 16)


def test_folders_are_searched_and_equal_names_told_apart(tmp_path):
    for place in ("a/x.png", "b/c/x.png", "b/y.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        picture(0).save(tmp_path / place)
    (tmp_path / "b" / "notes.txt").write_text("no picture")
    found = read_pictures([tmp_path / "a", tmp_path / "b"], SMALL)
    assert [p.name for p in found] == ["x", "y", "x-2"]


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(tmp_path):
    picture(0).save(tmp_path / "b.png")
    (tmp_path / "a.png").write_bytes(b"no picture")
    picture(0).save(tmp_path / "c.jpg")
    (tmp_path / "c.jpg").write_bytes((tmp_path / "c.jpg").read_bytes()[:200])
    broken, whole, cut = read_pictures([tmp_path], SMALL)
    assert (type(broken), whole.name, type(cut)) == (DataError, "b", DataError)
    assert "a.png" in str(broken)
    assert str(tmp_path) not in str(broken) + str(cut)


def test_a_path_that_is_missing_or_empty_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=path.name):
            list_files([path])


def test_settings_are_read_of_no_format_that_runs_a_program(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", "EPS")
    with pytest.raises(UnidentifiedImageError):
        settings_of(tmp_path / "a.png")


def test_settings_travel_inside_the_file(tmp_path):
    image = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0))
    (tmp_path / "a.png").write_bytes(to_png(image, seed=3, name="mel"))
    (tmp_path / "b.png").write_bytes(to_png(image))
    assert settings_of(tmp_path / "a.png") == {"seed": 3, "name": "mel"}
    assert settings_of(tmp_path / "b.png") == {}
    read = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(read, np.asarray(to_pil(image)))


def test_images_lie_on_a_sheet_in_reading_order():
    images = torch.arange(5).view(5, 1, 1, 1).expand(5, 3, 4, 4) / 5
    found = sheet(images, per_row=3)                             # (3, 14, 20)
    assert found.shape == (3, 2 + 2 * 6, 2 + 3 * 6)
    assert [float(found[0, 2, 2 + 6 * i]) for i in range(3)] == pytest.approx([0, 0.2, 0.4])
    assert float(found[0, 8, 8]) == pytest.approx(0.8)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_a_sheet_is_torchvisions_grid(n):
    images = torch.rand(n, 3, 5, 6, generator=torch.Generator().manual_seed(n))
    expected = make_grid(images, nrow=3, padding=2, pad_value=1)
    if n % 3 and n > 3:                                          # it leaves missing images white
        expected[:, -7:, 2 + 8 * (n % 3) :] = 1
    assert torch.equal(sheet(images, 3), expected)


def test_a_code_has_the_colour_of_its_hue_saturation_and_value():
    k = np.arange(64)
    hsv = np.stack([k * 0.618 % 1, 0.45 + 0.2 * (k % 3), 0.55 + 0.1 * (k % 5)], 1)
    assert np.allclose(code_colours(64), hsv_to_rgb(hsv))


def test_cells_of_a_code_map_have_the_colour_of_their_code():
    codes = torch.tensor([[3, 1], [0, 3]])
    found = code_map(codes, 8, 4)
    assert found.shape == (3, 8, 8)
    assert np.allclose(found[:, 5, 2], code_colours(8)[0])
    assert torch.equal(found[:, :4, :4], found[:, 4:, 4:])


def test_names_are_unique_whatever_they_are(tmp_path):
    for place in ("a.png", "x/a.png", "a-2.png", os.fsdecode(b"caf\xe9.png")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        picture(0).save(tmp_path / place)
    paths = [tmp_path / name for name in ("a.png", "x/a.png", "a-2.png",
                                          os.fsdecode(b"caf\xe9.png"))]
    found = [p.name for p in read_pictures(paths, Geometry(16, 16))]
    assert found == ["a", "a-2", "a-2-2", "caf\\xe9"]
