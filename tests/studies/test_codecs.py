"""Laws of what images teach after a codec: all of it after one that loses nothing, less with fewer bytes, and paid for."""
import matplotlib.pyplot as plt
import pytest
import torch

pytest.importorskip("sklearn")

import vqlib.evaluation.features
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import read_synthetic
from vqlib.evaluation import probe
from vqlib.studies import __main__ as ablations
from vqlib.studies import codecs, results
from vqlib.studies.rows import CODEC, CodecRow
from vqlib.train import held_out_nats


def cheap(images, batch=16, device="cpu"):
    """(n, 27): 3 x 3 cells in place of Lite0's features."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 3).flatten(1).cpu()


class Lossless:
    """A VQ-VAE that keeps its images and names them by number."""

    def __init__(self, vqvae):
        self.cfg, self.kept = vqvae.cfg, []

    def encode(self, x):                                              # (B, 3, H, W) -> (B, 4, 4)
        self.kept += x
        return torch.arange(len(self.kept) - len(x), len(self.kept))[:, None, None].expand(-1, 4, 4)

    def decode(self, codes):
        return torch.stack([self.kept[i] for i in codes[:, 0, 0]])


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """400 synthetic images of 16 px: every class is held out several times."""
    return Dataset(read_synthetic(400, 16, seed=0), Geometry(16, 16), cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def teacher(vqvae, gpt, many, monkeypatch):
    for module in (vqlib.evaluation.features, codecs):
        monkeypatch.setattr(module, "features", cheap)
    return codecs.Teacher(many, {"f8": vqvae, "f4": Lossless(vqvae)}, gpt, vqvae)


@pytest.fixture
def lossless(teacher, monkeypatch):
    monkeypatch.setattr(teacher, "bytes", lambda row: 1.0)
    return teacher.figures(CodecRow("", "", "f4"))


def test_images_that_lost_nothing_teach_all_and_are_recognised(lossless):
    assert lossless["teaches"] == lossless["low"] == lossless["high"] == lossless["keeps"] == lossless["recognised"] == 1


def test_a_grey_picture_teaches_nothing(teacher, monkeypatch):
    grey = type("Grey", (), {"decode": lambda self, codes: torch.full((len(codes), 3, 16, 16), 0.5)})()
    monkeypatch.setattr(teacher, "sharp", grey)
    before = probe.macro_auc(teacher.real.probabilities(teacher.held_out[0]), teacher.held_out[1].numpy())
    assert teacher.figures(CodecRow("", "", "f8", look="sharp"))["teaches"] == pytest.approx(0.5 / before)


def test_two_looks_are_learnt_from_together(teacher):
    row = CodecRow("", "", "f8", look="both")
    figures = teacher.figures(row)
    assert set(teacher.seen) == {("f8", None, 0.0, look) for look in ("faithful", "sharp")}
    assert figures["low"] <= figures["teaches"] <= figures["high"]


def test_files_come_near_the_bytes_that_were_asked_for_and_codes_cost_what_the_prior_says(teacher):
    small, large = (teacher.bytes(CodecRow("", "", "jpeg", size)) for size in (30, 200))
    assert small < large
    codes = teacher.vqvaes["f8"].encode(teacher.images).flatten(1)
    nats = held_out_nats(teacher.prior, codes, teacher.held_out[1]).sum(1).mean()
    assert teacher.bytes(CodecRow("", "", "f8")) == pytest.approx(float(nats) / torch.tensor(256.0).log().item(), rel=1e-5)


def test_rows_without_dice_are_run_once(teacher, monkeypatch, tmp_path, capsys):
    bench = ablations.CodecBench(teacher, {"vqvae-f8": "0"})
    monkeypatch.setattr(ablations.CodecBench, "open", lambda data: bench)
    monkeypatch.setitem(ablations.ROWS, "codec", [row for row in CODEC if row.codec == "f8" and not row.share][:2])
    ablations.main(["codec", "--out", str(tmp_path)])
    assert capsys.readouterr().out.count("done") == len(list(tmp_path.iterdir())) == 2
    table, ax = results.table("codec", tmp_path), results.draw_teachers(plt.figure().gca(), tmp_path)
    for row in ablations.ROWS["codec"]:
        kept = results.read("codec", tmp_path)[row.key][0]
        assert row.label in table
        assert (row.label, kept["bytes"], kept["teaches"]) in [(t.get_text(), *t.xy) for t in ax.texts]
    bench.weights = {"vqvae-f8": "1"}                                 # other weights, other results
    assert ablations.run(bench, CODEC[0], 0, tmp_path)
