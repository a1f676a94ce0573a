"""Laws of the EMA vector quantizer."""
import math

import pytest
import torch
import torch.nn.functional as F

from vqlib import quantizer
from vqlib.quantizer import Quantizer, nearest, perplexity


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state(q):
    return {k: v.clone() for k, v in q.state_dict().items()}


def gap(a, b):                                                        # distance of each row of a to the closest of b
    return (a[:, None] - b).abs().amax(-1).amin(1)


def with_codebook(codes, **kwargs):
    codes = torch.tensor(codes)
    q = Quantizer(*codes.shape, data_init=False, **kwargs)
    q.codebook.copy_(codes)
    q.total.copy_(codes)
    return q


@pytest.mark.parametrize("n", [1, 37, 5000])
def test_the_nearest_code_is_that_of_brute_force(n):
    rows, codebook = draw(n, 8), draw(50, 8, seed=1)
    distance = (rows[:, None] - codebook).pow(2).sum(-1)              # (n, K)
    best = distance.amin(1)
    assert torch.allclose(distance.gather(1, nearest(rows, codebook)[:, None])[:, 0], best, atol=1e-5)


def test_each_code_is_nearest_to_itself_also_far_from_the_origin():
    codebook = draw(64, 8) + 100
    assert nearest(codebook, codebook).tolist() == list(range(64))


def test_chunks_do_not_change_the_nearest_code(monkeypatch):
    rows, codebook = draw(100, 4), draw(9, 4, seed=1)
    whole = nearest(rows, codebook)
    monkeypatch.setattr(quantizer, "CHUNK", 7)
    assert torch.equal(nearest(rows, codebook), whole)


def test_codes_and_vectors_stand_at_the_cell_of_their_row():
    q, z = Quantizer(20, 4, data_init=False).eval(), draw(3, 4, 5, 6)
    out = q(z)
    for b, y, x in ((0, 0, 0), (1, 4, 2), (2, 3, 5)):
        k = int((z[b, :, y, x] - q.codebook).pow(2).sum(1).argmin())
        assert out.codes[b, y, x] == k
        assert torch.allclose(out.e[b, :, y, x], q.codebook[k], atol=1e-6)
    assert torch.allclose(out.e, q.lookup(out.codes), atol=1e-6)


def test_evaluation_moves_nothing():
    q = Quantizer(16, 4)
    q.train()(draw(4, 4, 3, 3))
    before = state(q)
    q.eval()(draw(4, 4, 3, 3, seed=9))
    assert all(torch.equal(v, before[k]) for k, v in q.state_dict().items())


def test_an_untrained_quantizer_is_not_placed_by_evaluation():
    q = Quantizer(16, 4).eval()
    before = state(q)
    q(draw(4, 4, 3, 3))
    assert bool(q.waiting)
    assert torch.equal(q.codebook, before["codebook"])


def test_an_unpicked_code_stays_put_without_revival():
    q = with_codebook([[0.0, 0.0], [9.0, 9.0]], reset_threshold=0.0)
    for step in range(3000):                                          # its count decays to 0.99**3000, far below any epsilon
        q.train()(0.1 * draw(2, 2, 3, 3, seed=step))
    assert torch.equal(q.codebook[1], torch.tensor([9.0, 9.0]))
    assert not torch.equal(q.codebook[0], torch.zeros(2))


def test_the_gradient_passes_straight_through():
    q, z = Quantizer(16, 4).eval(), draw(2, 4, 3, 3).requires_grad_()
    weight = draw(2, 4, 3, 3, seed=5)
    (q(z).e * weight).sum().backward()
    assert torch.equal(z.grad, weight)


def test_the_commitment_pulls_the_encoder_and_leaves_the_codebook_alone():
    q, z = Quantizer(16, 4, data_init=False).eval(), draw(2, 4, 3, 3).requires_grad_()
    out = q(z)
    out.commit.backward()
    e = q.lookup(out.codes)
    assert torch.allclose(out.commit, (z - e).pow(2).mean())
    assert torch.allclose(z.grad, 2 * (z - e).detach() / z.numel(), atol=1e-7)
    assert list(q.parameters()) == []


def test_updates_follow_the_formula_of_the_paper():
    K, D, decay = 12, 5, 0.9
    q = Quantizer(K, D, decay, data_init=False, reset_threshold=0.0).train()
    N, m = torch.ones(K).double(), q.codebook.double()                # van den Oord et al., appendix A.1
    codebook = m.clone()
    for step in range(20):
        z = draw(3, D, 4, 4, seed=step)
        rows = z.movedim(1, -1).reshape(-1, D).double()
        one_hot = F.one_hot(torch.cdist(rows, codebook).argmin(1), K).double()
        N = decay * N + (1 - decay) * one_hot.sum(0)
        m = decay * m + (1 - decay) * one_hot.T @ rows
        codebook = m / N[:, None]
        q(z)
    assert torch.allclose(q.count.double(), N, atol=1e-5)
    assert torch.allclose(q.total.double(), m, atol=1e-5)
    assert torch.allclose(q.codebook.double(), codebook, atol=1e-5)


def test_a_batch_is_coded_before_its_own_update():
    q, z = Quantizer(16, 4, data_init=False), draw(4, 4, 3, 3)
    before = q.eval()(z)
    during = q.train()(z)
    assert torch.equal(before.codes, during.codes)
    assert torch.equal(before.e, during.e)
    assert not torch.equal(q.eval()(z).e, during.e)


