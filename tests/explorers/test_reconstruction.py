"""Laws of the reconstruction explorer: codes as the models have them, and swaps decoded."""
import base64
import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from vqlib.explorers.reconstruction import (
    ReconstructionExplorer,
    alternatives,
    painted,
    side_by_side,
    uploaded,
)
from vqlib.pictures import to_pil, to_png
from vqlib.plots import code_patches


def last(explorer, **request):
    return [reply for reply in explorer.answer(request) if reply][-1]


def pixels(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))).astype(int)


def url_of(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def test_an_image_of_the_split_is_shown_with_its_codes_and_both_decodings(pipeline, dataset):
    found = last(ReconstructionExplorer(pipeline, dataset, "test"), do="choose", picture=3)
    row = dataset.splits["test"][3]
    codes = pipeline.encode(dataset[[row]])
    assert found["name"].startswith(dataset.names[row])
    assert found["codes"] == codes.flatten().tolist()
    assert list(found["decoded"]) == ["least-squares", "flow"]
    for name, url in found["decoded"].items():
        assert np.array_equal(pixels(url), to_pil(pipeline.decode(codes, name)[0]))
    assert np.array_equal(pixels(found["original"]), to_pil(dataset[[row]][0]))


def test_without_photographs_painted_lesions_are_shown(pipeline):
    explorer = ReconstructionExplorer(pipeline)
    assert len(explorer) == len(painted(6, 16)) == 6
    assert "painted by a program" in explorer.opened()["kept"]


def test_a_swapped_code_changes_the_picture_at_its_cell(pipeline, dataset):
    explorer = ReconstructionExplorer(pipeline, dataset)
    before = explorer.opened()
    codes = list(before["codes"])
    codes[0] = (codes[0] + 5) % 16
    after = last(explorer, do="swap", codes=codes, rows=4)
    change = abs(pixels(after["decoded"]["least-squares"])
                 - pixels(before["decoded"]["least-squares"])).sum(-1)
    assert change[:4, :4].max() > 0
    expected = pipeline.decode(torch.tensor(codes).view(1, 4, 4), "least-squares")
    assert np.array_equal(pixels(after["decoded"]["least-squares"]), to_pil(expected[0]))


@pytest.mark.parametrize(("codes", "rows"), [
    ([], 4), ([1.5] * 16, 4), ([16] * 16, 4), ([-1] * 16, 4), ([0] * 16, 3), ([0] * 16, 0),
    ("codes", 4), ([0] * 100_000, 4)])
def test_what_are_no_codes_is_refused(pipeline, codes, rows):
    assert "error" in last(ReconstructionExplorer(pipeline), do="swap", codes=codes, rows=rows)


def test_ones_own_picture_can_be_sent(pipeline):
    buffer = io.BytesIO()
    picture(0, (60, 30)).save(buffer, "PNG")
    found = last(ReconstructionExplorer(pipeline), do="upload", picture=url_of(buffer.getvalue()),
                 name="mine.png")
    assert (found["name"], found["picture"]) == ("mine", -1)
    assert found["kept"] == "60 x 30 px, kept the centre 30 x 30, scaled to 16 x 16"


@pytest.mark.parametrize("sent", ["", "hello", "data:text/html,x", "data:image/png;base64,!",
                                  url_of(b"no picture")])
def test_what_is_no_picture_is_told_by_its_name(pipeline, sent):
    with pytest.raises(ValueError, match=r"mine\.txt"):
        uploaded(sent, "mine.txt", pipeline.geometry)


def test_a_sent_png_keeps_its_pixels(pipeline):
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    found = uploaded(url_of(to_png(image)), "a.png", pipeline.geometry)
    assert (found.image - image).abs().max() <= 0.5 / 255 + 1e-6


def test_alternatives_begin_with_the_nearest_codes_and_end_with_the_farthest(pipeline):
    codebook = pipeline.vqvae.quantizer.codebook
    found = alternatives(codebook, 6)
    distance = torch.cdist(codebook, codebook)
    for k, others in enumerate(found):
        order = distance[k].argsort()
        assert others[0] == order[1]
        assert others[-1] == order[-1]
        assert k not in others
        assert len(set(others.tolist())) == 6


def test_the_picture_of_patches_holds_the_patch_of_each_code_at_its_place(pipeline):
    patches = code_patches(pipeline.vqvae)
    found = side_by_side(patches)
    assert found.shape == (3, 4, 32 * 4)
    for k in (0, 7, 15):
        assert torch.equal(found[:, :, 4 * k : 4 * k + 4], patches[k])


def test_without_a_flow_decoder_there_is_one_decoding(pipeline):
    explorer = ReconstructionExplorer(replace(pipeline, flow_decoder=None))
    opened = explorer.opened()
    assert list(opened["decoded"]) == opened["decoders"] == ["least-squares"]
    assert "least-squares decoder" in explorer.still(opened)[1]
