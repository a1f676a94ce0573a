"""Laws of passes over more images than fit into memory."""
import numpy as np
import pytest
import torch

from vqlib.data.dataset import Dataset, Geometry
from vqlib.data.sources import read_synthetic
from vqlib.evaluation.chunks import in_batches, once_per_image, over_rows


@pytest.mark.parametrize("size", [1, 4, 100])
def test_chunks_are_all_rows_in_their_order(dataset, size):
    rows = np.array([7, 2, 5, 2, 11, 0, 3, 8, 1])
    chunks = over_rows(lambda images: images, dataset, rows, size)
    assert torch.equal(torch.cat(chunks), dataset[rows])
    assert max(len(chunk) for chunk in chunks) <= size


def test_no_rows_are_one_empty_chunk(dataset):
    assert over_rows(len, dataset, np.array([], int)) == [0]


def test_batches_are_at_most_as_large_as_asked_and_keep_their_order():
    x, sizes = torch.arange(10), []

    def doubled(batch):
        sizes.append(len(batch))
        return 2 * batch

    assert torch.equal(in_batches(doubled, x, size=4), 2 * x)
    assert sizes == [4, 4, 2]


@pytest.fixture
def own(tmp_path):
    """20 synthetic images with a cache that no other test sees."""
    return Dataset(read_synthetic(20, 16, seed=0), Geometry(16, 16), cache=tmp_path)


class Counted:
    """Mean and largest value of an image; counts the images it is asked for."""

    def __init__(self):
        self.images = 0

    def __call__(self, images):
        self.images += len(images)
        return torch.stack([images.mean((1, 2, 3)), images.amax((1, 2, 3))], 1)


def test_each_image_is_computed_once_and_comes_back_in_the_order_of_the_rows(own):
    function, rows = Counted(), np.array([7, 2, 19, 5])
    first = once_per_image(function, own, rows, "means", size=3)
    assert torch.equal(first, Counted()(own[rows]))
    again = once_per_image(function, own, np.array([5, 0, 7]), "means")
    assert torch.equal(again, Counted()(own[np.array([5, 0, 7])]))
    assert function.images == 5                                      # 0 was new


def test_what_was_done_before_an_error_is_kept(own):
    function, rows = Counted(), np.arange(12)

    def failing(images):
        if function.images >= 8:
            raise RuntimeError("the machine was turned off")
        return function(images)

    with pytest.raises(RuntimeError):
        once_per_image(failing, own, rows, "means", size=4)
    done = Counted()
    once_per_image(done, own, rows, "means", size=4)
    assert (function.images, done.images) == (8, 4)


@pytest.mark.parametrize("content", [b"", b"no array", b"PK\x03\x04"])
def test_a_damaged_file_is_computed_again(own, content):
    (own.folder / "means.npz").write_bytes(content)
    found = once_per_image(Counted(), own, np.arange(3), "means")
    assert torch.equal(found, Counted()(own[np.arange(3)]))


def test_a_flipped_bit_of_what_is_kept_is_noticed(own):
    once_per_image(Counted(), own, np.arange(3), "means")
    path = own.folder / "means.npz"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = once_per_image(Counted(), own, np.arange(3), "means")
        assert torch.equal(found, Counted()(own[np.arange(3)])), place


def test_another_name_is_another_function(own):
    once_per_image(Counted(), own, np.arange(3), "means")
    other = once_per_image(lambda images: -Counted()(images), own, np.arange(3), "others")
    assert torch.equal(other, -Counted()(own[np.arange(3)]))


def test_a_folder_that_cannot_be_written_costs_time_only(own, monkeypatch, capsys):
    def unwritable(path, data):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("vqlib.evaluation.chunks.write_atomically", unwritable)
    function = Counted()
    for _ in range(2):
        found = once_per_image(function, own, np.arange(4), "means")
        assert torch.equal(found, Counted()(own[np.arange(4)]))
    assert function.images == 8
    assert "cannot be kept (Read-only file system)" in capsys.readouterr().out


def test_no_rows_have_no_results(own):
    assert once_per_image(Counted(), own, np.array([], int), "means").shape == (0, 2)


def test_progress_says_how_many_new_images_are_done(own):
    seen = []
    once_per_image(Counted(), own, np.arange(2), "means")
    once_per_image(Counted(), own, np.arange(8), "means", size=3,
                   progress=lambda done, n: seen.append((done, n)))
    assert seen == [(3, 6), (6, 6)]
