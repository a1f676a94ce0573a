"""Laws of the five explorers together: nothing is opened before it is looked at."""
import pytest

from vqlib.data.records import DataError
from vqlib.explorers.all_five import all_five

pytestmark = pytest.mark.usefixtures("home")


def opened(explorer):
    return [reply for reply in explorer.answer({"do": "open"}) if reply][-1]


def test_five_are_there_and_none_is_made_before_it_is_shown(pipeline):
    found = all_five(pipeline, "synthetic")
    assert [e.name for e in found] == ["sampler", "inpainting", "reconstruction", "codebook",
                                       "data"]
    assert all(e.made is None for e in found)


def test_photographs_are_used_where_they_are(pipeline, ham):
    found = {e.name: e for e in all_five(pipeline, ham[0])}
    assert opened(found["data"])["title"] == "HAM10000 (CC BY-NC 4.0)"
    assert opened(found["reconstruction"])["name"].startswith("ISIC_")
    assert opened(found["sampler"])["photographs"]
    assert "validation images" in opened(found["codebook"])["note"]
    assert found["sampler"].made.dataset is found["data"].made.dataset


def test_without_photographs_one_line_says_so(pipeline, monkeypatch):
    monkeypatch.setattr("vqlib.explorers.all_five.SYNTHETIC", 30)
    found = {e.name: e for e in all_five(pipeline)}
    for name in ("data", "reconstruction"):
        assert "data/ham10000" in opened(found[name])["note"]
    assert not opened(found["sampler"])["photographs"]


def test_a_path_without_pictures_is_named_at_once(pipeline, tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        all_five(pipeline, tmp_path / "nowhere")
