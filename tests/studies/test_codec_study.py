"""Laws of CAS after a codec: 1 if nothing was lost, chance if everything was; bytes are counted."""
import matplotlib.pyplot as plt
import pytest
import torch

pytest.importorskip("sklearn")

import vqlib.evaluation.features
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import read_synthetic
from vqlib.evaluation import probe
from vqlib.studies import __main__ as command
from vqlib.studies import codec_study, results
from vqlib.studies.codec_study import CodecRow, CodecStudy
from vqlib.studies.runner import run
from vqlib.train import held_out_nats

F8, F8_FLOW, F8_BOTH, F4 = CodecStudy.rows[:4]


def small_features(images, batch=16, device="cpu"):
    """(n, 27): 3 x 3 cells in place of Lite0's features."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 3).flatten(1).cpu()


class Lossless:
    """A VQ-VAE that keeps its images and uses their numbers as codes."""

    def __init__(self, vqvae):
        self.cfg, self.kept = vqvae.cfg, []

    def encode(self, x):                                         # (B, 3, H, W) -> (B, 4, 4)
        self.kept += x
        numbers = torch.arange(len(self.kept) - len(x), len(self.kept))
        return numbers[:, None, None].expand(-1, 4, 4)

    def decode(self, codes):
        return torch.stack([self.kept[i] for i in codes[:, 0, 0]])


class Grey:
    """A decoder that loses everything."""

    def decode(self, codes):
        return torch.full((len(codes), 3, 16, 16), 0.5)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """400 synthetic images of 16 px: every class is held out several times."""
    cache = tmp_path_factory.mktemp("cache")
    return Dataset(read_synthetic(400, 16, seed=0), Geometry(16, 16), cache=cache)


@pytest.fixture
def study(vqvae, gpt, many, monkeypatch):
    for module in (vqlib.evaluation.features, codec_study):
        monkeypatch.setattr(module, "features", small_features)
    monkeypatch.setattr(vqlib.evaluation.features, "NAME", "small")  # kept beside the data
    monkeypatch.setattr(codec_study, "RESAMPLES", 20)            # 200 take most of the time
    return CodecStudy(many, {"f8": vqvae, "f4": Lossless(vqvae)}, gpt, vqvae, {"vqvae-f8": "0"})


def test_images_that_lost_nothing_have_the_scores_of_photographs(study, monkeypatch):
    monkeypatch.setattr(study, "bytes_per_image", lambda row, codes: 1.0)
    measured = study.measure(F4, 0)
    assert measured["cas"] == measured["cas_low"] == measured["cas_high"] == 1
    assert measured["cas_on_reconstructions"] == measured["recall_ratio"] == 1


def test_held_out_images_are_encoded_once(study, monkeypatch):
    monkeypatch.setattr(study, "bytes_per_image", lambda row, codes: 1.0)
    study.measure(F4, 0)
    assert len(study.vqvaes["f4"].kept) == len(study.train_labels) + len(study.images)


def test_after_grey_images_the_probe_guesses(study):
    study.flow_decoder = Grey()
    features, labels = study.held_out
    real = probe.macro_auc(study.real_probe.probabilities(features), labels.numpy())
    assert study.measure(F8_FLOW, 0)["cas"] == pytest.approx(0.5 / real)


def test_with_both_decoders_the_probe_learns_from_both(study):
    measured = study.measure(F8_BOTH, 0)
    assert {*study.train_features} == {("f8", None, name) for name in ("least-squares", "flow")}
    assert measured["cas_low"] <= measured["cas"] <= measured["cas_high"]


def test_files_come_near_their_size_and_codes_cost_what_the_prior_says(study):
    rows = [CodecRow("", "", "jpeg", size) for size in (30, 200)]
    small, large = (study.bytes_per_image(row, study.store(row, study.images)) for row in rows)
    assert small < large
    codes = study.vqvaes["f8"].encode(study.images).flatten(1)
    nats = held_out_nats(study.prior, codes, study.held_out[1]).sum(1).mean()
    in_bytes = float(nats) / torch.tensor(256.0).log().item()
    stored = study.store(F8, study.images)
    assert study.bytes_per_image(F8, stored) == pytest.approx(in_bytes, rel=1e-5)


def test_rows_without_randomness_are_run_under_one_seed(study, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(CodecStudy, "open", lambda data: study)
    monkeypatch.setattr(CodecStudy, "rows", [F8, F8_FLOW])
    command.main(["codec", "--out", str(tmp_path)])
    assert capsys.readouterr().out.count("done") == len(list(tmp_path.iterdir())) == 2
    study.weights = {"vqvae-f8": "1"}                            # other weights, other results
    assert run(study, F8, 0, tmp_path)


def test_table_and_figure_show_each_row_that_has_a_result(study, monkeypatch, tmp_path):
    monkeypatch.setattr(CodecStudy, "rows", [F8, F8_FLOW])
    for row in CodecStudy.rows:
        run(study, row, 0, tmp_path)
    table = results.table("codec", tmp_path)
    fig, ax = plt.subplots()
    results.draw_cas(ax, tmp_path)
    for row in CodecStudy.rows:
        kept = results.read("codec", tmp_path)[row.key][0]
        assert row.label in table
        assert (row.label, kept["bytes"], kept["cas"]) in [(t.get_text(), *t.xy) for t in ax.texts]
    plt.close(fig)
