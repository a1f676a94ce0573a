"""Laws of the quantizer: nearest code, moving averages, dead-code reset, one step per update."""
import math

import pytest
import torch
import torch.nn.functional as F

from vqlib import quantizer
from vqlib.quantizer import Quantizer, as_rows, nearest, perplexity

AVERAGES = ("codebook", "ema_count", "ema_sum")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state(q):
    """All that the quantizer keeps, and what it has collected since the last step."""
    collected = {"count": q.count, "sum": q.sum, "passes": torch.tensor(q.passes)}
    collected |= {f"rows {i}": rows for i, rows in enumerate(q.rows)}
    return {name: x.clone() for name, x in (q.state_dict() | collected).items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def distance_to_closest(a, b):                                   # (n, D), (m, D) -> (n,)
    return (a[:, None] - b).abs().amax(-1).amin(1)


def with_codebook(codes, **kwargs):
    codes = torch.tensor(codes)
    q = Quantizer(*codes.shape, **kwargs)
    q.codebook.copy_(codes)
    q.ema_sum.copy_(codes)
    return q


def on_data(n_codes, z, **kwargs):
    """A quantizer in training mode whose codes lie on rows of z, as at the start of a training."""
    q = Quantizer(n_codes, z.shape[1], **kwargs).train()
    q.init_from(z)
    return q


def update(q, *parts):
    """Forward passes in training mode and the step after them: outputs of the last, perplexity."""
    q.train()
    for z in parts:
        out = q(z)
    return out, q.step()


# nearest code -------------------------------------------------------------------------------------

@pytest.mark.parametrize("n", [1, 37, 5000])
def test_the_nearest_code_is_that_of_brute_force(n):
    rows, codebook = draw(n, 8), draw(50, 8, seed=1)
    distance = (rows[:, None] - codebook).pow(2).sum(-1)         # (n, K)
    found = distance.gather(1, nearest(rows, codebook)[:, None])[:, 0]
    assert torch.allclose(found, distance.amin(1), atol=1e-5)


def test_each_code_is_nearest_to_itself_also_far_from_the_origin():
    codebook = draw(64, 8) + 100
    assert nearest(codebook, codebook).tolist() == list(range(64))


def test_chunks_do_not_change_the_nearest_code(monkeypatch):
    rows, codebook = draw(100, 4), draw(9, 4, seed=1)
    whole = nearest(rows, codebook)
    monkeypatch.setattr(quantizer, "CHUNK", 7)
    assert torch.equal(nearest(rows, codebook), whole)


def test_codes_and_vectors_stand_at_the_cell_of_their_row():
    q, z = Quantizer(20, 4).eval(), draw(3, 4, 5, 6)
    out = q(z)
    for b, y, x in ((0, 0, 0), (1, 4, 2), (2, 3, 5)):
        k = int((z[b, :, y, x] - q.codebook).pow(2).sum(1).argmin())
        assert out.codes[b, y, x] == k
        assert torch.allclose(out.e[b, :, y, x], q.codebook[k], atol=1e-6)
    assert torch.allclose(out.e, q.lookup(out.codes), atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_encoding_finds_the_codes_of_the_forward_pass(training):
    q, z = Quantizer(20, 4).train(training), draw(3, 4, 5, 6)
    for some in (z, z.contiguous(memory_format=torch.channels_last), z.bfloat16()):
        assert torch.equal(q.encode(some), q(some).codes)


def test_encoding_under_autocast_finds_the_codes_of_the_forward_pass():
    q, z = Quantizer(64, 16).eval(), draw(4, 16, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(q.encode(z), q(z).codes)


@pytest.mark.parametrize("training", [True, False])
def test_encoding_moves_and_collects_nothing(training):
    q, z = Quantizer(16, 4).train(), draw(4, 4, 3, 3)
    q(z)                                                         # a pass waits for its step
    before = state(q)
    q.train(training).encode(draw(4, 4, 3, 3, seed=9))
    assert same(state(q), before)
    assert q.training == training


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="takes 4 channels"):
        Quantizer(16, 4)(draw(2, 5, 3, 3))
    with pytest.raises(ValueError, match="takes 4 channels"):
        Quantizer(16, 4).encode(draw(2, 5, 3, 3))


# gradients ----------------------------------------------------------------------------------------

def test_the_gradient_passes_straight_through():
    q, z = Quantizer(16, 4).eval(), draw(2, 4, 3, 3).requires_grad_()
    weight = draw(2, 4, 3, 3, seed=5)
    (q(z).e * weight).sum().backward()
    assert torch.equal(z.grad, weight)


def test_the_commitment_pulls_the_encoder_and_leaves_the_codebook_alone():
    q, z = Quantizer(16, 4).eval(), draw(2, 4, 3, 3).requires_grad_()
    out = q(z)
    out.commit.backward()
    e = q.lookup(out.codes)
    assert torch.allclose(out.commit, (z - e).pow(2).mean())
    assert torch.allclose(z.grad, 2 * (z - e).detach() / z.numel(), atol=1e-7)
    assert list(q.parameters()) == []


# moving averages ----------------------------------------------------------------------------------

def test_steps_follow_the_formula_of_the_paper():
    K, D, decay = 12, 5, 0.9
    q = Quantizer(K, D, decay, reset_threshold=0.0)
    N, m = torch.ones(K).double(), q.codebook.double()           # van den Oord et al., appendix A.1
    codebook = m.clone()
    for step in range(20):
        z = draw(3, D, 4, 4, seed=step)
        rows = z.movedim(1, -1).reshape(-1, D).double()
        one_hot = F.one_hot(torch.cdist(rows, codebook).argmin(1), K).double()
        N = decay * N + (1 - decay) * one_hot.sum(0)
        m = decay * m + (1 - decay) * one_hot.T @ rows
        codebook = m / N[:, None]
        update(q, z)
    assert torch.allclose(q.ema_count.double(), N, atol=1e-5)
    assert torch.allclose(q.ema_sum.double(), m, atol=1e-5)
    assert torch.allclose(q.codebook.double(), codebook, atol=1e-5)


def test_a_forward_pass_leaves_the_codebook_as_it_is_until_the_step():
    q, z = Quantizer(16, 4), draw(4, 4, 3, 3)
    before, averages = q.eval()(z), {name: q.state_dict()[name].clone() for name in AVERAGES}
    during = q.train()(z)
    assert torch.equal(before.codes, during.codes)
    assert torch.equal(before.e, during.e)
    assert all(torch.equal(q.state_dict()[name], averages[name]) for name in AVERAGES)
    q.step()
    assert not torch.equal(q.eval()(z).e, during.e)


def test_evaluation_moves_and_collects_nothing():
    q = Quantizer(16, 4)
    update(q, draw(4, 4, 3, 3))
    before = state(q)
    q.eval()(draw(4, 4, 3, 3, seed=9))
    assert same(state(q), before)


def test_evaluation_between_a_forward_pass_and_its_step_changes_nothing():
    plain, evaluated = Quantizer(16, 4).train(), Quantizer(16, 4).train()
    z = draw(4, 4, 3, 3)
    plain(z)
    evaluated(z)
    evaluated.eval()(draw(4, 4, 3, 3, seed=9))
    evaluated.train()
    assert torch.equal(plain.step(), evaluated.step())
    assert same(state(plain), state(evaluated))


def test_an_unpicked_code_stays_put_without_resets():
    q = with_codebook([[0.0, 0.0], [9.0, 9.0]], reset_threshold=0.0)
    for step in range(3000):                                     # its count decays to 0.99**3000,
        update(q, 0.1 * draw(2, 2, 3, 3, seed=step))             # far below any epsilon
    assert torch.equal(q.codebook[1], torch.tensor([9.0, 9.0]))
    assert not torch.equal(q.codebook[0], torch.zeros(2))


def test_half_precision_features_are_quantized_in_full_precision():
    q, z = Quantizer(16, 4), draw(4, 4, 3, 3).bfloat16()
    q.init_from(z)
    out, _ = update(q, z)
    assert q.codebook.dtype == q.ema_count.dtype == out.commit.dtype == torch.float32
    assert not torch.equal(q.codebook, q.codebook.bfloat16().float())


# one step after several passes --------------------------------------------------------------------

@pytest.mark.parametrize("reset_threshold", [0.0, 0.5])
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_several_passes_and_a_step_are_one_pass_of_the_whole_batch(parts, reset_threshold):
    settings = {"decay": 0.5, "reset_threshold": reset_threshold}
    codebook = draw(16, 4)
    codebook[:3] += 50                                           # three codes that nothing picks
    whole, divided = (with_codebook(codebook.tolist(), **settings) for _ in range(2))
    for step in range(6):
        z = draw(8, 4, 3, 3, seed=step)
        _, expected = update(whole, z)
        _, found = update(divided, *z.chunk(parts))
        assert found == pytest.approx(float(expected))
    assert torch.allclose(divided.ema_count, whole.ema_count, atol=1e-6)
    assert torch.allclose(divided.ema_sum, whole.ema_sum, atol=1e-5)
    assert torch.allclose(divided.codebook, whole.codebook, atol=1e-5)
    assert int(divided.resets) == int(whole.resets)
    assert (int(whole.resets) >= 3) == bool(reset_threshold)
    assert divided.steps == whole.steps == 6


def test_passes_are_collected_until_the_step_and_then_forgotten():
    q, z = Quantizer(16, 4).train(), draw(8, 4, 3, 3)
    for part in z.chunk(4):
        q(part)
    codes = q.encode(z).flatten()
    sums = torch.zeros(16, 4).index_add_(0, codes, as_rows(z))
    assert torch.equal(q.count, torch.bincount(codes, minlength=16).float())
    assert torch.allclose(q.sum, sums, atol=1e-5)
    assert torch.equal(torch.cat(q.rows), as_rows(z))
    assert q.passes == 4
    q.step()
    assert q.passes == len(q.rows) == 0
    assert not q.count.any()
    assert not q.sum.any()


def test_without_resets_no_rows_are_kept():
    q = Quantizer(16, 4, reset_threshold=0.0).train()
    q(draw(8, 4, 3, 3))
    assert q.rows == []


def test_a_step_without_a_forward_pass_in_training_mode_is_refused():
    q, z = Quantizer(16, 4), draw(4, 4, 3, 3)
    before = state(q)
    with pytest.raises(RuntimeError, match="without a forward pass"):
        q.step()
    q.eval()(z)
    q.train().encode(z)
    q.init_from(z)
    with pytest.raises(RuntimeError, match="without a forward pass"):
        q.step()                                                 # none of these is one
    assert q.steps == 0
    assert torch.equal(q.count, before["count"])
    update(q, z)
    with pytest.raises(RuntimeError, match="without a forward pass"):
        q.step()                                                 # the pass belongs to the last step
    assert q.steps == 1


def test_a_step_returns_the_perplexity_of_all_codes_since_the_last():
    q = with_codebook([[0.0, 0.0], [9.0, 9.0], [-9.0, 9.0]])
    both = torch.tensor([[0.0, 0.0], [9.0, 9.0]]).T.reshape(1, 2, 1, 2)
    third = torch.tensor([[-9.0, 9.0], [-9.0, 9.0]]).T.reshape(1, 2, 1, 2)
    assert float(update(q, both)[1]) == pytest.approx(2)
    assert float(update(q, third)[1]) == pytest.approx(1)        # not of the step before, too
    quarters = torch.tensor([0.25, 0.25, 0.5])
    assert float(update(q, both, third)[1]) == pytest.approx(float(perplexity(quarters)))


def test_a_saved_quantizer_goes_on_as_the_one_that_was_saved():
    settings = {"decay": 0.3, "reset_threshold": 0.5}            # some codes die at most steps
    q, other = on_data(16, draw(4, 4, 3, 3), **settings), Quantizer(16, 4, **settings)
    for step in range(5):
        update(q, draw(4, 4, 3, 3, seed=step))
    other.train()(draw(4, 4, 3, 3, seed=20))                     # belongs to no step of q's
    other.load_state_dict({name: x.clone() for name, x in q.state_dict().items()})
    assert other.steps == q.steps == 5
    assert other.passes == 0
    before = int(q.resets)
    for step in range(5, 10):
        z = draw(4, 4, 3, 3, seed=step)
        assert torch.equal(update(q, z)[1], update(other, z)[1])
    assert int(q.resets) > before                                # dead codes go to the same rows
    assert same(state(q), state(other))


# where codes start --------------------------------------------------------------------------------

def test_init_places_the_codes_on_different_rows_and_later_batches_do_not():
    q, z = Quantizer(16, 4, decay=1.0, reset_threshold=0.0), draw(4, 4, 3, 3)
    q.init_from(z)
    placed = q.codebook.clone()
    assert distance_to_closest(placed, as_rows(z)).max() < 1e-5
    assert len(placed.unique(dim=0)) == 16                       # on different rows
    assert torch.equal(q.ema_sum, placed)                        # or the step would undo it
    assert torch.equal(q.ema_count, torch.ones(16))
    assert int(q.resets) == q.steps == 0
    for seed in (0, 1):
        update(q, draw(4, 4, 3, 3, seed=seed))
        assert torch.allclose(q.codebook, placed, atol=1e-6)


def test_an_untrained_quantizer_is_not_placed_by_forward_passes():
    q = Quantizer(16, 4).eval()
    before = q.codebook.clone()
    q(draw(4, 4, 3, 3))
    q.train()(draw(4, 4, 3, 3))
    assert q.steps == 0
    assert torch.equal(q.codebook, before)


def test_the_same_seed_places_codes_on_the_same_rows_and_another_seed_on_others():
    z = draw(4, 4, 8, 8)
    a, b, c = (on_data(16, z, seed=seed).codebook for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("z", [torch.ones(3, 4, 2, 2), draw(1, 4, 1, 1)],
                         ids=["all rows equal", "one row per batch"])
def test_fewer_different_rows_than_codes_are_no_problem(z):
    q = on_data(16, z)
    for _ in range(300):
        out, _ = update(q, z)
    assert torch.isfinite(q.codebook).all()
    assert torch.allclose(out.e, z, atol=1e-4)


# dead codes ---------------------------------------------------------------------------------------

def after_a_reset(seed=0):
    """A quantizer whose two far codes were just reset, and the batch of that step."""
    far_codes = [[0.0, 0.0], [50.0, 50.0], [60.0, 60.0]]
    q = with_codebook(far_codes, reset_threshold=0.02, seed=seed)
    for step in range(200):
        z = draw(2, 2, 4, 4, seed=step)
        update(q, z)
        if q.resets:
            return q, z
    pytest.fail("no code was reset in 200 updates")


def test_a_dead_code_is_reset_with_vector_sum_and_count_together():
    q, z = after_a_reset()
    near = q.codebook.abs().amax(1) < 10
    assert int(q.resets) == 2
    assert near.tolist() == [True, True, True]
    assert distance_to_closest(q.codebook[1:], as_rows(z)).max() < 1e-5
    assert torch.equal(q.ema_count[1:], torch.ones(2))
    assert torch.equal(q.ema_sum[1:], q.codebook[1:])
    placed = q.codebook.clone()
    q.reset_threshold = 0.0
    far = torch.full((1, 2, 1, 1), -40.0)
    unpicked = torch.arange(3) != nearest(as_rows(far), placed)[0]
    update(q, far)                                               # does not undo the move
    assert torch.allclose(q.codebook[unpicked], placed[unpicked], atol=1e-5)


def test_the_same_seed_resets_to_the_same_rows_and_another_seed_to_others():
    a, b, c = (after_a_reset(seed)[0].codebook for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_codes_that_die_at_different_steps_go_to_different_rows():
    z, places = draw(4, 4, 8, 8), []
    q = on_data(16, z, reset_threshold=0.02)
    update(q, z)
    for _ in range(3):
        q.ema_count[5] = 1e-3                                    # dead
        q.ema_sum[5] = 0.1
        update(q, z)
        places.append(q.codebook[5].clone())
    assert int(q.resets) == 3
    assert len(torch.stack(places).unique(dim=0)) == 3


@pytest.mark.parametrize("cells", [8, 64])                       # 64: N/K is 512, as in the report
def test_a_reset_code_gets_time_to_be_picked(cells):
    batches = [draw(4, 4, cells, cells, seed=step) for step in range(4)]
    q = on_data(32, batches[0], reset_threshold=0.02)
    for z in batches:
        update(q, z)
    assert int(q.resets) == 0, "new codes were moved again before they had four batches"


def test_no_code_is_dead_when_each_gets_its_share():
    z = draw(8, 4, 1, 1)
    q = on_data(8, z)
    for _ in range(300):
        update(q, z)
    assert int(q.resets) == 0
    assert len(q.eval()(z).codes.unique()) == 8


@pytest.mark.parametrize(("reset_threshold", "least", "most"), [(0.0, 1, 3), (0.02, 32, 32)])
def test_a_codebook_that_starts_far_away_is_used_whole_only_with_resets(reset_threshold, least,
                                                                        most):
    q = Quantizer(32, 4, decay=0.9, reset_threshold=reset_threshold)
    q.codebook += 5
    q.ema_sum += 5
    batches = [draw(8, 4, 4, 4, seed=seed) for seed in range(20)]
    for step in range(100):
        update(q, batches[step % 20])
    used = torch.cat([q.encode(z).flatten() for z in batches]).unique()
    assert least <= len(used) <= most


# perplexity ---------------------------------------------------------------------------------------

def test_perplexity_is_one_for_one_code_and_K_for_all_alike():
    assert float(perplexity(torch.tensor([0.0, 7.0, 0.0]))) == pytest.approx(1)
    assert float(perplexity(torch.full((12,), 3.0))) == pytest.approx(12)
    assert float(perplexity(torch.tensor([1.0, 1.0, 0.0, 0.0]))) == pytest.approx(2)
    p = torch.tensor([0.5, 0.25, 0.25])
    entropy = float(-(p * p.log()).sum())
    assert float(perplexity(8 * p)) == pytest.approx(math.exp(entropy))
