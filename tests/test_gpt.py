"""Laws of the whole-grid prior and of sampling."""
import itertools
import math
import re
from dataclasses import replace

import pytest
import torch
from conftest import loud

import vqlib.gpt
from vqlib.gpt import GPT, NEIGHBOURS, GPTConfig, Sampler, coarse_to_fine, draw

ANY = 7
SIZE = GPTConfig(grid=4, n_codes=16, n_classes=7, width=16, heads=2, layers=2)


def sized(**changes):
    """A prior of the tests' size with weights that make each input matter."""
    return loud(GPT(replace(SIZE, **changes)))


def toy(seed=0):
    """A prior of four cells and two codes: all its 16 grids can be counted."""
    return loud(GPT(GPTConfig(grid=2, n_codes=2, n_classes=1, width=8, heads=2, layers=1)), seed)


def all_grids():
    return torch.tensor(list(itertools.product(range(2), repeat=4)))


def swapped(codes, t):
    other = codes.clone()
    other[:, t] = (other[:, t] + 1) % 16
    return other


# generation order ---------------------------------------------------------------------------------

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
    assert last.amin(1).max() == 1                               # each late cell touches an earlier


def beside(cell, side):
    """The cells that touch a cell, also at a corner."""
    row, column = divmod(cell, side)
    rows = [r for r in (row - 1, row, row + 1) if 0 <= r < side]
    columns = [c for c in (column - 1, column, column + 1) if 0 <= c < side]
    return {r * side + c for r in rows for c in columns} - {cell}


def test_neighbours_were_all_drawn_before_and_include_all_that_touch_the_cell():
    side = 8
    order, around = coarse_to_fine(side)
    for t, row in enumerate(around.tolist()):
        assert all(k < t or k == side**2 for k in row)
        if t >= side**2 // 4:                                    # the densest lattice
            known = beside(int(order[t]), side) & set(order[:t].tolist())
            assert {int(order[k]) for k in row if k < side**2} >= known


def test_the_docstring_draws_the_order_of_side_8():
    lines = [line.split() for line in coarse_to_fine.__doc__.splitlines()]
    rows = [line for line in lines if line and all(re.fullmatch(r"\d+", word) for word in line)]
    drawing = torch.tensor([[int(turn) for turn in row] for row in rows])
    order, _ = coarse_to_fine(8)
    assert drawing.shape == (8, 8)
    assert torch.equal(drawing, order.argsort().view(8, 8))      # the turn of each cell


# predictions --------------------------------------------------------------------------------------

@pytest.mark.parametrize("t", [0, 5, 14])
def test_a_prediction_never_sees_its_own_future(gpt, codes, t):
    x, labels = codes
    a, b = gpt(x[:, :-1], labels), gpt(swapped(x, t)[:, :-1], labels)
    # rows 0..t know only codes 0..t-1
    assert torch.allclose(a[:, : t + 1], b[:, : t + 1], atol=1e-5)
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
    rows, columns = gpt.generation_order // 4, gpt.generation_order % 4
    line = rows == 2 if axis == 0 else columns == 3
    first = int(line.nonzero()[0])
    # cells of that line change, and all that are drawn after its first
    assert changed.tolist() == [False] * first + [True] * (16 - first)


def in_order(codes):
    """Codes in the generation order, as `forward` takes them."""
    return codes[:, coarse_to_fine(4)[0]]


def test_nats_are_the_negative_logs_of_the_predicted_probabilities(gpt, codes):
    x, labels = codes
    p = gpt(in_order(x)[:, :-1], labels).softmax(-1)             # (6, 16, K)
    expected = -p.gather(-1, in_order(x)[..., None])[..., 0].log()
    assert torch.allclose(in_order(gpt.nats(x, labels)), expected, atol=1e-5)


@torch.no_grad()
def test_the_probabilities_of_all_grids_sum_to_one():
    nats = toy().nats(all_grids(), torch.zeros(16, dtype=torch.long)).sum(1)
    assert float((-nats).exp().sum()) == pytest.approx(1, abs=1e-5)


@torch.no_grad()
def test_a_fresh_prior_knows_nothing(codes):
    x, labels = codes
    fresh = GPT(SIZE).eval()
    nats = -fresh(in_order(x)[:, :-1], labels).log_softmax(-1)   # (6, T, K) of all codes everywhere
    assert float(nats.mean()) == pytest.approx(math.log(16), abs=0.02)