def test_the_first_batch_places_the_codes_on_its_rows_and_the_second_does_not():
    q, z = Quantizer(16, 4, decay=1.0, reset_threshold=0.0).train(), draw(4, 4, 3, 3)
    rows = z.movedim(1, -1).reshape(-1, 4)
    q(z)
    assert gap(q.codebook, rows).max() < 1e-5
    assert len(q.codebook.unique(dim=0)) == 16                        # on different rows
    placed = q.codebook.clone()
    q(draw(4, 4, 3, 3, seed=1))
    assert torch.allclose(q.codebook, placed, atol=1e-6)


def resets(seed=0):
    q = with_codebook([[0.0, 0.0], [50.0, 50.0], [60.0, 60.0]], reset_threshold=0.02, seed=seed).train()
    for step in range(200):
        z = draw(2, 2, 4, 4, seed=step)
        q(z)
        if q.resets:
            return q, z
    pytest.fail("no code was resets in 200 updates")


def test_a_dead_code_is_revived_with_vector_sum_and_count_together():
    q, z = resets()
    moved = (q.codebook - 0).abs().amax(1) < 10
    rows = z.movedim(1, -1).reshape(-1, 2)
    assert int(q.resets) == 2
    assert moved.tolist() == [True, True, True]
    assert gap(q.codebook[1:], rows).max() < 1e-5
    assert torch.equal(q.count[1:], torch.ones(2))
    assert torch.equal(q.total[1:], q.codebook[1:])
    place = q.codebook.clone()
    q.reset_threshold = 0.0
    q(torch.full((1, 2, 1, 1), -40.0))                                # the next update does not undo the move
    unpicked = nearest(torch.full((1, 2), -40.0), place)[0] != torch.arange(3)
    assert torch.allclose(q.codebook[unpicked], place[unpicked], atol=1e-5)


def test_the_same_seed_revives_onto_the_same_rows_and_another_seed_onto_others():
    a, b, c = (resets(seed)[0].codebook for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_codes_that_die_at_different_updates_go_to_different_rows():
    q, z, places = Quantizer(16, 4, reset_threshold=0.02).train(), draw(4, 4, 8, 8), []
    q(z)
    for _ in range(3):
        q.count[5] = 1e-3                                             # dead
        q.total[5] = 0.1
        q(z)
        places.append(q.codebook[5].clone())
    assert int(q.resets) == 3
    assert len(torch.stack(places).unique(dim=0)) == 3


@pytest.mark.parametrize("cells", [8, 64])
def test_a_revived_code_gets_time_to_be_picked(cells):
    q = Quantizer(32, 4, reset_threshold=0.02).train()                         # 64 x 64 cells: N/K is 512, as in the report
    for step in range(4):
        q(draw(4, 4, cells, cells, seed=step))
    assert int(q.resets) == 0, "new codes were moved again before they had four batches"


def test_no_code_is_dead_when_each_gets_its_share():
    q = Quantizer(8, 4).train()
    z = draw(8, 4, 1, 1)
    for _ in range(300):
        q(z)
    assert int(q.resets) == 0
    assert len(q.eval()(z).codes.unique()) == 8


@pytest.mark.parametrize(("reset_threshold", "least", "most"), [(0.0, 1, 3), (0.02, 32, 32)])
def test_a_codebook_that_starts_far_away_is_used_whole_only_with_revival(reset_threshold, least, most):
    q = Quantizer(32, 4, decay=0.9, data_init=False, reset_threshold=reset_threshold).train()
    q.codebook += 5
    q.total += 5
    z = [draw(8, 4, 4, 4, seed=s) for s in range(20)]
    for step in range(100):
        q(z[step % 20])
    assert least <= len(torch.cat([q.eval()(x).codes.flatten() for x in z]).unique()) <= most


def test_perplexity_is_one_for_one_code_and_K_for_all_alike():
    assert float(perplexity(torch.tensor([0.0, 7.0, 0.0]))) == pytest.approx(1)
    assert float(perplexity(torch.full((12,), 3.0))) == pytest.approx(12)
    assert float(perplexity(torch.tensor([1.0, 1.0, 0.0, 0.0]))) == pytest.approx(2)
    p = torch.tensor([0.5, 0.25, 0.25])
    assert float(perplexity(8 * p)) == pytest.approx(math.exp(float(-(p * p.log()).sum())))


def test_a_batch_reports_the_perplexity_of_its_own_picks():
    q = with_codebook([[0.0, 0.0], [9.0, 9.0], [-9.0, 9.0]]).eval()
    z = torch.tensor([[0.0, 0.0], [9.0, 9.0]]).T.reshape(1, 2, 1, 2)
    assert float(q(z).perplexity) == pytest.approx(2)


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(ValueError, match="takes 4 channels"):
        Quantizer(16, 4)(draw(2, 5, 3, 3))


@pytest.mark.parametrize("z", [torch.ones(3, 4, 2, 2), draw(1, 4, 1, 1)], ids=["all rows equal", "one row per batch"])
def test_fewer_different_rows_than_codes_are_no_problem(z):
    q = Quantizer(16, 4).train()
    for _ in range(300):
        out = q(z)
    assert torch.isfinite(q.codebook).all()
    assert torch.allclose(out.e, z, atol=1e-4)


def test_half_precision_features_are_quantized_in_full_precision():
    q = Quantizer(16, 4).train()
    out = q(draw(4, 4, 3, 3).bfloat16())
    assert q.codebook.dtype == q.count.dtype == out.commit.dtype == torch.float32
    assert not torch.equal(q.codebook, q.codebook.bfloat16().float())
