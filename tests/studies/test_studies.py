"""Laws of the ablation tables: one change per row, alternatives true to their papers, results that resume."""
import json
import math
from dataclasses import asdict, replace

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, loud

from vqlib.gpt import GPT, GPTConfig, coarse_to_fine
from vqlib.presets import PRESETS
from vqlib.quantizer import Quantizer
from vqlib.studies import __main__ as ablations
from vqlib.studies import results
from vqlib.studies.priors import AblatedGPT, build, drawn_around
from vqlib.studies.quantizers import RotationQuantizer, ScalarQuantizer, UnitQuantizer, rotated
from vqlib.studies.rows import PRIOR, VQVAE, LimitRow
from vqlib.train import TrainConfig

CFG = GPTConfig(grid=4, n_codes=16, n_classes=7, width=16, heads=2, layers=2, dropout=0.0)
WHOLE = [row for row in PRIOR if not row.window]
each_prior = pytest.mark.parametrize("row", PRIOR, ids=lambda row: row.key)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prior_row(key):
    return next(row for row in PRIOR if row.key == key)


# rows ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rows", [VQVAE, PRIOR])
def test_a_row_differs_from_the_one_it_is_compared_with_in_one_setting(rows):
    known = {row.key: asdict(row) for row in rows}
    assert len(known) == len(rows)
    for row in rows[1:]:
        a, b = known[row.key], known[row.against]
        assert len([k for k in a if a[k] != b[k] and k not in ("key", "label", "against")]) == 1, row.key


@pytest.mark.parametrize("rows", [VQVAE, PRIOR])
def test_the_path_ends_at_the_library(rows):
    ours = next(row for row in rows if row.key == "ours")
    assert replace(type(ours)("ours", ours.label), against=ours.against) == ours


# quantizers ----------------------------------------------------------------------------------------------------------

def test_every_scalar_code_is_reached_and_comes_back():
    q = ScalarQuantizer(512, 3)
    codes = torch.arange(512).view(2, 16, 16)
    e = q.lookup(codes)
    assert len(e.movedim(1, -1).reshape(-1, 3).unique(dim=0)) == 512
    assert e.min() == -1
    assert e.max() == 0.75                                            # eight levels have no middle
    half, offset = 7 * (1 - 1e-3) / 2, 0.5
    inside = 0.97 * (e * 4 + offset) / half                           # the outermost levels are reached by rounding only
    z = torch.atanh(inside) - math.tan(offset / half)  # the inverse of `bound`
    back = q(z)
    assert torch.equal(back.codes, codes)
    assert torch.allclose(back.e, e)
    assert back.perplexity == pytest.approx(512, rel=1e-4)


