"""Laws of `reconstruct`, `encode` and `decode`: any pictures go in, the same images come out."""
import csv
import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import METADATA, TINY, fails, picture, runs
from PIL import Image

from vqlib.__main__ import main
from vqlib.checkpoint import load_model, save_model
from vqlib.cli.options import not_over
from vqlib.data import folders
from vqlib.data.decode import Geometry
from vqlib.metrics import psnr
from vqlib.pictures import read_picture, to_pil
from vqlib.vqvae import VQVAE

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def mine(tmp_path):
    """A flat folder of a wide JPEG, a grey PNG and a file that is no picture."""
    (tmp_path / "mine").mkdir()
    picture(0, (64, 48)).save(tmp_path / "mine" / "wide.jpg")
    picture(1).convert("L").save(tmp_path / "mine" / "grey.png")
    (tmp_path / "mine" / "zero.png").write_bytes(b"")
    return tmp_path / "mine"


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_reconstruct_writes_what_the_library_makes_and_says_what_was_cropped(
        weights, mine, tmp_path, capsys):
    runs("reconstruct", mine, "--vqvae", weights[0], "--out", tmp_path / "out")
    captured = capsys.readouterr()
    assert "wide: 64 x 48 px, kept the centre 48 x 48, scaled to 16 x 16" in captured.out
    assert "zero.png" in captured.err
    vqvae = load_model(weights[0])[0]
    x = read_picture(mine / "wide.jpg", Geometry(16, 16)).image[None]
    x_hat = vqvae.decode(vqvae.encode(x))
    assert np.array_equal(pixels(tmp_path / "out" / "wide.original.png"), to_pil(x[0]))
    assert abs(pixels(tmp_path / "out" / "wide.least-squares.png") - to_pil(x_hat[0])).max() <= 1
    assert pixels(tmp_path / "out" / "wide.codes.png").shape == (16, 16, 3)
    table = list(csv.DictReader((tmp_path / "out" / "psnr.csv").open()))
    assert [line["picture"] for line in table] == ["grey", "wide"]
    assert float(table[1]["least-squares"]) == pytest.approx(float(psnr(x_hat, x)), abs=0.01)


def test_a_folder_of_nothing_that_can_be_read_fails(weights, mine, capsys):
    for name in ("wide.jpg", "grey.png"):
        (mine / name).unlink()
    assert main(["reconstruct", str(mine), "--vqvae", str(weights[0])]) == 1
    skipped, line = capsys.readouterr().err.splitlines()
    assert skipped.startswith("vqlib: skipped zero.png")
    assert "none of the pictures could be used" in line
    assert "no such file" in fails(capsys, "reconstruct", mine / "no", "--vqvae", weights[0])


def test_codes_come_back_as_the_images_that_reconstruct_writes(weights, mine, tmp_path):
    model = ["--vqvae", weights[0]]
    runs("encode", mine, *model, "--out", tmp_path / "codes.npz")
    runs("decode", tmp_path / "codes.npz", *model, "--out", tmp_path / "out")
    runs("reconstruct", mine, *model, "--out", tmp_path / "r")
    for name in ("wide", "grey"):
        assert np.array_equal(pixels(tmp_path / "out" / f"{name}.decoded.png"),
                              pixels(tmp_path / "r" / f"{name}.least-squares.png"))
    with np.load(tmp_path / "codes.npz") as found:
        assert found["codes"].shape == (2, 4, 4)
        assert found["names"].tolist() == ["grey", "wide"]


def test_pictures_that_were_encoded_are_not_replaced_by_their_decodings(weights, mine, tmp_path):
    before = (mine / "grey.png").read_bytes()
    runs("encode", mine / "grey.png", "--vqvae", weights[0], "--out", tmp_path / "codes.npz")
    runs("decode", tmp_path / "codes.npz", "--vqvae", weights[0], "--out", mine)
    assert (mine / "grey.png").read_bytes() == before
    assert pixels(mine / "grey.decoded.png").shape == (16, 16, 3)


def test_a_plain_array_is_decoded_too(weights, tmp_path):
    codes = np.arange(16).reshape(1, 4, 4)
    np.save(tmp_path / "mine.npy", codes)
    runs("decode", tmp_path / "mine.npy", "--vqvae", weights[0], "--out", tmp_path / "out")
    expected = load_model(weights[0])[0].decode(torch.from_numpy(codes))
    assert np.array_equal(pixels(tmp_path / "out" / "mine-1.decoded.png"), to_pil(expected[0]))


