"""Laws of the whole-grid prior and of sampling."""
import itertools
import math

import pytest
import torch
from conftest import loud

import vqlib.gpt
from vqlib.gpt import GPT, NEIGHBOURS, GPTConfig, coarse_to_fine, draw

ANY = 7


def swapped(codes, t):
    other = codes.clone()
    other[:, t] = (other[:, t] + 1) % 16
    return other


# order ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("side", [1, 2, 3, 5, 8, 16, 32])
def test_every_cell_is_drawn_once_and_the_middle_first(side):
    order, around = coarse_to_fine(side)
    assert sorted(order.tolist()) == list(range(side**2))
    assert order[0] == side // 2 * side + side // 2
    assert around.shape == (side**2, len(NEIGHBOURS))


def test_the_first_codes_lie_far_apart_and_the_last_fill_gaps():
    order, _ = coarse_to_fine(16)
    places = torch.stack([order // 16, order % 16], 1).double()
    first = torch.cdist(places[:16], places[:16]) + 99 * torch.eye(16)
    assert first.amin(1).unique().tolist() == [4.0]
    last = torch.cdist(places[128:], places[:128])
    assert last.amin(1).max() == 1                                    # each late cell touches one that is there


def test_only_what_was_drawn_before_lies_around_a_cell_and_all_of_it_that_is_next_to_it():
    side = 8
    order, around = coarse_to_fine(side)
    for t, row in enumerate(around.tolist()):
        assert all(k < t or k == side**2 for k in row)
        r, c = divmod(int(order[t]), side)
        if t >= side**2 // 4:                                         # the densest lattice
            beside = {(r + a) * side + c + b for a in (-1, 0, 1) for b in (-1, 0, 1)
                      if 0 <= r + a < side and 0 <= c + b < side} - {r * side + c}
            assert {int(order[k]) for k in row if k < side**2} >= beside & set(order[:t].tolist())


# predictions ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("t", [0, 5, 14])
def test_a_prediction_never_sees_its_own_future(gpt, codes, t):
    x, labels = codes
    a, b = gpt(x[:, :-1], labels), gpt(swapped(x, t)[:, :-1], labels)
    assert torch.allclose(a[:, : t + 1], b[:, : t + 1], atol=1e-5)    # rows 0..t know only codes 0..t-1
    seen = (a - b).abs().amax(-1)[:, t + 1 :]
    assert (seen > 1e-3).all(), "a later prediction does not see the code that changed"


def test_every_prediction_sees_its_class(gpt, codes):
    x, labels = codes
    a, b = gpt(x[:, :-1], labels), gpt(x[:, :-1], labels + 1)
    assert ((a - b).abs().amax(-1) > 1e-3).all()


def test_the_same_past_means_something_else_at_another_cell(gpt):
    same = torch.full((1, 15), 3)
    logits = gpt(same, torch.tensor([0]))[0]
    assert (torch.cdist(logits, logits) + 9 * torch.eye(16)).min() > 1e-2


@pytest.mark.parametrize(("name", "where", "axis"), [("row", 2, 0), ("column", (0, 3), 1)])
def test_rows_and_columns_have_positions_of_their_own(gpt, codes, name, where, axis):
    x, labels = codes
    before = gpt(x[:, :-1], labels)
    with torch.no_grad():
        getattr(gpt, name)[where] += torch.randn(16, generator=torch.Generator().manual_seed(0))
    changed = ((gpt(x[:, :-1], labels) - before).abs().amax(-1) > 1e-3).all(0)
    line = (gpt.generation_order // 4, gpt.generation_order % 4)[axis] == (2, 3)[axis]
    first = int(line.nonzero()[0])                                    # cells of that line, and all drawn after its first
    assert changed.tolist() == [False] * first + [True] * (16 - first)


def drawn(codes):
    """Codes in the order of drawing, as `forward` takes them."""
    return codes[:, coarse_to_fine(4)[0]]


def test_nats_are_the_negative_logs_of_the_predicted_probabilities(gpt, codes):
    x, labels = codes
    p = gpt(drawn(x)[:, :-1], labels).softmax(-1)
    assert torch.allclose(drawn(gpt.nats(x, labels)), -p.gather(-1, drawn(x)[..., None])[..., 0].log(), atol=1e-5)


@torch.no_grad()
def test_the_probabilities_of_all_grids_sum_to_one():
    toy = loud(GPT(GPTConfig(grid=2, n_codes=2, n_classes=1, width=8, heads=2, layers=1)))
    grids = torch.tensor(list(itertools.product(range(2), repeat=4)))
    total = float((-toy.nats(grids, torch.zeros(16, dtype=torch.long)).sum(1)).exp().sum())
    assert total == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_a_fresh_prior_knows_nothing(codes):
    x, labels = codes
    fresh = GPT(GPTConfig(grid=4, n_codes=16, n_classes=7, width=16, heads=2, layers=2)).eval()
    nats = -fresh(x[:, fresh.generation_order][:, :-1], labels).log_softmax(-1)  # (6, 16, 16) of every code at every cell
    assert float(nats.mean().detach()) == pytest.approx(math.log(16), abs=0.02)


def test_training_hides_the_asked_share_of_the_classes(gpt, codes, monkeypatch):
    seen = []
    monkeypatch.setattr(gpt, "nats", lambda codes, labels: seen.append(labels) or torch.zeros(1))
    gpt.loss(torch.zeros(5000, 16, dtype=torch.long), torch.full((5000,), 2), torch.Generator().manual_seed(0))
    assert set(seen[0].tolist()) == {2, ANY}
    assert float((seen[0] == ANY).float().mean()) == pytest.approx(0.1, abs=0.02)


# generation ----------------------------------------------------------------------------------------------------------

@pytest.fixture
def watched(monkeypatch):
    """The logits that each draw was made from."""
    logits = []
    monkeypatch.setattr(vqlib.gpt, "draw", lambda x, *rest: logits.append(x.clone()) or draw(x, *rest))
    return logits


@pytest.mark.parametrize("guidance", [1.0, 3.0, 0.0])
@pytest.mark.parametrize("n", [1, 2, 5])
@torch.no_grad()
def test_cached_generation_sees_what_the_full_model_sees(gpt, watched, n, guidance):
    labels = torch.arange(n)
    codes = gpt.generate(labels, guidance=guidance)
    x = drawn(codes)[:, :-1]
    own, free = gpt(x, labels), gpt(x, torch.full((n,), ANY))
    expected = free + guidance * (own - free)
    error = (torch.stack(watched, 1) - expected).abs().amax((0, 2))   # (T,)
    assert len(watched) == 16
    assert (error < 1e-5 * expected.abs().max()).all(), f"largest at each cell: {error.tolist()}"


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@torch.no_grad()
def test_heads_that_share_keys_and_values_are_cached_as_they_are_trained(watched, kv_heads):
    model = loud(GPT(GPTConfig(grid=4, n_codes=16, n_classes=7, width=16, heads=4, kv_heads=kv_heads, layers=2)))
    labels = torch.arange(3)
    expected = model(drawn(model.generate(labels))[:, :-1], labels)
    torch.testing.assert_close(torch.stack(watched, 1), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_a_shared_head_is_several_equal_heads(codes):
    shared, own = (loud(GPT(GPTConfig(grid=4, n_codes=16, n_classes=7, width=16, heads=4, kv_heads=n, layers=1))) for n in (2, 4))
    weights = shared.state_dict()
    q, k, v = weights["blocks.0.qkv.weight"].split([16, 8, 8])         # (heads * 4, width)
    k, v = (w.view(2, 1, 4, 16).expand(2, 2, 4, 16).flatten(0, 2) for w in (k, v))  # heads 0, 1 share one, heads 2, 3 another
    own.load_state_dict(weights | {"blocks.0.qkv.weight": torch.cat([q, k, v])})
    torch.testing.assert_close(shared.nats(*codes), own.nats(*codes), rtol=1e-4, atol=1e-4)


def test_guidance_of_one_is_the_class_and_of_zero_is_any_class(gpt):
    labels = torch.full((4,), 2)
    own, guided = gpt.generate(labels, seed=1), gpt.generate(labels, guidance=1.0 + 1e-7, seed=1)
    assert torch.equal(own, guided)
    assert torch.equal(gpt.generate(labels, guidance=0.0, seed=1), gpt.generate(torch.full((4,), ANY), seed=1))
    assert not torch.equal(own, gpt.generate(labels, guidance=0.0, seed=1))


def test_the_same_seed_gives_the_same_sample_and_another_seed_another(gpt):
    labels = torch.arange(7)
    a = gpt.generate(labels, seed=4)
    torch.rand(3)                                                     # the caller's own rng do not matter
    assert torch.equal(gpt.generate(labels, seed=4), a)
    assert not torch.equal(gpt.generate(labels, seed=5), a)


def test_generation_after_training_has_no_dropout(codes):
    _x, labels = codes
    model = loud(GPT(GPTConfig(grid=4, n_codes=16, n_classes=7, width=16, heads=2, layers=2, dropout=0.5)))
    a = model.eval().generate(labels)
    assert torch.equal(model.train().generate(labels), a)


def test_only_codes_are_drawn_and_all_of_them_can_be(gpt):
    drawn = gpt.generate(torch.full((300,), ANY), temperature=3.0)
    assert sorted(drawn.unique().tolist()) == list(range(16))


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_the_narrowest_settings_take_the_likeliest_code(gpt, settings):
    labels = torch.arange(7)
    codes = gpt.generate(labels, **settings)
    assert torch.equal(drawn(codes), gpt(drawn(codes)[:, :-1], labels).argmax(-1))


def many(logits, **settings):
    """Shares of the codes in 20,000 draws from one row of logits."""
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings
    codes = draw(torch.tensor(logits).log().expand(20_000, -1), **settings, rng=torch.Generator().manual_seed(0))
    return (torch.bincount(codes, minlength=len(logits)) / 20_000).tolist()


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, [0.5, 0.3, 0.15, 0.05]),
    ({"top_k": 2}, [0.625, 0.375, 0, 0]),
    ({"top_p": 0.7}, [0.625, 0.375, 0, 0]),                           # 0.5 does not reach it, 0.5 + 0.3 does
    ({"top_p": 0.45}, [1, 0, 0, 0]),
    ({"top_p": 0.9}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
    ({"temperature": 0.5}, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
    ({"top_k": 3, "top_p": 0.8}, [0.625, 0.375, 0, 0]),               # top_k first: 0.5 + 0.3 are 0.84 of what is left
])
def test_draws_follow_the_stated_distribution(settings, expected):
    assert many([0.5, 0.3, 0.15, 0.05], **settings) == pytest.approx(expected, abs=0.015)


def test_settings_apply_wherever_the_likely_codes_stand():
    assert many([0.05, 0.3, 0.15, 0.5], top_p=0.7) == pytest.approx([0, 0.375, 0, 0.625], abs=0.015)


def test_only_the_first_sixteenth_is_drawn_as_layout(gpt, monkeypatch):
    seen = []
    monkeypatch.setattr(vqlib.gpt, "draw", lambda x, t, k, p, rng: seen.append(p) or draw(x, t, k, p, rng))
    layout = gpt.generate(torch.arange(4), top_p=0.9, first_top_p=0.5)
    assert seen == [0.5] + 15 * [0.9]
    assert not torch.equal(layout, gpt.generate(torch.arange(4), top_p=0.9))
    gpt.generate(torch.arange(4), top_p=0.3, first_top_p=0.5)
    assert seen[-16:] == 16 * [0.3]                                   # no looser than the rest


def test_samples_follow_the_models_own_distribution():
    toy, n = loud(GPT(GPTConfig(grid=2, n_codes=2, n_classes=1, width=8, heads=2, layers=1)), seed=2), 8000
    grids = torch.tensor(list(itertools.product(range(2), repeat=4)))
    expected = n * (-toy.nats(grids, torch.zeros(16, dtype=torch.long)).sum(1)).exp().detach()
    drawn = (toy.generate(torch.zeros(n, dtype=torch.long)) * torch.tensor([8, 4, 2, 1])).sum(1)
    observed = torch.bincount(drawn, minlength=16)
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert expected.max() > 3 * expected.min()                        # a distribution with something to get wrong
    assert chi_square < 37.7, f"1 in 1,000 by chance: {list(zip(observed.tolist(), expected.tolist()))}"


def test_known_cells_are_kept_and_what_follows_sees_them(gpt, codes, watched):
    known, labels = codes
    keep = torch.zeros(6, 16, dtype=torch.bool)
    keep[:, gpt.generation_order[4:10]] = True
    codes = gpt.generate(labels, known=known, keep=keep, seed=3)
    assert torch.equal(codes[keep], known[keep])
    assert (codes != known).any()
    logits = gpt(drawn(codes)[:, :-1], labels)
    assert torch.allclose(torch.stack(watched, 1), logits, atol=1e-4)
    free = gpt.generate(labels, seed=3)
    assert torch.equal(drawn(codes)[:, :4], drawn(free)[:, :4])       # what precedes them does not


def test_a_mask_of_everything_gives_everything_back(gpt, codes):
    known, labels = codes
    assert torch.equal(gpt.generate(labels, known=known, keep=torch.ones(6, 16, dtype=torch.bool)), known)


def test_progress_counts_up_to_all_codes(gpt):
    seen = []
    gpt.generate(torch.tensor([0]), progress=lambda t, T: seen.append((t, T)))
    assert seen == [(t, 16) for t in range(1, 17)]


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1},
                                      {"top_k": 17}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": float("nan")}])
def test_senseless_settings_are_refused_by_name(gpt, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        gpt.generate(torch.tensor([0]), **settings)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="128 is no multiple of 6"):
        GPTConfig(heads=6)
    with pytest.raises(ValueError, match="3 kv_heads"):
        GPTConfig(heads=4, kv_heads=3)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_dice_alone():
    cfg = GPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=1)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    a, b, c = (GPT(cfg, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values()))
    assert not torch.equal(a.head.weight, c.head.weight)
