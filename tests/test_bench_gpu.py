"""Laws of the quarter of an hour of one GPU: it ends in time, and what was made remains.

The whole chain: `python -m tests.bench.gpu --tiny --out FOLDER`, a minute on a CPU.
"""
import json
import sys
import tarfile
import time
from dataclasses import replace

import numpy as np
import pytest
from bench import gpu, gpu_speed
from bench.gpu import Chain, Stages, copy_new
from bench.gpu_speed import TINY, Measuring, Speed, pays
from bench.pack import SHORTER, pack
from conftest import picture
from PIL import Image

from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import open_source

SLEEPER = ["-c", "import time; print('began', flush=True); time.sleep(60)"]


def chain(out, seconds):
    return Chain(out, time.monotonic() + seconds, least=0.1)


def noted(out):
    return json.loads((out / "stages.json").read_text())


# in time ------------------------------------------------------------------------------------------

def test_a_stage_that_outlasts_its_limit_is_ended_and_its_output_remains(tmp_path):
    a = chain(tmp_path, 60)
    a.run("slow", SLEEPER, 1.5)
    a.run("quick", ["-c", "print(7)"], 30)
    assert [line["ended"] for line in noted(tmp_path)] == ["cut off", "status 0"]
    assert noted(tmp_path)[0]["seconds"] < 10
    assert (tmp_path / "slow.log").read_text() == "began\n"
    assert (tmp_path / "quick.log").read_text() == "7\n"


def test_no_stage_goes_on_after_the_end_and_none_is_begun_there(tmp_path):
    a = chain(tmp_path, 1.5)
    for name in ("first", "second"):
        a.run(name, SLEEPER, 30)
    assert [line["ended"] for line in noted(tmp_path)] == ["cut off", "not begun"]


def test_a_stage_that_fails_says_so_and_the_next_is_run(tmp_path):
    a = chain(tmp_path, 60)
    a.run("bad", ["-c", "raise SystemExit(3)"], 30)
    a.run("good", ["-c", "pass"], 30)
    assert [line["ended"] for line in noted(tmp_path)] == ["status 3", "status 0"]


def test_stages_of_an_earlier_command_stay_in_the_list(tmp_path):
    for name in ("a", "b"):
        chain(tmp_path, 60).run(name, ["-c", "pass"], 30)
    assert [line["stage"] for line in noted(tmp_path)] == ["a", "b"]