def test_training_hides_the_asked_share_of_the_classes(gpt, monkeypatch):
    seen = []

    def nats(codes, labels):
        seen.append(labels)
        return torch.zeros(1)

    monkeypatch.setattr(gpt, "nats", nats)
    codes, labels = torch.zeros(5000, 16, dtype=torch.long), torch.full((5000,), 2)
    gpt.loss(codes, labels, torch.Generator().manual_seed(0))
    assert set(seen[0].tolist()) == {2, ANY}
    assert float((seen[0] == ANY).float().mean()) == pytest.approx(0.1, abs=0.02)


# generation ---------------------------------------------------------------------------------------

@pytest.fixture
def watched(monkeypatch):
    """The logits (B, K) that each draw was made from."""
    seen = []

    def watched_draw(logits, *settings):
        seen.append(logits.clone())
        return draw(logits, *settings)

    monkeypatch.setattr(vqlib.gpt, "draw", watched_draw)
    return seen


@pytest.mark.parametrize("guidance", [1.0, 3.0, 0.0])
@pytest.mark.parametrize("n", [1, 2, 5])
@torch.no_grad()
def test_cached_generation_sees_what_the_full_model_sees(gpt, watched, n, guidance):
    labels = torch.arange(n)
    codes = gpt.generate(labels, guidance=guidance)
    x = in_order(codes)[:, :-1]
    conditional, unconditional = gpt(x, labels), gpt(x, torch.full((n,), ANY))
    expected = unconditional + guidance * (conditional - unconditional)
    error = (torch.stack(watched, 1) - expected).abs().amax((0, 2))  # (T,)
    assert len(watched) == 16
    assert (error < 1e-5 * expected.abs().max()).all(), f"largest at each cell: {error.tolist()}"


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@torch.no_grad()
def test_heads_that_share_keys_and_values_are_cached_as_they_are_trained(watched, kv_heads):
    model, labels = sized(heads=4, kv_heads=kv_heads), torch.arange(3)
    expected = model(in_order(model.generate(labels))[:, :-1], labels)
    largest = float(expected.abs().max())
    torch.testing.assert_close(torch.stack(watched, 1), expected, rtol=0, atol=1e-5 * largest)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 2, 5])
@torch.no_grad()
def test_a_sampler_gives_the_logits_of_the_full_forward_pass(codes, n, kv_heads):
    model, labels = sized(heads=4, kv_heads=kv_heads).train(), torch.arange(n)
    sampler = Sampler(model, labels)
    ordered = in_order(codes[0][:n])                             # (n, T)
    logits = [sampler.step()] + [sampler.step(ordered[:, t]) for t in range(15)]
    expected = model.eval()(ordered[:, :-1], labels)             # (n, T, K)
    largest = float(expected.abs().max())
    torch.testing.assert_close(torch.stack(logits, 1), expected, rtol=0, atol=1e-5 * largest)


@torch.no_grad()
def test_two_samplers_of_one_prior_do_not_disturb_each_other(gpt, codes):
    ordered, labels = in_order(codes[0]), codes[1]
    alone = Sampler(gpt, labels)
    expected = [alone.step()] + [alone.step(ordered[:, t]) for t in range(15)]
    one, other, found = Sampler(gpt, labels), Sampler(gpt, labels + 1), []
    for chosen in [None, *ordered.T[:15]]:
        found.append(one.step(chosen))
        other.step(None if chosen is None else 15 - chosen)
    assert torch.equal(torch.stack(found), torch.stack(expected))


@torch.no_grad()
def test_a_shared_head_is_several_equal_heads(codes):
    shared, own = (sized(heads=4, kv_heads=n, layers=1) for n in (2, 4))
    weights = shared.state_dict()
    q, k, v = weights["blocks.0.qkv.weight"].split([16, 8, 8])   # (heads * 4, width)
    # heads 0, 1 share one, heads 2, 3 another
    k, v = (w.view(2, 1, 4, 16).expand(2, 2, 4, 16).flatten(0, 2) for w in (k, v))
    own.load_state_dict(weights | {"blocks.0.qkv.weight": torch.cat([q, k, v])})
    torch.testing.assert_close(shared.nats(*codes), own.nats(*codes), rtol=1e-4, atol=1e-4)


def test_a_sampler_takes_codes_at_every_cell_but_the_first(gpt):
    labels = torch.arange(3)
    with pytest.raises(ValueError, match="step 0 of 16"):
        Sampler(gpt, labels).step(labels)
    sampler = Sampler(gpt, labels)
    sampler.step()
    with pytest.raises(ValueError, match="step 1 of 16"):
        sampler.step()
    for _ in range(15):
        sampler.step(labels)
    with pytest.raises(ValueError, match="step 16 of 16"):
        sampler.step(labels)


