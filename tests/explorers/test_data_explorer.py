"""Laws of the data explorer: it shows what the data set has, and finds what looks the same."""
import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

from vqlib.data.augment import Augment, augment
from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import open_source
from vqlib.explorers.data import AUGMENTATIONS, DataExplorer, augmented, hashes_of, nearest


def last(explorer, **request):
    return [reply for reply in explorer.answer(request) if reply][-1]


@pytest.mark.parametrize("split", ["all", "train", "test"])
def test_tiles_are_of_the_class_and_the_split_asked_for(dataset, split):
    found = last(DataExplorer(dataset), do="show", label=2, split=split)
    rows = dataset.splits[split]
    expected = {int(row) for row in rows if dataset.labels[row] == 2}
    assert {tile["row"] for tile in found["tiles"]} == expected
    assert found["found"] == len(expected)
    assert {tile["label"] for tile in found["tiles"]} <= {dataset.classes[2]}


def test_pages_show_every_image_once(dataset):
    explorer, rows = DataExplorer(dataset), []
    for page in range(4):
        rows += [tile["row"] for tile in last(explorer, do="show", page=page)["tiles"]]
    assert sorted(rows) == list(range(90))
    assert "page 4 is no" in last(explorer, do="show", page=4)["error"]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmented_images_are_what_a_training_would_see(dataset, name):
    config, rows = AUGMENTATIONS[name], np.arange(8)
    images = augmented(dataset, rows, config, seed=3)
    expected = dataset[rows] if config is None else augment(
        dataset.squares(rows), config, 16, torch.Generator().manual_seed(3))
    assert torch.equal(images, expected)


def test_the_training_of_a_preset_can_be_chosen(dataset):
    found = last(DataExplorer(dataset, Augment(rotate=5)), do="open")
    assert found["augmentations"][-1] == "as in training"
    assert "error" not in last(DataExplorer(dataset, Augment()), do="show",
                               augmentation="as in training")


def test_an_image_is_shown_with_what_is_known_of_it(dataset):
    facts = dict(last(DataExplorer(dataset), do="inspect", row=5)["facts"])
    assert facts["name"] == dataset.names[5]
    assert facts["class"] == dataset.label_names[5]
    assert 5 in dataset.splits[facts["split"]]
    assert facts["lesion"].startswith(dataset.lesions[5])


def test_a_copy_in_another_class_is_found_first(tmp_path, home):
    for i in range(12):
        place = tmp_path / "d" / ("a" if i % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        picture(i).save(place / f"{i:02d}.png")
    Image.open(tmp_path / "d" / "b" / "04.png").save(tmp_path / "d" / "a" / "copy.jpg", quality=90)
    d = Dataset(open_source(tmp_path / "d"), Geometry(16, 16), cache=tmp_path / "c")
    found = last(DataExplorer(d), do="inspect", row=d.names.index("b/04.png"))
    assert found["near"][0]["name"] == "a/copy.jpg"
    assert found["near"][0]["bits"] <= 16 < found["near"][1]["bits"]
    assert dict(found["facts"])["near-duplicates"].startswith("1 ")


def test_an_image_is_not_its_own_neighbour(dataset):
    def run(loop):
        hashes = yield from loop
        yield hashes

    *counted, hashes = run(hashes_of(dataset))
    assert counted[-1] == 90
    near = nearest(hashes, 7, 200)
    assert len(near) == 89
    assert 7 not in [row for row, _ in near]


def test_the_still_says_what_it_shows(dataset):
    explorer = DataExplorer(dataset)
    data, words = explorer.still(explorer.opened())
    assert data[:2] == b"\xff\xd8"
    assert words.startswith("24 of 90 images of synthetic, n 90")
