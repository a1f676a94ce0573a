"""Laws of the VQ-VAE study: each row trains and decodes what it encodes."""
import pytest
import torch
from conftest import TINY

from vqlib.studies.vqvae_study import ROWS, VQVAEStudy
from vqlib.train import TrainConfig


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_every_row_trains_and_decodes_its_own_codes(row, dataset):
    study = VQVAEStudy(dataset, TINY, TrainConfig(steps=2, batch=8))
    measured = study.measure(row, seed=0)
    assert measured["psnr"] > 5
    assert 1 <= measured["codes_used"] <= (27 if row.quantizer == "fsq" else 16)
    model = study.model(row, 0)
    x = model.normalise(dataset[[0, 1]])
    model.train()(x)
    quantized = model.eval()(x)[1]
    assert torch.allclose(quantized.e, model.quantizer.lookup(quantized.codes), atol=1e-5)