def test_guidance_of_one_is_the_class_and_of_zero_is_any_class(gpt):
    labels = torch.full((4,), 2)
    conditional = gpt.generate(labels, seed=1)
    assert torch.equal(gpt.generate(labels, guidance=1.0 + 1e-7, seed=1), conditional)
    unconditional = gpt.generate(torch.full((4,), ANY), seed=1)
    assert torch.equal(gpt.generate(labels, guidance=0.0, seed=1), unconditional)
    assert not torch.equal(conditional, unconditional)


def test_the_same_seed_gives_the_same_sample_and_another_seed_another(gpt):
    labels = torch.arange(7)
    a = gpt.generate(labels, seed=4)
    torch.rand(3)                                                # the caller's draws do not matter
    assert torch.equal(gpt.generate(labels, seed=4), a)
    assert not torch.equal(gpt.generate(labels, seed=5), a)


def test_generation_after_training_has_no_dropout(codes):
    _, labels = codes
    model = sized(dropout=0.5)
    a = model.eval().generate(labels)
    assert torch.equal(model.train().generate(labels), a)


def test_only_codes_are_drawn_and_all_of_them_can_be(gpt):
    codes = gpt.generate(torch.full((300,), ANY), temperature=3.0)
    assert sorted(codes.unique().tolist()) == list(range(16))


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_the_narrowest_settings_take_the_likeliest_code(gpt, settings):
    labels = torch.arange(7)
    codes = in_order(gpt.generate(labels, **settings))
    assert torch.equal(codes, gpt(codes[:, :-1], labels).argmax(-1))


def shares(probabilities, n=20_000, **settings):
    """Shares of the codes in n draws from one row of probabilities."""
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} | settings
    logits = torch.tensor(probabilities).log().expand(n, -1)
    codes = draw(logits, **settings, rng=torch.Generator().manual_seed(0))
    return (torch.bincount(codes, minlength=len(probabilities)) / n).tolist()


