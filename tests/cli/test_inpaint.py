"""Laws of `inpaint`: what is kept keeps its codes, what is marked is drawn by the prior."""
import os

import numpy as np
import pytest
import torch
from conftest import arguments, fails, picture, runs
from PIL import Image

from vqlib.__main__ import main
from vqlib.checkpoint import load_model
from vqlib.data.decode import Geometry
from vqlib.pictures import read_picture, settings_of, to_pil
from vqlib.pipeline import sampling_for

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def photo(tmp_path):
    picture(0, (48, 48)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def expected_of(weights, photo, redrawn, label, n, seed):
    """Redraws (n, 3, 16, 16) of the cells (4, 4), by the library."""
    vqvae, gpt = (load_model(path)[0] for path in weights)
    x = read_picture(photo, Geometry(16, 16)).image[None]
    known = vqvae.encode(x).flatten(1).expand(n, -1)
    codes = gpt.generate(torch.full((n,), label), **sampling_for("mel"), seed=seed, known=known,
                         keep=~redrawn.flatten().expand(n, -1))
    assert torch.equal(codes[:, ~redrawn.flatten()], known[:, ~redrawn.flatten()])
    return vqvae.decode(codes.view(n, 4, 4))


def on_sheet(path, i):
    """The i-th image of a sheet of one row of 16 px squares."""
    return np.asarray(Image.open(path)).astype(int)[2:18, 2 + 18 * i : 18 + 18 * i]


@pytest.mark.parametrize("how", ["box", "mask"])
def test_the_marked_part_is_drawn_anew_and_the_rest_kept(weights, photo, tmp_path, how):
    redrawn = torch.zeros(4, 4, dtype=torch.bool)
    redrawn[:2, 2:] = True                                       # the upper right quarter
    where = ["--box", "50,0,100,50"]
    if how == "mask":
        mask = np.zeros((48, 48), np.uint8)
        mask[:24, 24:] = 255
        Image.fromarray(mask).save(tmp_path / "mask.png")
        where = ["--mask", tmp_path / "mask.png"]
    out = tmp_path / "out.png"
    runs("inpaint", photo, *where, *arguments(weights), "--class", "mel", "--n", "2", "--seed",
         "4", "--out", out)
    expected = expected_of(weights, photo, redrawn, label=1, n=2, seed=4)
    for i in range(2):
        assert abs(on_sheet(out, 2 + i) - to_pil(expected[i])).max() <= 1
    assert settings_of(out)["seed"] == 4
    marked, decoded = on_sheet(out, 1), on_sheet(out, 2)
    assert np.array_equal(marked[12:], decoded[12:]) or (marked[:8, 8:] >= 127).all()


@pytest.mark.parametrize("box", ["1,2,3", "50,0,40,50", "a,b,c,d", "0,0,101,50", "nan,0,50,50"])
def test_a_box_that_is_none_is_named(weights, capsys, box):
    assert f"--box {box}" in fails(capsys, "inpaint", *arguments(weights), "--box", box)


def test_a_mask_that_covers_nothing_or_has_another_shape_is_named(
        weights, photo, tmp_path, capsys):
    for name, size, word in (("black", (48, 48), "covers no cell"), ("wide", (96, 48), "96 x 48")):
        Image.new("L", size).save(tmp_path / f"{name}.png")
        line = fails(capsys, "inpaint", photo, *arguments(weights), "--mask",
                     tmp_path / f"{name}.png")
        assert word in line


def test_a_sheet_is_a_png(weights, capsys):
    for name in ("a.jpg", "a"):
        assert f"--out {name}" in fails(capsys, "inpaint", *arguments(weights), "--out", name)


@pytest.mark.parametrize(("seed", "limit"), [
    ("-1", "below 0"), ("99999999999999999999999", "above 9007199254740991")])
def test_a_seed_out_of_range_is_named(capsys, seed, limit):
    with pytest.raises(SystemExit):
        runs("inpaint", "--seed", seed)
    assert f"{seed} is {limit}" in capsys.readouterr().err


def test_a_pipe_keeps_nobody_waiting(weights, photo, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.png")
    pipe = tmp_path / "pipe.png"
    for given in ([pipe], [photo, "--mask", pipe], ["--mask", pipe]):
        line = fails(capsys, "inpaint", *given, *arguments(weights))
        assert "pipe.png is a pipe" in line


def test_a_picture_is_not_replaced_by_what_is_made_of_it(weights, photo, capsys):
    before = photo.read_bytes()
    line = fails(capsys, "inpaint", photo, *arguments(weights), "--out", photo)
    assert "is one of the pictures given" in line
    assert photo.read_bytes() == before


@pytest.mark.parametrize("option", ["--mask", "--out", "--vqvae", "picture"])
def test_a_name_from_a_variable_that_is_not_set_is_refused(capsys, option):
    with pytest.raises(SystemExit):
        main(["inpaint", *([""] if option == "picture" else [option, ""])])
    assert "is empty: give a name, or leave it out" in capsys.readouterr().err
