"""The benchmarks run, at sizes where their results mean nothing; their instruments are right."""
import json
from dataclasses import replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace

import bench.__main__
import bench.speedrun
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bench.results import BEGIN, END, README, RESULTS, key, load, machine, refresh, save, tables
from bench.timing import Row, compare, flops, peak_bytes

from vqlib.presets import PRESETS

PEERS = {"sampling", "quantizing", "priors"}                     # need the extra `bench`


@pytest.mark.parametrize("name", ["sampling", "quantizing", "priors", "images"])
def test_a_benchmark_gives_rows_of_finite_numbers(name, monkeypatch):
    there = find_spec("transformers") and find_spec("vector_quantize_pytorch")
    if name in PEERS and not there:
        pytest.skip("peers are the extra `bench`")
    monkeypatch.delenv("VQLIB_DATA", raising=False)
    rows = list(import_module(f"bench.{name}").bench(tiny=True))
    assert rows
    assert all(np.isfinite(row.values).all() and len(row.cells()) == 6 for row in rows)


def test_the_median_of_a_row_decides_whether_it_reaches_its_target():
    assert Row("", "", ">= 2", [1, 2, 9]).met
    assert not Row("", "", "<= 2", [1, 3, 9]).met
    assert Row("", "", "", [1]).met is None


# results ------------------------------------------------------------------------------------------

OLD = {"cpu": "AMD EPYC", "cores": 2, "avx512": True, "threads": 2, "products": "convolution",
       "torch": "2", "load": 1.0, "day": "2026-11-26"}           # before families were kept
NEW = OLD | {"model": "25/1", "avx512": False, "products": "linear"}


def two_machines() -> dict:
    both, one = Row("a", "b", ">= 2", [1, 3, 4], machine=OLD), Row("c", "d", "", [5], machine=OLD)
    return {key(OLD): {"sampling": [both, one]},
            key(NEW): {"sampling": [Row("a", "b", ">= 2", [1, 1.5, 4], machine=NEW)]}}


def test_a_machine_is_known_by_its_processor_cores_and_avx512():
    assert key(OLD) == "AMD EPYC, 2 cores, AVX-512"
    assert key(NEW) == "AMD EPYC 25/1, 2 cores, no AVX-512"
    assert key(NEW | {"gpu": "NVIDIA H100"}).startswith("NVIDIA H100, ")
    assert key(machine()) == key(machine() | {"load": 99.0, "day": "another"})


def test_each_machine_has_a_column_and_reaches_what_it_reaches():
    lines = tables(two_machines()).splitlines()
    assert "| what | against | to reach | " + " | ".join(map(key, (OLD, NEW))) + " |" in lines
    assert "| a | b | >= 2 | 1 / 3 / 4 | **1 / 1.5 / 4** |" in lines
    assert "| c | d |  | 5 / 5 / 5 | – |" in lines


def test_a_run_replaces_its_own_machine_s_rows_of_the_benchmarks_named(tmp_path, monkeypatch):
    path, found = tmp_path / "results.json", two_machines()
    found[key(NEW)]["imports"] = [Row("e", "f", "", [6], machine=NEW)]
    save(path, found)
    measured = SimpleNamespace(bench=lambda: iter([Row("a", "b", ">= 2", [7])]))
    monkeypatch.setattr(bench.__main__, "import_module", lambda *name: measured)
    monkeypatch.setattr(bench.__main__, "machine", lambda: NEW)
    bench.__main__.main(["sampling", "--results", str(path)])
    found[key(NEW)]["sampling"] = [Row("a", "b", ">= 2", [7], machine=NEW)]
    assert load(path) == found


def test_results_lie_under_the_machine_that_each_row_names():
    results = load(RESULTS)
    assert results
    for on, benchmarks in results.items():
        assert {key(row.machine) for rows in benchmarks.values() for row in rows} == {on}


def test_the_page_has_the_tables_of_the_results(tmp_path):
    text = README.read_text()
    assert text.split(BEGIN)[1].split(END)[0].strip() == tables(load(RESULTS))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    refresh(page, "new")
    assert page.read_text() == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"


