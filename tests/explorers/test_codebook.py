"""Laws of the codebook explorer: counts are counts, and no map of another codebook is shown."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from vqlib.explorers import codebook
from vqlib.explorers.codebook import CodebookExplorer, pca, umap_file, unit_square, usage


def last(explorer, **request):
    return [reply for reply in explorer.answer(request) if reply][-1]


def test_usage_counts_each_code_of_each_class():
    codes = torch.tensor([[0, 0, 2], [1, 2, 2], [0, 1, 1]])
    assert usage(codes, [0, 1, 0], 2, 4).tolist() == [[3, 2, 1, 0], [0, 1, 2, 0]]


def test_counts_and_images_are_those_given(pipeline, dataset):
    rows = dataset.splits["test"]
    x, labels = dataset[rows], dataset.labels[rows]
    found = last(CodebookExplorer(pipeline, x, labels, dataset.classes), do="open")
    codes = pipeline.encode(x).flatten(1)
    assert [image["codes"] for image in found["images"]] == codes.tolist()
    assert [image["label"] for image in found["images"]] == [dataset.classes[k] for k in labels]
    assert np.array_equal(np.sum(found["usage"], 0), torch.bincount(codes.flatten(), minlength=16))


def test_without_photographs_the_prior_draws_images_of_every_class(pipeline):
    found = CodebookExplorer(pipeline).opened()
    labels = [image["label"] for image in found["images"]]
    assert {labels.count(name) for name in pipeline.classes} == {6}
    assert "samples of the prior" in found["note"]


def test_without_a_prior_lesions_are_painted(pipeline):
    found = CodebookExplorer(replace(pipeline, gpt=None, classes=[])).opened()
    assert len(found["images"]) == 24
    assert np.sum(found["usage"]) == 24 * 16


def test_a_map_keeps_its_proportions_in_the_unit_square():
    points = np.random.default_rng(0).normal(size=(20, 2)) * [5, 1]
    found = np.array(unit_square(points))
    assert found.min() >= 0
    assert found.max() <= 1
    before, after = (np.linalg.norm(p[0] - p[1:], axis=1) for p in (points, found))
    assert np.allclose(after / before, (after / before)[0], atol=1e-2)


def test_pca_is_the_plane_of_largest_variance():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 6)) * [9, 5, 1, 1, 1, 1]
    assert np.allclose(pca(vectors).var(0).sum(),
                       np.sort(np.linalg.eigvalsh(np.cov(vectors.T, bias=True)))[-2:].sum())


def test_a_map_that_was_computed_is_found_again_for_the_same_codes_only(pipeline, home):
    vectors = pipeline.vqvae.quantizer.codebook.numpy()
    folder = home / "data" / "cache"
    folder.mkdir(parents=True)
    points = np.random.default_rng(0).random((16, 2))
    np.savetxt(folder / umap_file(vectors), points, "%.5f", ",")
    assert list(CodebookExplorer(pipeline).layouts) == ["UMAP", "PCA"]
    with torch.no_grad():
        pipeline.vqvae.quantizer.codebook[0, 0] += 1
    assert list(CodebookExplorer(pipeline).layouts) == ["PCA"]


def test_umap_is_computed_on_demand_and_kept(pipeline, home, monkeypatch):
    quick = "import sys, numpy as np; x = np.load(sys.argv[1]);" \
            "np.savetxt(sys.argv[2], x[:, :2], '%.5f', ',')"
    monkeypatch.setattr(codebook, "UMAP", quick)
    explorer = CodebookExplorer(pipeline)
    assert last(explorer, do="map")["maps"].keys() == {"PCA", "UMAP"}
    assert "UMAP" in CodebookExplorer(pipeline).layouts


def test_umap_that_is_stopped_leaves_no_process(pipeline, home, monkeypatch):
    monkeypatch.setattr(codebook, "UMAP", "import time; time.sleep(60)")
    loop = codebook.computed_umap(np.zeros((4, 2)))
    next(loop)
    loop.close()
    assert not (home / "data").exists()


def test_umap_that_fails_says_so(pipeline, home, monkeypatch):
    monkeypatch.setattr(codebook, "UMAP", "raise SystemExit('no memory')")
    assert "no memory" in last(CodebookExplorer(pipeline), do="map")["error"]


@pytest.mark.parametrize("counted", [True, False])
def test_the_still_is_drawn_from_the_map(pipeline, home, counted):
    explorer = CodebookExplorer(pipeline)
    opened = explorer.opened()
    if not counted:
        opened["usage"] = [[0] * 16]
    data, words = explorer.still(opened)
    assert data[:2] == b"\xff\xd8"
    assert words.startswith("PCA of 16 codes")
    assert words.endswith(f"{sum(np.sum(opened['usage'], 0) > 0)} are used")
