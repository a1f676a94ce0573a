"""Laws of near-duplicates: images that are almost the same share a side, others do not."""
import numpy as np
from small_data import array_source, noise, sides

from vqlib.data.dataset import Dataset, split_of
from vqlib.data.decode import Geometry


def test_near_duplicates_with_different_lesion_ids_land_on_one_side(tmp_path):
    x = noise(60)
    change = np.random.default_rng(1).integers(-3, 4, x.shape)
    again = np.clip(x.astype(int) + change, 0, 255).astype(np.uint8)
    lesions = [f"a{i}" for i in range(60)] + [f"b{i}" for i in range(60)]
    source = array_source(np.concatenate([x, again]), lesions)
    side = sides(Dataset(source, Geometry(24, 24), cache=tmp_path))
    apart = [i for i in range(60) if side[f"i{i:03d}"] != side[f"i{60 + i:03d}"]]
    assert apart == []
    by_lesion_alone = sum(split_of(f"a{i}") != split_of(f"b{i}") for i in range(60))
    assert by_lesion_alone > 10                                    # many would part


def test_unlike_images_are_not_joined(tmp_path):
    lesions = [f"a{i}" for i in range(60)]
    dataset = Dataset(array_source(noise(60), lesions), Geometry(24, 24), cache=tmp_path)
    side = sides(dataset)
    assert [side[f"i{i:03d}"] for i in range(60)] == [split_of(lesion) for lesion in lesions]
