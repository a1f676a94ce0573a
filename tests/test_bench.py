"""The benchmarks run, at sizes where their results mean nothing; their instruments are right."""
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bench.timing import Row, compare, flops, peak_bytes

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
