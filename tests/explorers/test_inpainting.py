"""Laws of the inpainting explorer: only the marked cells change."""
import base64
import io

import pytest
import torch
from conftest import picture

from vqlib.explorers.inpainting import InpaintingExplorer, middle


def last(explorer, **request):
    return [reply for reply in explorer.answer(request) if reply][-1]


def test_the_middle_is_half_as_wide_as_the_grid():
    assert middle(4).view(4, 4).tolist() == [[False] * 4, [False, True, True, False],
                                             [False, True, True, False], [False] * 4]


def test_redraws_differ_from_the_base_in_the_marked_cells_only(pipeline):
    explorer = InpaintingExplorer(pipeline)
    base = torch.arange(16)
    mask = middle(4)
    found = last(explorer, do="redraw", codes=base.tolist(), mask=mask.int().tolist(),
                 label="mel", n=3, seed=1)
    codes = torch.tensor(found["codes"])
    assert (codes[:, ~mask] == base[~mask]).all()
    known = base.expand(3, -1)
    expected = pipeline.gpt.generate(
        torch.full((3,), pipeline.label("mel")), first_top_p=0.95, guidance=2.0, seed=1,
        known=known, keep=~mask.expand(3, -1))
    assert torch.equal(codes, expected)


@pytest.mark.parametrize("mask", [[], [0] * 16, [1] * 15])
def test_nothing_painted_is_told(pipeline, mask):
    line = last(InpaintingExplorer(pipeline), do="redraw", codes=[0] * 16, mask=mask)["error"]
    assert "paint over" in line


def test_it_opens_with_a_base_a_mask_and_redraws(pipeline):
    explorer = InpaintingExplorer(pipeline)
    found = explorer.opened()
    assert len(found["images"]) == 3
    assert sum(found["mask"]) == 4
    assert len(found["base_codes"]) == 16
    data, words = explorer.still(found)
    assert data[:2] == b"\xff\xd8"
    assert "3 redraws" in words


def test_a_new_lesion_becomes_the_base(pipeline):
    found = last(InpaintingExplorer(pipeline), do="new", label="nv", seed=3)
    expected = pipeline.gpt.generate(torch.tensor([pipeline.label("nv")]), first_top_p=0.95,
                                     guidance=2.0, seed=3)
    assert found["base_codes"] == expected[0].tolist()
    assert found["base_note"] == "a sample of class nv, seed 3"


def test_ones_own_picture_becomes_the_base(pipeline):
    buffer = io.BytesIO()
    picture(0, (40, 40)).save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    found = last(InpaintingExplorer(pipeline), do="upload", picture=url, name="mine.png")
    assert len(found["base_codes"]) == 16
    assert found["base_note"] == "mine: 40 x 40 px, scaled to 16 x 16"
