"""Laws of passes over more images than fit into memory."""
import numpy as np
import pytest
import torch

from vqlib.evaluation.chunks import in_batches, over_rows


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
