"""Laws of what sampler and inpainting share: growth ends as `generate` does, files can be read."""
import base64
import json

import pytest
import torch
from PIL import Image

from vqlib.explorers.drawing import filled, growth, nearest_known
from vqlib.explorers.sampler import SamplerExplorer
from vqlib.pictures import settings_of
from vqlib.pipeline import sampling_for


def last(explorer, **request):
    return [reply for reply in explorer.answer(request) if reply][-1]


def test_each_cell_takes_the_nearest_known_one():
    known = torch.zeros(16, dtype=torch.bool)
    known[[0, 15]] = True                                        # two corners of a 4 x 4 grid
    assert nearest_known(known, 4).view(4, 4)[0].tolist()[:2] == [0, 0]
    assert nearest_known(known, 4).view(4, 4)[3].tolist()[2:] == [15, 15]
    codes = torch.arange(16)[None]
    assert set(filled(codes, known).flatten().tolist()) == {0, 15}
    assert torch.equal(filled(codes, torch.ones(16, dtype=torch.bool)), codes)
    with pytest.raises(ValueError, match="no cell is known"):
        nearest_known(torch.zeros(16, dtype=torch.bool), 4)


@pytest.mark.parametrize("every", [0.0, 60.0])
def test_what_grows_is_whole_at_each_picture_and_ends_as_generate_does(gpt, every):
    labels, sampling = torch.tensor([1, 2]), sampling_for("mel")
    pictures = [grown for grown in growth(gpt, labels, sampling, 3, every=every) if grown]
    assert all((codes >= 0).all() and codes.shape == (2, 16) for _, codes in pictures)
    assert [t for t, _ in pictures] == (list(range(1, 17)) if every == 0 else [16])
    assert torch.equal(pictures[-1][1], gpt.generate(labels, **sampling, seed=3))


def test_kept_codes_are_seen_from_the_first_picture_on(gpt):
    known = torch.arange(16)[None]
    keep = torch.ones(1, 16, dtype=torch.bool)
    keep[:, gpt.generation_order[0]] = False
    for grown in growth(gpt, torch.tensor([0]), sampling_for("mel"), 0, known, keep, every=0.0):
        assert torch.equal(grown[1][keep], known[keep])


def test_a_download_holds_the_images_with_settings_and_seed_inside(pipeline, tmp_path):
    explorer = SamplerExplorer(pipeline)
    drawn = last(explorer, do="draw", label="mel", n=3, seed=9, temperature=0.9)
    found = last(explorer, do="download", codes=drawn["codes"], settings=drawn["settings"])
    assert found["name"] == "mel-seed-9.png"
    path = tmp_path / found["name"]
    path.write_bytes(base64.b64decode(found["file"].partition(",")[2]))
    assert settings_of(path) == drawn["settings"]
    assert settings_of(path)["temperature"] == 0.9
    assert Image.open(path).size == (2 + 3 * 18, 20)


def test_a_download_is_called_by_a_harmless_name(pipeline):
    codes = [[0] * 16]
    settings = {"class": "../../etc", "seed": "/", "decoder": "flow"}
    name = last(SamplerExplorer(pipeline), do="download", codes=codes, settings=settings)["name"]
    assert "/" not in name
    assert "." not in name.removesuffix(".png")


@pytest.mark.parametrize("codes", [[], [[]], [[0] * 15], [[16] * 16], [[-1] * 16], None, "x",
                                   [[0] * 16] * 17, [[10**30] * 16], [["a"] * 16]])
def test_what_are_no_codes_is_refused(pipeline, codes):
    request = {"do": "decode", "codes": codes, "decoder": "flow"}
    assert "no codes" in last(SamplerExplorer(pipeline), **request)["error"]


def test_every_reply_is_plain_json(pipeline):
    for reply in SamplerExplorer(pipeline).answer({"do": "draw", "n": 1}):
        json.dumps(reply, allow_nan=False)