def test_the_front_page_shows_rows_of_these_tables():
    front = (README.parents[2] / "README.md").read_text().split("## Speed")[1].split("\n## ")[0]
    def cells(text):
        return [[cell.strip() for cell in line.strip("| ").split(" | ")]
                for line in text.splitlines() if line.startswith("| ")]

    shown = cells(front)[1:]                                     # below the head
    measured = [[what, against, ours] for what, against, _, ours, *_ in
                (row for row in cells(README.read_text()) if len(row) > 3)]
    assert len(shown) == 5
    assert all(row in measured for row in shown)


# instruments --------------------------------------------------------------------------------------


def test_contestants_take_turns_and_the_first_turn_is_not_timed():
    turns = []
    rest, a, b = (partial(turns.append, letter) for letter in "-ab")
    seconds = compare(2, rest, a=a, b=b)
    assert "".join(turns) == "-a-b" * 3
    assert {name: len(s) for name, s in seconds.items()} == {"a": 2, "b": 2}


def test_products_and_attention_are_counted():
    a = torch.ones(8, 16)
    assert flops(lambda: a @ a.T) == 2 * 8 * 8 * 16
    q = torch.ones(2, 3, 8, 16)
    causal = flops(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True))
    assert causal == 2 * 3 * 2 * (2 * 8 * 8 * 16) / 2


def test_peak_memory_is_what_is_held_at_a_time():
    def run():
        for _ in range(3):
            a = torch.ones(1 << 20)
            b = a + a
            del a, b

    assert peak_bytes(run) == pytest.approx(2 * 4 << 20, rel=0.01)


# speedrun -----------------------------------------------------------------------------------------


@pytest.fixture
def speedrun(home, tmp_path, monkeypatch, capsys):
    """Runs one seed on synthetic data with few updates; (what is printed, what is kept)."""
    smoke = PRESETS["smoke"]
    shorter = replace(smoke, vqvae_training=replace(smoke.vqvae_training, steps=60),
                      prior_training=replace(smoke.prior_training, steps=20), n_synthetic=120)
    monkeypatch.setitem(PRESETS, "smoke", shorter)
    monkeypatch.setattr(bench.speedrun, "two_cores", lambda: None)  # they would stay two

    def run(*targets):
        path = tmp_path / "speedrun.json"
        bench.speedrun.main(["--preset", "smoke", "--data", "synthetic", "--seeds", "3",
                             "--results", str(path), *targets])
        return capsys.readouterr().out, json.loads(path.read_text())
    return run


def test_a_speedrun_tells_when_it_reached_its_targets(speedrun):
    printed, kept = speedrun("--psnr", "5", "--nats", "10")
    name = f"{key(machine())}; synthetic, n 120, seed 0; preset smoke"
    assert list(kept) == [name]
    [found] = kept[name]["seeds"]
    assert (found["seed"], found["vqvae"]["updates"], found["prior"]["updates"]) == (3, 50, 20)
    assert found["vqvae"]["final"] > 5
    assert found["vqvae"]["seconds"] > 0 < found["prior"]["seconds"]
    assert name in printed
    row = printed.splitlines()[-1]
    assert row.startswith("| 3 | ")
    assert "(50)" in row
    assert "(20)" in row


def test_a_speedrun_tells_what_it_reached_instead(speedrun):
    printed, kept = speedrun("--psnr", "99", "--nats", "0.1")
    [entry] = kept.values()
    [found] = entry["seeds"]
    assert found["vqvae"]["seconds"] is None is found["prior"]["seconds"]
    assert f"| not in 60: {found['vqvae']['final']:.2f} | not in 20: " in printed


def test_a_clock_stands_still_while_it_is_paused(monkeypatch):
    times = iter([0.0, 5.0, 7.0, 10.0])
    monkeypatch.setattr(bench.speedrun.Clock, "now", lambda self=None: next(times))
    clock = bench.speedrun.Clock()
    with clock.paused():
        pass
    assert clock.seconds == 8