def test_a_model_is_copied_while_the_next_is_trained_and_so_is_a_checkpoint(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    (run / "prior").mkdir(parents=True)
    out.mkdir()
    (run / "vqvae.safetensors").write_bytes(b"1")
    (run / "prior" / "state.pt").write_bytes(b"2")
    seen = []

    def watch():
        seen.append({path.name for path in out.iterdir()})
        copy_new(run, out)

    chain(out, 60).run("train", SLEEPER, 2.5, watch)
    assert "vqvae.safetensors" in seen[1]                        # a second later, not at the end
    assert (out / "vqvae.safetensors").read_bytes() == b"1"
    assert (out / "prior-state.pt").read_bytes() == b"2"
    (run / "prior.safetensors").write_bytes(b"3")
    copy_new(run, out)
    assert not (out / "prior-state.pt").exists()                 # finished: nothing to go on with


# what is run --------------------------------------------------------------------------------------

class Noted:
    """A chain that runs nothing."""

    def __init__(self, out):
        self.out, self.commands = out, {}

    def left(self):
        return 100

    def run(self, stage, command, limit, watch=None):
        self.commands[stage] = " ".join(map(str, command))


def rows(**seconds):
    return [vars(Speed("vqvae report", way, "images", 1.0, 0.1, each, 30.0))
            for way, each in seconds.items()]


@pytest.mark.parametrize(("compiled", "expected"), [(0.008, True), (0.0097, False)])
def test_a_training_is_compiled_where_that_is_a_tenth_faster(tmp_path, compiled, expected):
    Stages(stages := Noted(tmp_path), None).report()
    assert "--compile" not in stages.commands["report"]          # nothing is known
    text = json.dumps({"rows": rows(plain=0.01, compiled=compiled)})
    (tmp_path / "speed.json").write_text(text)
    Stages(stages, "folder").report()
    assert ("--compile" in stages.commands["report"]) == expected
    assert "train vqvae --preset report --data folder" in stages.commands["report"]


def test_compiling_itself_counts(tmp_path):
    slow, fast = rows(plain=0.01)[0], rows(compiled=0.005)[0] | {"first": 60}
    (tmp_path / "speed.json").write_text(json.dumps({"rows": [slow, fast]}))
    assert pays(tmp_path / "speed.json", {"vqvae report": 15_000})
    assert not pays(tmp_path / "speed.json", {"vqvae report": 5_000})


def test_a_stage_that_does_not_exist_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--tiny", "--out", str(tmp_path), "speeds"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "no stage speeds; there are tests, speed, train, report" in capsys.readouterr().err


# speed --------------------------------------------------------------------------------------------

def test_all_that_the_flagship_needs_is_measured_plain_and_compiled(short, home, tmp_path):
    out = tmp_path / "speed.json"
    found = list(Measuring(replace(TINY, rounds=1), "synthetic", out))
    assert all(isinstance(row, Speed) for row in found), found
    assert [row.way for row in found] == ["plain"] * 5 + ["compiled"] * 4
    numbers = [value for row in found for value in vars(row).values() if isinstance(value, float)]
    assert np.isfinite(numbers).all()
    assert min(numbers) > 0
    kept = json.loads(out.read_text())
    assert kept["rows"] == [vars(row) for row in found]
    assert (tmp_path / "speed.profile.txt").read_text().count("an update, profiled") == 9


def test_what_cannot_be_measured_is_said_and_the_rest_is_measured(
        short, home, tmp_path, monkeypatch):
    def broken(ws, compiler):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(gpu_speed, "prior_training", broken)
    some = [*gpu_speed.jobs(TINY)][:3]
    monkeypatch.setattr(gpu_speed, "jobs", lambda scale: some)
    found = list(Measuring(replace(TINY, rounds=1), "synthetic", tmp_path / "speed.json"))
    assert [str(row).partition(":")[0] for row in found] == [
        "vqvae smoke, plain", "prior smoke, plain", "vqvae smoke, plain"]
    assert json.loads((tmp_path / "speed.json").read_text())["errors"] == [found[1]]
    assert "RuntimeError: no kernel" in found[1]


# packing ------------------------------------------------------------------------------------------

def unpacked(folder, out):
    pack(folder, out / "data.tar.gz")
    with tarfile.open(out / "data.tar.gz") as tar:
        tar.extractall(out / "data", filter="data")
    return out / "data"


def test_small_images_and_tables_are_packed_to_the_byte(ham, tmp_path):
    there = unpacked(ham[0], tmp_path)
    files = [path.relative_to(ham[0]) for path in ham[0].rglob("*") if path.is_file()]
    assert len(files) == 41
    assert all((there / path).read_bytes() == (ham[0] / path).read_bytes() for path in files)
    assert len([path for path in there.rglob("*") if path.is_file()]) == 41


def test_large_images_are_packed_smaller_and_give_nearly_the_same_squares(tmp_path):
    for i in range(24):
        folder = tmp_path / "large" / ("mel", "nv")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture(i, (600, 450)).save(folder / f"{i}.png")
    there = unpacked(tmp_path / "large", tmp_path)
    assert Image.open(there / "mel" / "0.png").size == (200, SHORTER)
    a, b = (Dataset(open_source(path), Geometry(), cache=tmp_path / "cache")
            for path in (tmp_path / "large", there))
    assert a.names == b.names
    assert {name: rows.tolist() for name, rows in a.splits.items()} == {
        name: rows.tolist() for name, rows in b.splits.items()}
    everything = np.arange(24)
    assert (a[everything] - b[everything]).abs().mean() < 0.01
