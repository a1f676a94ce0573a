"""Laws of the report's windowed transformer, our baseline."""
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import loud

from vqlib.windowed_gpt import WindowedGPT, WindowedGPTConfig


def toy(grid):
    return loud(WindowedGPT(WindowedGPTConfig(grid=grid, n_codes=16, width=16, heads=2, layers=1)))


def random_codes(*shape, seed=1):
    return torch.randint(16, shape, generator=torch.Generator().manual_seed(seed))


def test_a_prediction_never_sees_its_own_future_and_does_see_its_past():
    model, tokens = toy(8), random_codes(2, 16)
    other = tokens.clone()
    other[:, 5] = (other[:, 5] + 1) % 16
    difference = (model(tokens) - model(other)).abs().amax((0, 2))
    assert (difference[:5] < 1e-5).all()
    assert (difference[5:] > 1e-3).all()


def test_six_heads_floor_to_126_of_128_channels_in_the_reports_size():
    cfg = WindowedGPTConfig()
    block = WindowedGPT(cfg).blocks[0]
    assert (block.heads, block.head_width) == (6, 21)
    assert block.qkv.weight.shape == (3 * 126, 128)
    assert cfg.window == 256


def watched_inputs(model):
    """A list that gets the tokens of each forward pass from now on."""
    seen, forward = [], model.forward

    def watched_forward(tokens):
        seen.append(tokens)
        return forward(tokens)

    model.forward = watched_forward
    return seen


@pytest.mark.parametrize("grid", [2, 4, 5, 6, 7, 8, 14])
def test_every_code_is_scored_once_whatever_the_grid(grid):
    model, codes = toy(grid), random_codes(3, grid**2)
    seen = watched_inputs(model)
    nats = model.nats(codes, None)
    assert nats.shape == codes.shape
    assert seen
    assert all(tokens.shape[1] == model.cfg.window for tokens in seen)


@pytest.mark.parametrize("grid", [4, 7, 8])
@torch.no_grad()
def test_each_code_is_scored_from_the_tokens_right_before_it(grid):
    model, codes = toy(grid), random_codes(2, grid**2)
    tokens, w, T = model.sequence(codes), model.cfg.window, grid**2
    nats = model.nats(codes, None)
    for i in range(T):
        fits = []                                                # numbers of tokens that give nats
        for first in range(max(0, i - w + 1), min(i, T - w) + 1):
            logits = model(tokens[:, first : first + w])[:, i - first]
            option = F.cross_entropy(logits, codes[:, i], reduction="none")
            if torch.allclose(option, nats[:, i], atol=1e-4):
                fits.append(i - first + 1)
        assert fits, f"code {i} was scored from no window that holds what precedes it"
        assert max(fits) >= min(i + 1, w // 2), f"code {i} was scored from {fits} tokens only"


def test_the_first_window_is_scored_directly():
    model, codes = toy(8), random_codes(2, 64)
    tokens = F.pad(codes, (1, 0), value=16)[:, :16]
    expected = -model(tokens).log_softmax(-1).gather(-1, codes[:, :16, None])[..., 0]
    assert torch.allclose(model.nats(codes, None)[:, :16], expected, atol=1e-5)


def test_a_change_reaches_only_the_scores_of_its_window(windowed):
    codes = random_codes(1, 16)
    other = codes.clone()
    other[0, 9] = (other[0, 9] + 1) % 16
    same = torch.isclose(windowed.nats(codes, None), windowed.nats(other, None), atol=1e-6)[0]
    assert same[:9].all()                                        # the past
    assert same[9 + windowed.cfg.window + 1 :].all()             # and beyond a window of 4
    assert not same[9]


def test_training_windows_lie_anywhere_from_start_to_end_token(windowed):
    seen = watched_inputs(windowed)
    windowed.loss(random_codes(500, 16), None, torch.Generator().manual_seed(0))
    share = (seen[0][:, 0] == 16).float().mean()
    assert share == pytest.approx(1 / 14, abs=0.04)              # 14 places for 4 + 1 of 18 tokens
    assert (seen[0] != 17).all()                                 # the end is only ever predicted


def test_the_end_token_is_learnt(windowed, monkeypatch):
    targets = []

    def cross_entropy(logits, target):
        targets.append(target)
        return torch.zeros(1)

    monkeypatch.setattr(F, "cross_entropy", cross_entropy)
    windowed.loss(random_codes(500, 16), None, torch.Generator().manual_seed(0))
    assert (targets[0][:, -1] == 17).any()


def test_start_and_end_are_never_drawn(windowed):
    with torch.no_grad():
        windowed.head.bias[16:] = 100.0                          # however likely they are
    codes = windowed.generate(50, temperature=3.0)
    assert codes.shape == (50, 16)
    assert codes.max() < 16
    assert codes.min() >= 0


def test_generation_takes_the_likeliest_code_after_the_last_window(windowed):
    codes, w = windowed.generate(2, top_k=1), windowed.cfg.window
    tokens = F.pad(codes, (1, 0), value=16)
    for i in range(16):
        logits = windowed(tokens[:, max(0, i + 1 - w) : i + 1])[:, -1, :16]
        assert torch.equal(codes[:, i], logits.argmax(-1))


def test_the_same_seed_gives_the_same_sample(windowed):
    assert torch.equal(windowed.generate(3, seed=1), windowed.generate(3, seed=1))
    assert not torch.equal(windowed.generate(3, seed=1), windowed.generate(3, seed=2))


@torch.no_grad()
def test_a_fresh_baseline_knows_nothing():
    cfg = WindowedGPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=2)
    nats = float(WindowedGPT(cfg).eval().nats(random_codes(6, 16), None).mean())
    assert nats == pytest.approx(math.log(18), abs=0.02)         # 16 codes, start, end


@pytest.mark.parametrize(("size", "said"), [
    ({"grid": 1}, "grid 1 must be at least 2"),
    ({"heads": 129}, "129 heads must be at most the width, 128")], ids=str)
def test_sizes_that_leave_no_window_or_no_channels_are_refused(size, said):
    with pytest.raises(ValueError, match=said):
        WindowedGPTConfig(**size)


def test_more_tokens_than_a_window_are_refused():
    model = toy(4)
    assert model(random_codes(1, 4)).shape == (1, 4, 18)
    with pytest.raises(ValueError, match="at most 4 tokens, got 5"):
        model(random_codes(1, 5))
