"""Laws of the tables: each number is the one in the file, and what was skipped is no row."""
import json
import subprocess
import sys

import pytest

from vqlib.evaluation import tables

DISTANCES = {"kid_x1000": 90.4, "kid_x1000_95": [80.0, 101.2], "fd": 33.3, "fd_95": [30.1, 36.0]}
DECODED = {**DISTANCES, "psnr": 34.1, "bytes": 288}
LAYOUT = {
    "distance": {"area": 0.02},
    "distance_spread": {"area": [0.015, 0.025]},
    "reference": {"area": 0.01},
    "reference_spread": {"area": [0.005, 0.02]},
    "ratio": {"area": 2.0},
}
SHARE = {"share": 0.004, "ratio": 0.4, "ratio_95": [0.2, 1.1]}
SCORES = {
    "class_conditional_recall": {
        "recall": [0.5, 0.9],
        "ratio": 0.7,
        "ratio_reconstructions": 0.8,
    },
    "cas": {
        "auc": {"real": 0.9, "generated": 0.84, "both": 0.91},
        "ratio_generated": 0.93,
        "ratio_generated_standardised": 0.94,
        "ratio_reconstructions": 0.95,
        "ratio_reconstructions_standardised": 0.96,
    },
}
POINT = {
    "psnr": 34.1,
    "codecs_at_psnr": {
        "jpeg": {"bytes": 400.0, "outside": False},
        "webp": {"bytes": 250.0, "outside": False},
        "avif": {"bytes": 200.0, "outside": True},
    },
    "prior": {"bits_per_code": 5.9, "bits_per_image": 1510.0},
    "coded": {"bytes": 100.0},
}
GENERATION = {
    "data": "lesions",
    "split": "validation",
    "images": 9,
    "seed": 0,
    "sampling": {"temperature": 0.9},
    "references": {"train": {**DISTANCES, "kid_x1000": 1.0}},
    "reconstructions": {"flow": DECODED, "webp": {**DECODED, "payload": 280.0}},
    "samples": {
        "distances": {"flow": DISTANCES},
        "layout": LAYOUT,
        "memorisation": {"pixels": SHARE, "features": SHARE},
        "whole": {"samples": [0.75, 0.5], "held_out": 0.8},
    },
    "probe": {
        "classes": ["mel", "nv"],
        "held_out": {"auc": 0.9, "balanced_accuracy": 0.55, "recall": [0.4, 0.7]},
        "guidance": None,
        "decoders": {"flow": SCORES},
    },
    "rates": {"images": 5, "codes": {"entropy-constrained codes": POINT}},
}
SWEEP = {
    "split": "validation",
    "images": 9,
    "seed": 0,
    "rows": [
        {
            "setting": {},
            **DISTANCES,
            "layout": {"ratio": {"area": 2.0, "centroid_offset": 4.0}},
        },
        {
            "setting": {"top_k": 50},
            **DISTANCES,
            "kid_x1000": 80.0,
            "layout": {"ratio": {"area": 1.0, "centroid_offset": 1.0}},
        },
    ],
}


def test_each_number_stands_beside_its_measure():
    table = {measure: (value, beside) for measure, value, beside in tables.rows(GENERATION)}
    assert table["KID-Lite0 x 1000, samples, flow"] == (
        "90 (80 to 101)",
        "FD-Lite0 33 (30 to 36); real training images 1 (80 to 101), FD-Lite0 33 (30 to 36)",
    )
    assert table["KID-Lite0 x 1000, reconstructions, flow"] == (
        "90 (80 to 101)", "FD-Lite0 33 (30 to 36); 34.1 dB, 288 bytes",
    )
    assert table["KID-Lite0 x 1000, reconstructions, webp"] == (
        "90 (80 to 101)", "FD-Lite0 33 (30 to 36); 34.1 dB, 280 bytes without headers",
    )
    assert table["layout, area"] == (
        "2.0 x",
        "0.0200 (0.0150 to 0.0250) against 0.0100 (0.0050 to 0.0200) of as many training images",
    )
    assert table["a whole lesion on skin"] == ("75.0%, 50.0%", "held-out images 80.0%")
    assert table["probe trained on real images, AUC on held-out images"] == (
        "0.900", "recall 0.55; mel 0.40, nv 0.70",
    )
    assert table["class-conditional recall / recall on real, flow"] == (
        "0.70", "reconstructions 0.80; mel 0.50, nv 0.90",
    )
    assert table["classification accuracy score, AUC ratio, flow"] == (
        "0.930",
        "reconstructions 0.950; AUC of real ones 0.900, generated 0.840, both 0.910",
    )
    assert table["the same, features standardised for photographs and samples apart"] == (
        "0.940", "reconstructions 0.960",
    )
    assert table["memorisation, pixels"] == (
        "0.4 (0.2 to 1.1)", "times the share of new photographs, 1 %; 0.4%",
    )
    # AVIF is shown, and no format of the comparison
    assert table["bytes at 34.1 dB, entropy-constrained codes / webp"] == (
        "0.40", "ours 100, jpeg 400, webp 250, avif 200 (end of its curve); 5 images",
    )
    assert table["NLL, bits per code, entropy-constrained codes"] == ("5.90", "1510 bits/image")


