"""Laws of finishing a decoder: it alone moves, it moves towards the images of thrifty codes, and a stopped run goes on."""
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import loud

from vqlib.data.augment import dihedral
from vqlib.entropy_constrained import EntropyConstrainedEncoder
from vqlib.finishing import SHARES, train_decoder, ways_to_code
from vqlib.gpt import GPT, GPTConfig
from vqlib.train import TrainConfig, read_log

RUN = TrainConfig(steps=30, batch=8, lrs=(3e-3,), save_every=15)
VIEWS = (0, 4)


@pytest.fixture
def guided(vqvae):
    return EntropyConstrainedEncoder(vqvae, loud(GPT(GPTConfig(grid=4, n_codes=16, n_classes=7, width=16, heads=2, layers=1))), 0.1)


def finished(guided, dataset, run=RUN, folder=None, stop=None, accumulate=1):
    codes, views = ways_to_code(guided, dataset, VIEWS)
    for step, _ in train_decoder(guided.vqvae, dataset, codes, views, run, folder, accumulate):
        if step == stop:
            break
    return {k: v.clone() for k, v in guided.vqvae.state_dict().items()}


def test_codes_come_from_every_share_of_the_rate_in_every_view(guided, dataset):
    codes, views = ways_to_code(guided, dataset, VIEWS)
    rows = dataset.splits["train"]
    assert codes.shape == (len(rows), len(SHARES) * 2, 16)
    assert views == [0, 4] * len(SHARES)
    mirrored = dihedral(dataset[rows], 4)
    assert torch.equal(codes[:, 1].long(), guided.vqvae.encode(mirrored).flatten(1))
    assert torch.equal(codes[:, -1].long(), guided.encode(mirrored).flatten(1))
    assert not torch.equal(codes[:, 1], codes[:, -1])


def test_encoder_and_codebook_stay_and_the_decoder_moves(guided, dataset):
    before = {k: v.clone() for k, v in guided.vqvae.state_dict().items()}
    after = finished(guided, dataset)
    moved = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert moved == {"decoder"}
    assert all(p.requires_grad for p in guided.vqvae.parameters())


def test_pictures_of_thrifty_codes_come_nearer_to_held_out_images(guided, dataset):
    x = dataset[dataset.splits["validation"]]
    codes = guided.encode(x)
    before = F.mse_loss(guided.vqvae.decode(codes), x)
    finished(guided, dataset, replace(RUN, steps=120))
    assert F.mse_loss(guided.vqvae.decode(codes), x) < 0.9 * before


def test_a_picture_is_compared_with_the_view_that_its_codes_show(guided, dataset, monkeypatch):
    """With codes that say which image and view they are, each batch must hold just those."""
    rows, seen = dataset.splits["train"], []
    codes = (torch.arange(len(rows))[:, None, None] * 2 + torch.arange(2)[None, :, None]).repeat(1, 1, 16)
    monkeypatch.setattr(guided.vqvae.quantizer, "lookup", lambda c: seen.append(c[:, 0, 0]) or torch.zeros(len(c), 4, 4, 4))
    monkeypatch.setattr(guided.vqvae, "normalise", lambda x: seen.append(x) or x)
    for _ in train_decoder(guided.vqvae, dataset, codes, [0, 4], replace(RUN, steps=3)):
        which, images = seen[-2:]
        for k, image in zip(which.tolist(), images):
            assert torch.equal(image, dihedral(dataset[np.array([rows[k // 2]])][0], (0, 4)[k % 2]))
    assert {k % 2 for part in seen[::2] for k in part.tolist()} == {0, 1}


def test_a_stopped_run_goes_on_to_the_same_end(guided, dataset, tmp_path):
    start = {k: v.clone() for k, v in guided.vqvae.state_dict().items()}
    whole = finished(guided, dataset, folder=tmp_path / "whole")
    guided.vqvae.load_state_dict(start)
    finished(guided, dataset, folder=tmp_path / "cut", stop=20)
    guided.vqvae.load_state_dict(start)
    again = finished(guided, dataset, folder=tmp_path / "cut")
    assert all(torch.equal(whole[k], again[k]) for k in whole)
    assert read_log(tmp_path / "whole") == read_log(tmp_path / "cut")


def test_several_passes_are_one(guided, dataset):
    start = {k: v.clone() for k, v in guided.vqvae.state_dict().items()}
    one = finished(guided, dataset)
    guided.vqvae.load_state_dict(start)
    four = finished(guided, dataset, accumulate=4)
    assert all(torch.allclose(one[k], four[k], atol=1e-5) for k in one)