def test_scalar_codes_stay_in_range_and_the_gradient_passes_the_rounding():
    q, z = ScalarQuantizer(25, 2), (10 * normal(2, 2, 8, 8)).requires_grad_()
    said = q(z)
    assert 0 <= said.codes.min()
    assert said.codes.max() < 25
    assert torch.allclose(q.lookup(said.codes), said.e)
    said.e.sum().backward()
    wanted = torch.autograd.grad((q.bound(w := z.detach().requires_grad_()) / (q.levels // 2)).sum(), w)[0]
    assert torch.allclose(z.grad, wanted)


@pytest.mark.parametrize("kind", [UnitQuantizer, RotationQuantizer])
def test_an_alternative_takes_the_nearest_code_and_gives_it_unchanged(kind):
    q = kind(16, 6, seed=1)
    q.train()(normal(4, 6, 8, 8))
    said = q.eval()(z := normal(2, 6, 4, 4, seed=2))
    assert torch.allclose(said.e, q.lookup(said.codes), atol=1e-5)
    rows = (F.normalize(z, dim=1) if kind is UnitQuantizer else z).movedim(1, -1).reshape(-1, 6)
    assert torch.equal(said.codes.flatten(), torch.cdist(rows, q.codebook).argmin(1))


def test_unit_codes_keep_their_length_through_start_updates_and_revival():
    q = UnitQuantizer(16, 6, decay=0.5, reset_threshold=0.5)
    for step in range(12):
        assert torch.allclose(q.codebook.norm(dim=1), torch.ones(16), atol=1e-5)
        q.train()(normal(4, 6, 8, 8, seed=step) + (9 if step < 4 else -9))  # then most codes are on the wrong side
    assert q.resets > 0


def test_the_rotation_trick_gives_the_plain_codes_and_trains_the_same_codebook():
    plain, turned = (kind(16, 6, seed=1).train() for kind in (Quantizer, RotationQuantizer))
    for step in range(3):
        a, b = (q(normal(4, 6, 8, 8, seed=step)) for q in (plain, turned))
        assert torch.equal(a.codes, b.codes)
        assert torch.allclose(a.e, b.e, atol=1e-5)
    assert torch.equal(plain.codebook, turned.codebook)


def test_its_gradient_is_turned_and_stretched_like_z():
    z, e, g = normal(1, 3, 1, 1).requires_grad_(), normal(1, 3, 1, 1, seed=1), normal(1, 3, 1, 1, seed=2)
    rotated(z, e).backward(g)
    a, b = (F.normalize(v.detach().flatten(), dim=0) for v in (z, e))
    cross = torch.linalg.cross(a, b)                                  # Rodrigues' formula, in the plane of z and e
    K = torch.linalg.cross(torch.eye(3), cross.expand(3, 3)).T * -1
    R = torch.eye(3) + K + K @ K / (1 + a @ b)
    assert torch.allclose(R @ a, b, atol=1e-5)
    assert torch.allclose(z.grad.flatten(), e.norm() / z.detach().norm() * (R.T @ g.flatten()), atol=1e-5)


@pytest.mark.parametrize("row", VQVAE, ids=lambda row: row.key)
def test_every_vqvae_trains_and_decodes_its_own_codes(row, dataset):
    bench = ablations.VQVAEBench(dataset, TINY, TrainConfig(steps=2, batch=8))
    figures = bench.figures(row, seed=0)
    assert figures["psnr"] > 5
    assert 1 <= figures["codes_used"] <= (27 if row.quantizer == "fsq" else 16)
    model = bench.model(row, 0)
    x = model.normalise(dataset[[0, 1]])
    model.train()(x)
    assert torch.allclose(model.eval()(x)[1].e, model.quantizer.lookup(model(x)[1].codes), atol=1e-5)


# priors --------------------------------------------------------------------------------------------------------------

def test_in_the_librarys_order_the_cells_around_are_those_next_to_it():
    order, around = coarse_to_fine(8)
    mine, dense = drawn_around(order, 8), 16                          # from there on its lattice has step one
    assert torch.equal(mine[dense:], around[dense:])


def test_our_own_row_is_the_librarys_prior(codes):
    x, labels = codes
    mine, theirs = AblatedGPT(CFG, prior_row("ours"), 10, seed=3).eval(), GPT(CFG, seed=3).eval()
    assert torch.equal(mine(x[:, :-1], labels), theirs(x[:, :-1], labels))


@each_prior
def test_a_prior_is_causal_and_gives_each_code_a_probability(row, codes):
    x, labels = codes
    prior = loud(build(row, CFG, 10, seed=0))
    where = torch.arange(16) if row.window else prior.generation_order
    drawn = x[:, where]
    other = drawn.clone()
    other[:, 9:] = (other[:, 9:] + 1) % 16
    a, b = torch.empty_like(drawn), torch.empty_like(drawn)
    a[:, where], b[:, where] = drawn, other
    before, after = (prior.nats(c, labels)[:, where] for c in (a, b))
    assert torch.allclose(before[:, :9], after[:, :9], atol=1e-4)     # what is drawn later changes nothing
    p = 0
    for k in range(16):
        a[:, where[-1]] = k
        p = p + prior.nats(a, labels)[:, where[-1]].neg().exp()       # (6,)
    assert (p < 1).all() if row.window else torch.allclose(p, torch.ones(6), atol=1e-4)  # the window's has two more tokens


@pytest.mark.parametrize("row", WHOLE, ids=lambda row: row.key)
def test_the_cached_sampler_is_the_model_that_was_trained(row, codes):
    prior, labels = loud(build(row, CFG, 10, seed=0)), codes[1]
    drawn = prior.generate(labels, top_k=1)[:, prior.generation_order]
    assert torch.equal(prior(drawn[:, :-1], labels).argmax(-1), drawn)


def test_without_the_codes_around_only_the_last_one_enters():
    around = {key: AblatedGPT(CFG, prior_row(key), 10).around for key in ("positions", "around")}
    assert (around["positions"] == 16).all()
    assert around["around"][5].unique().tolist() == [0, 1, 2, 4, 16]  # one row and one column into a 4 x 4 grid


def test_corruption_touches_training_inputs_only(codes):
    x, labels = codes
    clean, noisy = (AblatedGPT(CFG, prior_row(key), 10) for key in ("ours", "corruption"))
    loud(clean), loud(noisy)
    assert torch.equal(clean.nats(x, labels), noisy.nats(x, labels))
    torch.manual_seed(0)
    assert not torch.equal(clean.train().nats(x, labels), noisy.train().nats(x, labels))


def test_random_orders_give_way_to_raster(codes):
    x, labels = codes
    seen = []
    prior = AblatedGPT(CFG, prior_row("annealed"), updates=8)
    prior.nats = lambda c, y: seen.append(torch.equal(prior.generation_order, prior.raster)) or GPT.nats(prior, c, y)
    for step in range(8):
        prior.loss(x, labels, torch.Generator().manual_seed(step))
    assert seen[:8] == [False] * 8                                    # two groups of images an update
    assert seen[12:] == [True] * 4
    assert torch.equal(prior.generation_order, prior.raster)


# results -------------------------------------------------------------------------------------------------------------

@pytest.fixture
def bench(vqvae, dataset):
    cfg = GPTConfig(grid=4, n_codes=16, n_classes=7, width=8, heads=2, layers=1)
    return ablations.PriorBench(vqvae, dataset, cfg, TrainConfig(steps=2, batch=4, eval_every=2), n_train=12, n_samples=4)


@pytest.mark.parametrize("key", ["window", "ours", "average", "one-view"])
def test_a_prior_row_gives_its_figures(bench, key):
    figures = bench.figures(prior_row(key), seed=0)
    assert 0 < figures["bits"] < 6
    assert ("structure" in figures) == (key in ablations.SAMPLED)


def test_a_result_is_kept_and_not_made_again_until_a_setting_changes(bench, tmp_path):
    row = prior_row("one-view")
    assert ablations.run(bench, row, 0, tmp_path)
    assert not ablations.run(bench, replace(row, label="another name"), 0, tmp_path)
    bench.run = replace(bench.run, steps=1)
    assert ablations.run(bench, row, 0, tmp_path)
    kept = json.loads((tmp_path / "prior-one-view-0.json").read_text())
    assert kept["views"] == 1
    assert kept["sizes"]["updates"] == 1
    assert results.read("prior", tmp_path)["one-view"][0] == kept["figures"]


@pytest.fixture
def folder(tmp_path):
    """Two rows by hand, PSNR 20, 22 and 25, 25 dB."""
    for key, values in {"report": (20, 22), "scaled": (25, 25)}.items():
        for seed, psnr in enumerate(values):
            figures = {"psnr": psnr, "ssim": 0.5, "codes_used": 7, "perplexity": 3.5}
            (tmp_path / f"vqvae-{key}-{seed}.json").write_text(json.dumps({"key": key, "seed": seed, "figures": figures}))
    return tmp_path


def test_a_table_has_means_spreads_and_the_gain_of_each_change(folder):
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in results.table("vqvae", folder).splitlines()]
    assert lines[0][1:3] == ["seeds", "PSNR, dB"]
    assert lines[2][1:4] == ["2", "21.00 ± 1.41", "0.500 ± 0.000"]
    assert lines[2][-2:] == ["", ""]
    assert lines[3][2] == "25.00 ± 0.00"
    assert lines[3][-2:] == ["+4.00 ± 1.41", "report"]
    assert len(lines) == 4


def test_a_figure_shows_each_row_that_has_results(folder):
    fig, ax = plt.subplots()
    results.draw(ax, "vqvae", folder)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["the report's settings", "+ variance scaled right"]
    plt.close(fig)


def test_what_is_committed_is_small_and_has_no_path():
    for path in results.FOLDER.glob("*"):
        assert path.suffix == ".json"
        assert path.stat().st_size < 4096
        assert "/" not in path.read_text()


def test_a_longer_run_of_the_same_vqvae_reconstructs_better(dataset):
    preset = replace(PRESETS["smoke"], vqvae=TINY, vqvae_training=TrainConfig(steps=1, batch=8, lrs=(3e-3,)))
    bench = ablations.LimitBench(preset, dataset)
    short, long = (bench.figures(LimitRow("", "", steps), seed=0) for steps in (10, 120))
    assert short["psnr"] + 1 < long["psnr"]
    assert short["ssim"] < long["ssim"]
