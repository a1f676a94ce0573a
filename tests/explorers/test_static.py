"""Laws of the page without Python: it loads nothing, and its data is never a script."""
import json
import re
import shutil
import subprocess

import pytest

from vqlib import explorers
from vqlib.explorers.assets import PARTS, as_data, script
from vqlib.explorers.static import page


@pytest.fixture
def text(pipeline, home):
    return page([explorers.Reconstruction(pipeline), explorers.Codebook(pipeline)])


def test_it_loads_nothing(text):
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert not re.search(r"@import|url\((?!data:)|https?://|//cdn", text)


def test_its_data_is_whole(text, pipeline):
    data = re.search(r'<script type="application/json" id="pages">(.*?)</script>', text, re.S)[1]
    reconstruction, codebook = json.loads(data)
    assert [p["name"] for p in (reconstruction, codebook)] == ["reconstruction", "codebook"]
    assert len(reconstruction["opening"]["samples"]) == 6
    assert codebook["opening"]["n_codes"] == 16


def test_a_class_name_cannot_end_the_script(pipeline, home):
    pipeline.classes[0] = "</script><script>alert(1)</script>"
    text = page([explorers.Codebook(pipeline)])
    assert "<script>alert" not in text
    assert json.loads(as_data(pipeline.classes)) == pipeline.classes


def test_explorers_that_need_python_or_photographs_are_refused(pipeline, dataset):
    for explorer in (explorers.Sampler(pipeline), explorers.Data(dataset),
                     explorers.Reconstruction(pipeline, dataset),
                     explorers.Codebook(pipeline, dataset[[0]], [0], dataset.classes)):
        with pytest.raises(ValueError, match=r"needs Python|photographs"):
            page([explorer])


def test_replies_are_never_parsed_as_html():
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script())


@pytest.mark.skipif(not shutil.which("node"), reason="no node here to parse the script")
def test_the_script_is_javascript(tmp_path):
    (tmp_path / "all.mjs").write_text(script())
    done = subprocess.run(["node", "--check", tmp_path / "all.mjs"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_script_has_all_parts():
    text = script()
    assert all(f"VIEWS.{part} =" in text for part in PARTS[1:-1])
    assert text.count("export default") == 1