@pytest.mark.parametrize(
    ("part", "measure"),
    [("probe", "class-conditional"), ("rates", "bytes"), ("samples", "layout")],
)
def test_what_was_skipped_is_no_row(part, measure):
    left = tables.rows(GENERATION | {part: {"skipped": "no prior"}})
    assert len(left) < len(tables.rows(GENERATION))
    assert not any(row[0].startswith(measure) for row in left)


def test_distances_of_too_few_images_are_no_row():
    too_few = {"psnr": 34.1, "bytes": 288, "skipped": "2 and 2 images; 8 of each are needed"}
    few = GENERATION | {"reconstructions": {"flow": too_few}}
    assert not any("reconstructions, " in row[0] for row in tables.rows(few))


def test_what_cannot_be_measured_is_a_dash():
    scores = {**SCORES, "class_conditional_recall": {
        "recall": [0.5, None], "ratio": None, "ratio_reconstructions": None,
    }}
    probe = GENERATION["probe"] | {"decoders": {"flow": scores}}
    table = {row[0]: row[1:] for row in tables.rows(GENERATION | {"probe": probe})}
    name = "class-conditional recall / recall on real, flow"
    assert table[name] == ("-", "reconstructions -; mel 0.50, nv -")


def test_memorisation_of_too_few_photographs_is_a_dash():
    share = {"share": None, "ratio": None, "ratio_95": None}
    samples = GENERATION["samples"] | {"memorisation": {"pixels": share}}
    table = {row[0]: row[1:] for row in tables.rows(GENERATION | {"samples": samples})}
    assert table["memorisation, pixels"] == ("-", "times the share of new photographs, 1 %; -")


def test_a_sweep_marks_the_least_distance_and_measures_layout_in_references():
    lines = tables.sweep(SWEEP).splitlines()
    assert lines[0] == "validation, 9 images, seed 0"
    assert lines[4:] == [
        "| as trained | 90 (80 to 101) | 3.0 | 4.0, centroid_offset |",
        "| **top_k 50** | 80 (80 to 101) | 1.0 | 1.0, area |",
    ]


def test_a_sweep_without_training_images_has_no_layout_ratios():
    rows = [row | {"layout": {"distance": {"area": 0.02}}} for row in SWEEP["rows"]]
    lines = tables.sweep(SWEEP | {"rows": rows}).splitlines()
    assert lines[4] == "| as trained | 90 (80 to 101) | - | - |"


def test_only_a_folder_whose_prior_ships_has_published_results(tmp_path, monkeypatch):
    monkeypatch.setenv("VQLIB_HOME", str(tmp_path))
    shipped, log = tmp_path / "data" / "pretrained", tmp_path / "run" / "prior" / "log.jsonl"
    for folder in (shipped, log.parent):
        folder.mkdir(parents=True)
    (shipped / "flagship-test.json").write_text('{"generation": 1}')
    (shipped / "prior-f8.jsonl").write_text('{"step": 2}')
    run = tmp_path / "run", "flagship"
    assert tables.published(*run, "test") is None                # no prior yet
    log.write_text('{"step": 1}')
    assert tables.published(*run, "test") is None                # another prior
    log.write_text('{"step": 2}')
    assert tables.published(*run, "test") == {"generation": 1}
    assert tables.published(*run, "validation") is None
    assert tables.published(shipped, "flagship", "test") == {"generation": 1}


def test_the_command_prints_a_markdown_table(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"generation": GENERATION}))
    command = [sys.executable, "-m", "vqlib.evaluation.tables", tmp_path / "result.json"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    assert lines[0] == "lesions, validation, 9 images, seed 0; temperature 0.9"
    assert len({line.count("|") for line in lines[2:]}) == 1
    assert len(lines) == 4 + len(tables.rows(GENERATION))


def test_the_command_prints_a_sweep_too(tmp_path, capsys):
    (tmp_path / "swept.json").write_text(json.dumps({"sweep": SWEEP}))
    assert tables.main([str(tmp_path / "swept.json")]) == 0
    assert capsys.readouterr().out.startswith("validation, 9 images")


@pytest.mark.parametrize(("content", "said"), [
    (None, "r.json"), ("{", "r.json is damaged"), ("[]", "r.json is damaged"),
    ("{}", "r.json has no tables"), ('{"generation": {"n": 1}}', "r.json is no result of this"),
    ('{"sweep": []}', "r.json is no result of this")])
def test_a_file_that_is_no_result_is_one_line(tmp_path, capsys, content, said):
    if content is not None:
        (tmp_path / "r.json").write_text(content)
    assert tables.main([str(tmp_path / "r.json")]) == 1
    line = capsys.readouterr().err
    assert said in line
    assert line.count("\n") == 1


def test_a_file_has_to_be_named(capsys):
    assert tables.main([]) == 1
    assert "name one file" in capsys.readouterr().err
