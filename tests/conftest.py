"""Small seeded things that several test files need; no test writes outside tmp_path."""
import csv
import os
import signal
from dataclasses import replace

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch starts its threads: a core for each process
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

matplotlib.use("Agg")

from vqlib.__main__ import main
from vqlib.checkpoint import save_model
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import read_synthetic
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig
from vqlib.gpt import GPT, GPTConfig
from vqlib.pipeline import Pipeline
from vqlib.presets import PRESETS
from vqlib.train import TrainConfig
from vqlib.vqvae import VQVAE, VQVAEConfig
from vqlib.windowed_gpt import WindowedGPT, WindowedGPTConfig

LONGEST = ("test_notebooks.py", "test_trainer.py", "test_distributed.py", "test_cli.py")


def pytest_configure():
    """A job in the background of a shell ignores Ctrl-C, which some tests send."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process is left alone with one at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


TINY = VQVAEConfig(image_size=16, n_down=2, hidden=8, residual_hidden=4, residual_layers=1,
                   n_codes=16, code_dim=4)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty VQLIB_HOME, no weights that ship, no variable that chooses data or preset."""
    for name in ("VQLIB_DATA", "VQLIB_PRESET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VQLIB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("vqlib.backend.paths.CHECKOUT", tmp_path / "no checkout")
    return tmp_path / "home"


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """90 synthetic images of 16 px in seven classes; read only."""
    cache = tmp_path_factory.mktemp("cache")
    return Dataset(read_synthetic(90, 16, seed=0), Geometry(16, 16), cache=cache)


@pytest.fixture
def vqvae(dataset):
    """A tiny VQ-VAE whose codebook lies where its encoder's outputs are; eval mode."""
    model, images = VQVAE(TINY, seed=0), dataset[np.arange(32)]
    model.quantizer.init_from(model.encoder(model.normalise(images)))
    model.train()(model.normalise(images))
    model.quantizer.step()
    return model.eval()


def loud(model, seed=0):
    """Weights so large that each input matters: a fresh prior is uniform whatever it sees."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() > 1:
                p.copy_(0.4 * torch.randn(p.shape, generator=rng))
    return model.eval()


@pytest.fixture
def gpt():
    return loud(GPT(GPTConfig(grid=4, n_codes=16, n_classes=7, width=16, heads=2, layers=2)))


@pytest.fixture
def pipeline(vqvae, gpt, dataset):
    """Tiny models that work together: 4 x 4 codes of 16, seven classes, a flow decoder."""
    with torch.no_grad():
        vqvae.decoder[-1].weight *= 30  # an untrained decoder paints everything grey
    flow = loud(FlowDecoder(FlowDecoderConfig(code_dim=4, width=8, layers=1, steps=2)))
    return Pipeline(vqvae, Geometry(16, 16), gpt, list(dataset.classes), flow)


METADATA = {"preset": "smoke", "geometry": {"crop": 16, "resize": 16},
            "classes": ["bcc", "mel", "nv"]}


@pytest.fixture
def weights(tmp_path, vqvae):
    """Files of a VQ-VAE and of a prior for it, alone in a folder."""
    with torch.no_grad():
        vqvae.decoder[-1].weight *= 30  # an untrained decoder paints everything grey
    save_model(tmp_path / "w" / "vqvae.safetensors", vqvae, **METADATA)
    gpt = loud(GPT(GPTConfig(grid=4, n_codes=16, n_classes=3, width=16, heads=2, layers=1)))
    save_model(tmp_path / "w" / "prior.safetensors", gpt, **METADATA)
    return tmp_path / "w" / "vqvae.safetensors", tmp_path / "w" / "prior.safetensors"


def arguments(weights):
    return ["--vqvae", str(weights[0]), "--prior", str(weights[1])]


def runs(*args):
    """A command that must succeed."""
    assert main([str(a) for a in args]) == 0


def fails(capsys, *args):
    """The single line on stderr, besides notes, of a command that must exit with 1."""
    assert main([str(a) for a in args]) == 1
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("vqlib: note: ")]
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("vqlib: ")
    assert "Traceback" not in captured.out
    return lines[0]


@pytest.fixture
def windowed():
    return loud(WindowedGPT(WindowedGPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=2)))


@pytest.fixture
def codes():
    """(6, 16) codes of a 4 x 4 grid and (6,) labels."""
    rng = torch.Generator().manual_seed(1)
    return torch.randint(16, (6, 16), generator=rng), torch.arange(6)


@pytest.fixture
def short(monkeypatch):
    """The smoke preset, shortened, so that the training commands take no time."""
    prior = TrainConfig(steps=4, batch=8, eval_every=2, eval_images=8)
    smoke = replace(
        PRESETS["smoke"], geometry=Geometry(16, 16), n_synthetic=40,
        vqvae=TINY, vqvae_training=TrainConfig(steps=4, batch=8),
        prior=GPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=1), prior_training=prior,
        windowed=WindowedGPTConfig(grid=4, n_codes=16, width=16, heads=2, layers=1),
        windowed_training=prior,
        flow_decoder=FlowDecoderConfig(code_dim=4, width=8, layers=1, steps=2),
        flow_decoder_training=TrainConfig(steps=4, batch=8))
    monkeypatch.setitem(PRESETS, "smoke", smoke)


def picture(seed, size=(48, 40)):
    """A smooth random RGB photograph; two seeds give pictures that no perceptual hash confuses."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC)


def write_table(path, rows):
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def ham(tmp_path):
    """(folder, rows of its table) like HAM10000: 40 JPEGs in two folders, two per lesion."""
    root, rows = tmp_path / "ham", []
    for i in range(40):
        part = root / f"HAM10000_images_part_{1 + i // 20}"
        part.mkdir(parents=True, exist_ok=True)
        picture(i).save(part / f"ISIC_{i:07d}.jpg", quality=95)
        rows.append({"lesion_id": f"HAM_{i // 2:07d}", "image_id": f"ISIC_{i:07d}",
                     "dx": ("nv", "mel", "bcc")[i // 2 % 3], "dx_type": "histo", "age": 50,
                     "sex": "female", "localization": "back"})
    write_table(root / "HAM10000_metadata.csv", rows)
    return root, rows


SIZES = {"train": 20, "val": 5, "test": 5}


@pytest.fixture
def npz(tmp_path):
    """A MedMNIST archive of 20 + 5 + 5 dermoscopic images of 28 px."""
    rng, path, arrays = np.random.default_rng(0), tmp_path / "dermamnist.npz", {}
    for split, n in SIZES.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, 28, 28, 3), dtype=np.uint8)
    for split, n in SIZES.items():
        arrays[f"{split}_labels"] = np.arange(n)[:, None] % 7
    np.savez(path, **arrays)
    return path