@pytest.mark.parametrize(("codes", "named"), [
    (np.full((1, 4, 4), 16), "codes 16..16"),
    (np.full((1, 4, 4), -1), "codes -1..-1"),
    (np.zeros((1, 4, 4)), "float64"),
    (np.zeros(4, int), "(4,)"),
    (np.array([object()]), "holds no codes"),
])
def test_what_are_no_codes_is_named(weights, tmp_path, capsys, codes, named):
    np.save(tmp_path / "a.npy", codes, allow_pickle=True)
    line = fails(capsys, "decode", tmp_path / "a.npy", "--vqvae", weights[0])
    assert "a.npy" in line
    assert named in line


def test_codes_of_another_codebook_are_refused(weights, mine, tmp_path, capsys):
    runs("encode", mine, "--vqvae", weights[0], "--out", tmp_path / "codes.npz")
    save_model(tmp_path / "other.safetensors", VQVAE(TINY, seed=1), **METADATA)
    capsys.readouterr()
    line = fails(capsys, "decode", tmp_path / "codes.npz", "--vqvae",
                 tmp_path / "other.safetensors")
    assert "another VQ-VAE" in line


def test_a_name_in_a_file_leads_to_no_other_folder(weights, tmp_path):
    np.savez(tmp_path / "a.npz", codes=np.zeros((1, 4, 4), int), names=np.array(["../../up"]))
    runs("decode", tmp_path / "a.npz", "--vqvae", weights[0], "--out", tmp_path / "in" / "out")
    written = [p.relative_to(tmp_path) for p in tmp_path.rglob("*up.decoded.png")]
    assert [str(p) for p in written] == ["in/out/_.._up.decoded.png"]


def test_a_flow_decoder_that_is_not_there_is_refused_before_the_work(weights, mine, capsys):
    line = fails(capsys, "reconstruct", mine, "--vqvae", weights[0], "--decoder", "flow")
    assert "no flow decoder" in line


def test_a_picture_named_like_an_output_is_not_replaced(weights, mine, capsys):
    shutil.copy(mine / "grey.png", mine / "sheet.png")
    before = (mine / "sheet.png").read_bytes()
    line = fails(capsys, "reconstruct", mine, "--out", mine, "--vqvae", weights[0])
    assert "sheet.png is one of the pictures given" in line
    assert (mine / "sheet.png").read_bytes() == before


def test_folders_are_listed_once(weights, mine, tmp_path, monkeypatch):
    walked, walk = [], folders.list_files
    monkeypatch.setattr(folders, "list_files", lambda path: walked.append(path) or walk(path))
    runs("reconstruct", mine, "--vqvae", weights[0], "--out", tmp_path / "out")
    assert walked == [mine]


def test_an_output_that_is_not_there_is_compared_with_no_picture(tmp_path):
    """Of ten thousand pictures each has three outputs: that would be 300 million comparisons."""
    class Given:
        def __fspath__(self):
            pytest.fail("compared")
    assert not_over(tmp_path / "new.png", [Given()]) == tmp_path / "new.png"


def save_codes(path, **parts):
    np.savez(path, **{"codes": np.zeros((2, 4, 4), np.uint16), **parts})


def bomb(path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<u2", "fortran_order": False, "shape": (10**8, 100, 100)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("codes.npy", header.getvalue() + bytes(10**5))


def cut(path):
    save_codes(path)
    path.write_bytes(path.read_bytes()[:300])


def flipped(path):
    save_codes(path)
    data = bytearray(path.read_bytes())
    data[250] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("make", [bomb, cut, flipped, os.mkfifo, Path.mkdir])
def test_a_file_that_holds_no_codes_is_named(weights, tmp_path, capsys, make):
    make(tmp_path / "codes.npz")
    line = fails(capsys, "decode", tmp_path / "codes.npz", "--vqvae", weights[0])
    assert "codes.npz" in line


@pytest.mark.parametrize(("names", "files"), [
    (["a", "a"], ["a", "a-2"]), (["a/b", "a_b"], ["a_b", "a_b-2"]),
    (["n" * 400, "\n\x1b"], ["n" * 60, "_n_x1b"]), ("x", ["c-1", "c-2"])])
def test_each_picture_has_a_file_of_its_own(weights, tmp_path, names, files):
    save_codes(tmp_path / "c.npz", names=np.array(names))
    runs("decode", tmp_path / "c.npz", "--vqvae", weights[0], "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        f"{name}.decoded.png" for name in files)
