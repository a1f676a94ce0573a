"""Laws of the table: every figure is the one in the file, and what was skipped is no row."""
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vqlib.evaluation import tables as report

KID = {"kid_x1000": 90.4, "kid_x1000_95": [80.0, 101.2], "psnr": 34.1, "bytes": 288}
SHAPE = {"distance": {"area": 0.02}, "distance_spread": {"area": [0.015, 0.025]},
         "floor": {"area": 0.01}, "spread": {"area": [0.005, 0.02]}, "ratio": {"area": 2.0}}
COPY = {"share": 0.004, "floor": 0.01}
JUDGED = {
    "data": "lesions", "split": "validation", "images": 9, "seed": 0, "sampling": {"temperature": 0.9},
    "floors": {"train": {**KID, "kid_x1000": 1.0}}, "reconstructions": {"sharp": KID, "webp": {**KID, "payload": 280.0}},
    "samples": {"distances": {"sharp": KID}, "structure": SHAPE, "memorised": {"pixels": COPY, "features": COPY},
                "whole": {"samples": [0.75, 0.5], "held_out": 0.8}},
    "probe": {"classes": ["mel", "nv"], "looks": {"sharp": {
        "class_control": {"ratio": 0.7, "recall": [0.5, 0.9]}, "reconstructions": 0.8,
        "cas": {"ratio_generated": 0.93, "ratio_reconstructions": 0.95, "auc": {"real": 0.9, "generated": 0.84, "both": 0.91}}}}},
    "rates": {"codes": {"thrifty codes": {
        "psnr": 34.1, "coded": {"bytes": 100.0}, "prior": {"bits_per_code": 5.9, "bits_per_image": 1510.0},
        "codecs_at_psnr": {"jpeg": {"payload": {"bytes": 400.0}}, "webp": {"payload": {"bytes": 250.0}},
                           "avif": {"payload": {"bytes": 200.0}}}}}}}
SWEPT = {"split": "validation", "images": 9, "seed": 0, "rows": [
    {"setting": {}, **KID, "structure": {"ratio": {"area": 2.0, "offset": 4.0}}},
    {"setting": {"top_k": 50}, **KID, "kid_x1000": 80.0, "structure": {"ratio": {"area": 1.0, "offset": 1.0}}}]}


def test_each_figure_stands_beside_its_measure():
    table = {measure: (figure, beside) for measure, figure, beside in report.rows(JUDGED)}
    assert table["KID-Lite0 x 1000, samples, sharp"] == ("90 (80 to 101)", "real training images 1 (80 to 101)")
    assert table["KID-Lite0 x 1000, reconstructions, webp"] == ("90 (80 to 101)", "34.1 dB, 280 bytes without headers")
    assert table["structure, area"] == (
        "2.0 x", "0.0200 (0.0150 to 0.0250) against 0.0100 (0.0050 to 0.0200) of as many real ones")
    assert table["a whole lesion on skin"] == ("75.0%, 50.0%", "held-out images 80.0%")
    assert table["requested class recognised / recall on real, sharp"] == ("0.70", "reconstructions 0.80; mel 0.50, nv 0.90")
    assert table["classification accuracy score, AUC ratio, sharp"] == (
        "0.930", "reconstructions 0.950; AUC of real ones 0.900, generated 0.840, both 0.910")
    assert table["memorised, pixels"] == ("0.4%", "held-out images 1.0%")
    beside = "ours 100, jpeg 400, webp 250, avif 200"                 # AVIF is shown, not asked for
    assert table["bytes at 34.1 dB, thrifty codes / webp"] == ("0.40", beside)
    assert table["NLL, bits per code, thrifty codes"] == ("5.90", "1510 bits/image")


@pytest.mark.parametrize(("part", "measure"), [("probe", "requested"), ("rates", "bytes"), ("samples", "structure")])
def test_what_was_skipped_is_no_row(part, measure):
    left = report.rows(JUDGED | {part: {"skipped": "no prior"}})
    assert len(left) < len(report.rows(JUDGED))
    assert not any(row[0].startswith(measure) for row in left)


def test_a_sweep_marks_the_least_distance_and_measures_structure_in_floors():
    lines = report.sweep(SWEPT).splitlines()
    assert lines[0] == "validation, 9 images, seed 0"
    assert lines[4:] == ["| as trained | 90 (80 to 101) | 3.0 | 4.0, offset |",
                         "| **top_k 50** | 80 (80 to 101) | 1.0 | 1.0, area |"]


def test_only_a_workspace_whose_prior_ships_has_published_figures(tmp_path, monkeypatch):
    monkeypatch.setenv("VQLIB_HOME", str(tmp_path))
    shipped, log = tmp_path / "data" / "pretrained", tmp_path / "run" / "gpt" / "log.jsonl"
    for folder in (shipped, log.parent):
        folder.mkdir(parents=True)
    (shipped / "flagship-test.json").write_text('{"judged": 1}')
    (shipped / "gpt-f8.jsonl").write_text('{"step": 2}')
    workspace = SimpleNamespace(preset=SimpleNamespace(name="flagship"), folder=tmp_path / "run")
    assert report.published(workspace, "test") is None                # no prior yet
    log.write_text('{"step": 1}')
    assert report.published(workspace, "test") is None                # another prior
    log.write_text('{"step": 2}')
    assert report.published(workspace, "test") == {"judged": 1}
    assert report.published(workspace, "validation") is None


def test_the_command_prints_a_markdown_table(tmp_path):
    (tmp_path / "judged.json").write_text(json.dumps({"judged": JUDGED}))
    out = subprocess.run([sys.executable, "-m", "vqlib.evaluation.tables", tmp_path / "judged.json"], capture_output=True, text=True)
    lines = out.stdout.splitlines()
    assert lines[0] == "lesions, validation, 9 images, seed 0; temperature 0.9"
    assert len({line.count("|") for line in lines[2:]}) == 1
    assert len(lines) == 4 + len(report.rows(JUDGED))


def test_the_command_prints_a_sweep_too(tmp_path):
    (tmp_path / "swept.json").write_text(json.dumps({"sweep": SWEPT}))
    out = subprocess.run([sys.executable, "-m", "vqlib.evaluation.tables", tmp_path / "swept.json"], capture_output=True, text=True)
    assert out.stdout.startswith("validation, 9 images")
