"""Laws of the rows' priors: causal, sampled from as trained, and ours is the library's."""
import pytest
import torch
from conftest import loud

from vqlib.gpt import GPT, GPTConfig, coarse_to_fine
from vqlib.studies.prior_study import ROWS
from vqlib.studies.priors import AblatedGPT, build, generated_neighbours

CFG = GPTConfig(grid=4, n_codes=16, n_classes=7, width=16, heads=2, layers=2, dropout=0.0)
ROW = {row.key: row for row in ROWS}
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
each_whole_grid_row = pytest.mark.parametrize("row", [row for row in ROWS if not row.window],
                                              ids=lambda row: row.key)


def test_in_the_librarys_order_the_neighbours_are_the_cells_beside():
    order, neighbours = coarse_to_fine(8)
    mine, fine = generated_neighbours(order, 8), 16              # then lattices have step 1
    assert torch.equal(mine[fine:], neighbours[fine:])


def test_our_own_row_is_the_librarys_prior(codes):
    x, labels = codes
    mine, theirs = AblatedGPT(CFG, ROW["ours"], 10, seed=3).eval(), GPT(CFG, seed=3).eval()
    assert torch.equal(mine(x[:, :-1], labels), theirs(x[:, :-1], labels))


@each_row
def test_a_prior_is_causal(row, codes):
    x, labels = codes
    prior = loud(build(row, CFG, 10, seed=0))
    order = torch.arange(16) if row.window else prior.generation_order
    other = x.clone()
    other[:, order[9:]] = (other[:, order[9:]] + 1) % 16
    before, after = (prior.nats(c, labels)[:, order] for c in (x, other))
    assert torch.allclose(before[:, :9], after[:, :9], atol=1e-4)  # later codes change nothing


@each_row
def test_a_prior_gives_each_code_a_probability(row, codes):
    x, labels = codes
    prior = loud(build(row, CFG, 10, seed=0))
    last, total = 15 if row.window else int(prior.generation_order[-1]), 0
    for k in range(16):
        x = x.clone()
        x[:, last] = k
        total = total + prior.nats(x, labels)[:, last].neg().exp()              # (6,)
    if row.window:
        assert (total < 1).all()                                 # it has two more tokens
    else:
        assert torch.allclose(total, torch.ones(6), atol=1e-4)


@each_whole_grid_row
def test_the_cached_sampler_is_the_model_that_was_trained(row, codes):
    prior, labels = loud(build(row, CFG, 10, seed=0)), codes[1]
    likeliest = prior.generate(labels, top_k=1)[:, prior.generation_order]
    assert torch.equal(prior(likeliest[:, :-1], labels).argmax(-1), likeliest)


def test_without_neighbours_only_the_last_code_enters():
    alone = AblatedGPT(CFG, ROW["positions"], 10).neighbours
    beside = AblatedGPT(CFG, ROW["neighbours"], 10).neighbours
    assert (alone == 16).all()
    assert beside[5].unique().tolist() == [0, 1, 2, 4, 16]       # second row and column of 4 x 4


def test_corruption_changes_training_inputs_only(codes):
    x, labels = codes
    clean, noisy = (loud(AblatedGPT(CFG, ROW[key], 10)) for key in ("ours", "corruption"))
    assert torch.equal(clean.nats(x, labels), noisy.nats(x, labels))
    torch.manual_seed(0)
    assert not torch.equal(clean.train().nats(x, labels), noisy.train().nats(x, labels))


def test_random_orders_give_way_to_raster(codes):
    x, labels = codes
    was_raster = []
    prior = AblatedGPT(CFG, ROW["annealed"], updates=8)

    def nats(c, y):
        was_raster.append(torch.equal(prior.generation_order, prior.raster))
        return GPT.nats(prior, c, y)

    prior.nats = nats
    for step in range(8):
        prior.loss(x, labels, torch.Generator().manual_seed(step))
    assert was_raster[:8] == [False] * 8                         # two groups of images an update
    assert was_raster[12:] == [True] * 4
    assert torch.equal(prior.generation_order, prior.raster)