@pytest.mark.parametrize(("settings", "expected"), [
    ({}, [0.5, 0.3, 0.15, 0.05]),
    ({"top_k": 2}, [0.625, 0.375, 0, 0]),
    # 0.5 does not reach 0.7, 0.5 + 0.3 does
    ({"top_p": 0.7}, [0.625, 0.375, 0, 0]),
    ({"top_p": 0.45}, [1, 0, 0, 0]),
    ({"top_p": 0.9}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
    ({"temperature": 0.5}, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
    # top_k comes first: 0.5 + 0.3 are 0.84 of what it leaves
    ({"top_k": 3, "top_p": 0.8}, [0.625, 0.375, 0, 0]),
])
def test_draws_follow_the_stated_distribution(settings, expected):
    assert shares([0.5, 0.3, 0.15, 0.05], **settings) == pytest.approx(expected, abs=0.015)


def test_settings_apply_wherever_the_likely_codes_stand():
    found = shares([0.05, 0.3, 0.15, 0.5], top_p=0.7)
    assert found == pytest.approx([0, 0.375, 0, 0.625], abs=0.015)


def test_first_top_p_holds_for_the_first_sixteenth_of_the_codes_only(gpt, monkeypatch):
    seen = []

    def watched_draw(logits, temperature, top_k, top_p, rng):
        seen.append(top_p)
        return draw(logits, temperature, top_k, top_p, rng)

    monkeypatch.setattr(vqlib.gpt, "draw", watched_draw)
    codes = gpt.generate(torch.arange(4), top_p=0.9, first_top_p=0.5)
    assert seen == [0.5] + 15 * [0.9]
    assert not torch.equal(codes, gpt.generate(torch.arange(4), top_p=0.9))
    gpt.generate(torch.arange(4), top_p=0.3, first_top_p=0.5)
    assert seen[-16:] == 16 * [0.3]                              # no looser than the rest


def test_samples_follow_the_models_own_distribution():
    model, n = toy(seed=2), 8000
    nats = model.nats(all_grids(), torch.zeros(16, dtype=torch.long)).sum(1)
    expected = n * (-nats).exp().detach()                        # (16,)
    samples = model.generate(torch.zeros(n, dtype=torch.long))   # (n, 4)
    grid_numbers = (samples * torch.tensor([8, 4, 2, 1])).sum(1)
    observed = torch.bincount(grid_numbers, minlength=16)
    chi_square = float(((observed - expected) ** 2 / expected).sum())
    assert expected.max() > 3 * expected.min()                   # far from uniform
    pairs = list(zip(observed.tolist(), expected.tolist()))
    assert chi_square < 37.7, f"1 in 1,000 by chance: {pairs}"


def test_known_cells_are_kept_and_what_follows_sees_them(gpt, codes, watched):
    known, labels = codes
    keep = torch.zeros(6, 16, dtype=torch.bool)
    keep[:, gpt.generation_order[4:10]] = True
    codes = gpt.generate(labels, known=known, keep=keep, seed=3)
    assert torch.equal(codes[keep], known[keep])
    assert (codes != known).any()
    logits = gpt(in_order(codes)[:, :-1], labels)
    assert torch.allclose(torch.stack(watched, 1), logits, atol=1e-4)
    without = gpt.generate(labels, seed=3)                       # what precedes sees none of them
    assert torch.equal(in_order(codes)[:, :4], in_order(without)[:, :4])


def test_a_mask_of_everything_gives_everything_back(gpt, codes):
    known, labels = codes
    everything = torch.ones(6, 16, dtype=torch.bool)
    assert torch.equal(gpt.generate(labels, known=known, keep=everything), known)


def test_a_growing_grid_shows_the_codes_drawn_so_far_and_ends_as_generate_does(gpt):
    labels, seen = torch.tensor([0, 3]), []
    for t, codes in gpt.growing(labels, guidance=2.0, seed=4):
        drawn = gpt.generation_order[:t]
        assert (codes[:, drawn] >= 0).all()
        assert int((codes >= 0).sum()) == 2 * t
        seen.append(t)
    assert seen == list(range(1, 17))
    assert torch.equal(codes, gpt.generate(labels, guidance=2.0, seed=4))


def test_progress_counts_up_to_all_codes(gpt):
    seen = []
    gpt.generate(torch.tensor([0]), progress=lambda t, T: seen.append((t, T)))
    assert seen == [(t, 16) for t in range(1, 17)]


@pytest.mark.parametrize("settings", [
    {"temperature": 0.0}, {"temperature": -1.0}, {"temperature": math.nan}, {"top_k": -1},
    {"top_k": 17}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_p": math.nan}])
def test_settings_out_of_range_are_refused_by_name(gpt, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        gpt.generate(torch.tensor([0]), **settings)


@pytest.mark.parametrize("settings", [
    {"first_top_p": 0.0}, {"first_top_p": 2.0}, {"first_top_p": math.nan},
    {"guidance": math.nan}, {"guidance": math.inf}, {"temperature": math.inf}])
def test_settings_that_only_some_codes_would_notice_are_refused_by_name(gpt, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        gpt.generate(torch.tensor([0]), **settings)


@pytest.mark.parametrize("label", [-1, 8])
def test_labels_that_no_class_has_are_refused(gpt, label):
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.7"):
        gpt.generate(torch.tensor([0, label]))


def test_inpainting_takes_codes_and_mask_together(gpt, codes):
    x, labels = codes
    for half in ({"known": x}, {"keep": torch.ones(6, 16, dtype=torch.bool)}):
        with pytest.raises(ValueError, match="needs both"):
            gpt.generate(labels, **half)


def test_codes_of_another_grid_are_refused(gpt, codes):
    x, labels = codes
    with pytest.raises(ValueError, match="knows 16 codes an image, got 9"):
        gpt.nats(x[:, :9], labels)
    with pytest.raises(ValueError, match="at most 15 codes of 16"):
        gpt(x, labels)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="128 is no multiple of 6"):
        GPTConfig(heads=6)
    with pytest.raises(ValueError, match="3 kv_heads"):
        GPTConfig(heads=4, kv_heads=3)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_rng_alone():
    cfg = GPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=1)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    a, b, c = (GPT(cfg, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    weights, others = a.state_dict(), b.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert not torch.equal(a.head.weight, c.head.weight)


@pytest.mark.parametrize(("settings", "named"), [
    ({"top_k": 1.5}, "top_k 1.5"), ({"top_k": True}, "top_k True"), ({"seed": 1.5}, "seed 1.5"),
    ({"known": torch.full((1, 16), -1)}, r"0\.\.15, got -1"),
    ({"known": torch.full((1, 16), 99)}, r"0\.\.15, got 99"),
    ({"known": torch.zeros(1, 9).long()}, r"\(1, 16\), got \(1, 9\)"),
    ({"known": torch.zeros(1, 16).long(), "keep": torch.ones(1, 16)}, "bool mask")], ids=str)
def test_settings_of_another_type_and_codes_that_are_none_are_named(gpt, settings, named):
    if "known" in settings:
        settings = {"keep": torch.ones(1, 16, dtype=torch.bool), **settings}
    with pytest.raises(ValueError, match=named):
        gpt.generate(torch.tensor([7]), **settings)


@pytest.mark.parametrize("labels", [torch.tensor([1.5]), torch.zeros(0).long(),
                                    torch.zeros(1, 1).long()], ids=["fractions", "none", "2-d"])
def test_labels_that_are_none_are_named(gpt, labels):
    with pytest.raises(ValueError, match=r"labels must be whole numbers \(B,\)"):
        gpt.generate(labels)
