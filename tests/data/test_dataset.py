"""Laws of decoding, caching and splitting: the right pixels or a named skip, and no lesion on two sides."""
import io
import json

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image

import vqlib.data.decode
from vqlib.data.dataset import (
    SPLITS,
    Dataset,
    Geometry,
    assert_disjoint,
    fingerprint,
    split_of,
    statistics,
)
from vqlib.data.sources import DataError, Record, Source, open_source, read_synthetic

RED = (200, 30, 40)


def folder(path, **files):
    """Class folder `nv` with a good picture and the given files: a PIL image with a suffix, or bytes."""
    (path / "nv").mkdir(parents=True)
    picture(0).save(path / "nv" / "good.png")
    for name, (suffix, content, options) in files.items():
        place = path / "nv" / f"{name}{suffix}"
        place.write_bytes(content) if isinstance(content, bytes) else content.save(place, **options)
    return path


def pixels(path, name, geometry):
    data = Dataset(open_source(path), geometry, cache=path / "cache")
    return data.squares([data.names.index(name)])[0].int()                           # (3, S, S)


def noise(n, side=24, seed=0):                                        # (n, S, S, 3): no two are near-duplicates
    cells = np.random.default_rng(seed).integers(0, 256, (n, side // 2, side // 2, 3), dtype=np.uint8)
    return cells.repeat(2, 1).repeat(2, 2)


def source(array, lesions, labels=None):
    names = [f"i{k:03d}" for k in range(len(array))]
    records = [Record(n, c, g, i) for i, (n, c, g) in enumerate(zip(names, labels or ["nv"] * len(array), lesions))]
    return Source("test", "test", records, array=array)


def sides(data):
    return {data.names[i]: s for s in SPLITS for i in data.splits[s]}


# decoding ------------------------------------------------------------------------------------------------------------

def with_alpha():
    image = Image.new("RGBA", (40, 40), (*RED, 255))
    image.paste((0, 0, 0, 0), (0, 0, 40, 20))                         # the upper half is transparent
    return image


FORMATS = {
    "grey": (".png", Image.new("L", (40, 40), 77), {}, (77, 77, 77), (77, 77, 77)),
    "cmyk": (".jpg", Image.new("CMYK", (40, 40), (255, 0, 0, 0)), {"quality": 100}, (0, 255, 255), (0, 255, 255)),
    "alpha": (".png", with_alpha(), {}, (255, 255, 255), RED),
    "palette": (".png", Image.new("RGB", (40, 40), RED).quantize(4), {}, RED, RED),
    "one_bit": (".png", Image.new("1", (40, 40), 1), {}, (255, 255, 255), (255, 255, 255)),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("geometry", [Geometry(32, None), Geometry(32, 32)], ids=["raw", "resized"])
def test_every_colour_mode_becomes_the_rgb_that_a_viewer_shows(tmp_path, name, geometry):
    suffix, image, options, above, below = FORMATS[name]
    x = pixels(folder(tmp_path, **{name: (suffix, image, options)}), name, geometry)
    assert (x[:, 4, 16] - torch.tensor(above)).abs().max() <= 2, f"upper half is {x[:, 4, 16].tolist()}"
    assert (x[:, -4, 16] - torch.tensor(below)).abs().max() <= 2, f"lower half is {x[:, -4, 16].tolist()}"


def test_a_photograph_that_is_marked_as_rotated_is_turned_upright(tmp_path):
    image = Image.new("RGB", (48, 40))
    image.paste(RED, (0, 0, 24, 40))                                  # red on the left as stored
    exif = Image.Exif()
    exif[0x0112] = 6                                                  # to be turned by 90 degrees clockwise: left is up
    x = pixels(folder(tmp_path, turned=(".jpg", image, {"exif": exif, "quality": 100})), "turned", Geometry(32, 32))
    assert (x[0, :10] > 150).all()
    assert (x[0, -10:] < 50).all()


def stored(suffix):
    out = io.BytesIO()
    picture(5).save(out, suffix)
    return out.getvalue()


def misplaced_chunk():
    data = stored("png")
    at = data.index(b"IDAT")
    return data[: at - 4] + (100).to_bytes(4, "big") + data[at:]      # what follows byte 100 is taken for a chunk's head


UNUSABLE = {
    "sixteen_bits": (".png", Image.fromarray(np.full((40, 40), 30000, np.uint16)), {}),
    "cut": (".jpg", stored("jpeg")[:700], {}),
    "zero": (".jpg", b"", {}),
    "text": (".jpg", b"this is not a photograph", {}),
    "tiny": (".png", Image.new("RGB", (20, 60)), {}),
    "cut_png": (".png", stored("png")[:700], {}),
    "chunk": (".png", misplaced_chunk(), {}),
}


@pytest.mark.parametrize("geometry", [Geometry(32, None), Geometry(32, 32)], ids=["raw", "resized"])
def test_an_unusable_file_is_listed_by_name_and_the_rest_is_used(tmp_path, geometry):
    data = Dataset(open_source(folder(tmp_path, **UNUSABLE)), geometry, cache=tmp_path / "cache")
    assert data.names == ["good"]
    reasons = dict(data.skipped)
    assert set(reasons) == {name + suffix for name, (suffix, *_) in UNUSABLE.items()}
    assert all(reasons.values())
    assert "20 x 60" in reasons["tiny.png"]
    assert "16" in reasons["sixteen_bits.png"]
    assert not any(str(tmp_path) in r for r in reasons.values())


def test_only_unusable_files_are_an_error_that_names_the_first(tmp_path):
    (tmp_path / "nv").mkdir()
    (tmp_path / "nv" / "zero.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"zero\.jpg"):
        Dataset(open_source(tmp_path), Geometry(32, 32), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_raw_crop_is_the_very_pixels_of_the_centre(tmp_path):
    (tmp_path / "nv").mkdir()
    x = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(x).save(tmp_path / "nv" / "a.png")
    data = Dataset(open_source(tmp_path), Geometry(32, None), cache=tmp_path / "cache")
    assert (data[[0]][0].mul(255).round().numpy() == x[9:41, 14:46].transpose(2, 0, 1)).all()


def test_a_resized_crop_shows_the_whole_shorter_side(tmp_path):
    (tmp_path / "nv").mkdir()
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 300, 3))   # brightness = row
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "nv" / "a.png")
    rows = Dataset(open_source(tmp_path), Geometry(20, 20), cache=tmp_path / "cache")[[0]][0, 0].mul(255)
    assert (rows.mean(1) - (torch.arange(20) * 10 + 4.5)).abs().max() < 1.5


def test_large_photographs_are_not_decoded_so_small_that_detail_is_lost(tmp_path):
    (tmp_path / "nv").mkdir()
    picture(1, (1200, 900)).save(tmp_path / "nv" / "a.jpg", quality=98)
    x = Dataset(open_source(tmp_path), Geometry(64, 64), cache=tmp_path / "cache")[[0]][0].mul(255)
    whole = np.asarray(picture(1, (1200, 900)).resize((85, 64), Image.Resampling.LANCZOS), np.float32)[:, 10:74]
    assert np.abs(x.movedim(0, -1).numpy() - whole).mean() < 2


# splits --------------------------------------------------------------------------------------------------------------

def test_no_lesion_stands_in_two_splits_and_every_image_stands_in_one(dataset):
    assert sorted(i for s in SPLITS for i in dataset.splits[s]) == list(range(len(dataset)))
    where = {}
    for s in SPLITS:
        for i in dataset.splits[s]:
            assert where.setdefault(dataset.lesions[i], s) == s
    assert len(where) < len(dataset)                                  # some lesions do have several images


def test_a_planted_leak_is_found_and_named():
    lesions = ["a", "b", "c", "b"]
    with pytest.raises(DataError, match="lesion b is in train and in test"):
        assert_disjoint({"train": [0, 1], "validation": [2], "test": [3]}, lesions)


def test_a_dataset_that_would_leak_cannot_be_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(vqlib.data.decode, "near_groups", lambda images, lesions: [f"g{i}" for i in range(len(lesions))])
    with pytest.raises(DataError, match="the split leaks"):
        Dataset(source(noise(60), ["same"] * 60), Geometry(24, 24), cache=tmp_path)


def test_near_duplicates_with_different_lesion_ids_land_on_one_side(tmp_path):
    x = noise(60)
    again = np.clip(x.astype(int) + np.random.default_rng(1).integers(-3, 4, x.shape), 0, 255).astype(np.uint8)
    lesions = [f"a{i}" for i in range(60)] + [f"b{i}" for i in range(60)]
    data = Dataset(source(np.concatenate([x, again]), lesions), Geometry(24, 24), cache=tmp_path)
    side = sides(data)
    apart = [i for i in range(60) if side[f"i{i:03d}"] != side[f"i{60 + i:03d}"]]
    assert apart == []
    assert sum(split_of(f"a{i}") != split_of(f"b{i}") for i in range(60)) > 10   # by lesion alone many would part


def test_unlike_images_are_not_joined(tmp_path):
    lesions = [f"a{i}" for i in range(60)]
    data = Dataset(source(noise(60), lesions), Geometry(24, 24), cache=tmp_path)
    assert [sides(data)[f"i{i:03d}"] for i in range(60)] == [split_of(g) for g in lesions]


def test_a_lesion_keeps_its_side_when_images_are_removed(tmp_path):
    lesions = [f"a{i // 2}" for i in range(80)]
    whole = source(noise(80), lesions)
    part = Source("test", "test", whole.records[::3], array=whole.array)
    before, after = (sides(Dataset(s, Geometry(24, 24), cache=tmp_path)) for s in (whole, part))
    assert after == {name: before[name] for name in after}
    assert len(set(after.values())) == 3


def test_the_split_is_80_10_10_over_many_lesions():
    n = 20_000
    shares = {s: sum(split_of(f"HAM_{i:07d}") == s for i in range(n)) / n for s in SPLITS}
    assert shares == pytest.approx({"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.01)


# statistics ----------------------------------------------------------------------------------------------------------

def test_the_total_variance_is_the_mean_variance_plus_the_variance_of_the_means(dataset):
    s = statistics(dataset)
    assert s["variance"] == pytest.approx(np.square(s["std"]).mean() + np.var(s["mean"]), rel=1e-9)


def test_the_identity_gives_the_variance_that_the_report_published():
    mean, std = (0.6567, 0.3680, 0.3743), (0.1701, 0.1709, 0.1831)
    assert round(np.square(std).mean() + np.var(mean), 4) == 0.0487


def test_statistics_are_those_of_all_training_pixels_and_of_no_others(dataset):
    x = dataset[dataset.splits["train"]].double()
    s = statistics(dataset)
    assert s["mean"] == pytest.approx(x.mean((0, 2, 3)).tolist(), rel=1e-9)
    assert s["std"] == pytest.approx(x.std((0, 2, 3), correction=0).tolist(), rel=1e-9)
    assert s["variance"] == pytest.approx(float(x.var(correction=0)), rel=1e-9)


# cache ---------------------------------------------------------------------------------------------------------------

def test_the_fingerprint_changes_with_a_label_a_lesion_a_name_a_pixel_and_the_geometry():
    x, lesions = noise(6), list("abcdef")
    other = x.copy()
    other[3, 0, 0, 0] ^= 1
    variants = [source(x, lesions), source(x, lesions, ["nv"] * 5 + ["mel"]), source(x, [*"abcde", "a"]), source(other, lesions),
                source(x[:5], lesions[:5])]
    prints = [fingerprint(s, Geometry(16, 16)) for s in variants] + [fingerprint(variants[0], Geometry(16, None)),
                                                                    fingerprint(variants[0], Geometry(24, 24))]
    assert len(set(prints)) == len(prints)
    assert fingerprint(source(x.copy(), lesions), Geometry(16, 16)) == prints[0]


def test_the_fingerprint_does_not_depend_on_where_the_folder_lies(ham, tmp_path):
    before = fingerprint(open_source(ham[0]), Geometry(32, 32))
    moved = ham[0].rename(tmp_path / "elsewhere")
    assert fingerprint(open_source(moved), Geometry(32, 32)) == before


def test_the_second_opening_decodes_nothing_and_gives_the_same(ham, tmp_path, monkeypatch):
    first = Dataset(open_source(ham[0]), Geometry(32, 32), cache=tmp_path / "cache")
    monkeypatch.setattr(vqlib.data.decode, "decode", lambda *a: pytest.fail("decoded again"))
    second = Dataset(open_source(ham[0]), Geometry(32, 32), cache=tmp_path / "cache")
    assert torch.equal(first[np.arange(40)], second[np.arange(40)])
    assert (first.names, first.lesions, first.fingerprint) == (second.names, second.lesions, second.fingerprint)


def test_an_interrupted_build_leaves_nothing_and_the_next_one_succeeds(ham, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(vqlib.data.decode, "near_groups", interrupted)          # pixels are written, the index is not
        with pytest.raises(KeyboardInterrupt):
            Dataset(open_source(ham[0]), Geometry(32, 32), cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(Dataset(open_source(ham[0]), Geometry(32, 32), cache=tmp_path / "cache")) == 40


def test_a_build_that_comes_second_uses_the_cache_of_the_first(tmp_path):
    geometry, s = Geometry(24, 24), source(noise(20), [f"a{i}" for i in range(20)])
    first = Dataset(s, geometry, cache=tmp_path)
    before = (tmp_path / first.fingerprint / "index.json").stat().st_mtime_ns
    vqlib.data.decode.build_cache(s, geometry, tmp_path / first.fingerprint)          # as a process that did not see it
    assert (tmp_path / first.fingerprint / "index.json").stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == [first.fingerprint]


def test_labels_follow_their_images_past_a_skip(tmp_path):
    for i, label in enumerate(("mel", "nv", "bcc", "nv")):
        (tmp_path / label).mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (50 * i, 50 * i, 50 * i)).save(tmp_path / label / f"{i}.png")
    (tmp_path / "nv" / "1.png").write_bytes(b"")
    data = Dataset(open_source(tmp_path), Geometry(32, 32), cache=tmp_path / "cache")
    brightness = data[np.arange(3)].mean((1, 2, 3)).mul(255).round().tolist()
    assert sorted(zip(brightness, data.label_names)) == [(0, "mel"), (100, "bcc"), (150, "nv")]
    assert [data.classes[i] for i in data.labels] == data.label_names


def test_a_limit_takes_the_same_images_whenever_it_is_asked_and_has_a_fingerprint_of_its_own(tmp_path):
    s = source(noise(60), [f"a{i // 2}" for i in range(60)])
    a, b, whole = (Dataset(s, Geometry(24, 24), limit, cache=tmp_path) for limit in (25, 25, None))
    assert len(a) == 25
    assert a.names == b.names
    assert a.fingerprint == b.fingerprint != whole.fingerprint
    everything = sides(whole)
    assert sides(a) == {name: everything[name] for name in a.names}
    assert torch.equal(a[[3]], whole[[whole.names.index(a.names[3])]])


def test_a_larger_limit_keeps_the_images_of_a_smaller_one(tmp_path):
    s = source(noise(60), [f"a{i // 2}" for i in range(60)])
    small, large = (set(Dataset(s, Geometry(24, 24), limit, cache=tmp_path).names) for limit in (20, 40))
    assert small < large


def test_the_index_on_disk_is_plain_json(dataset, tmp_path):
    data = Dataset(read_synthetic(20, 16, 1), Geometry(16, 16), cache=tmp_path)
    index = json.loads((tmp_path / data.fingerprint / "index.json").read_text())
    assert [r[1] for r in index["rows"]] == data.names


def test_arrays_are_enlarged_for_a_geometry_that_resizes_and_say_so(npz, tmp_path):
    dataset = Dataset(open_source(npz), Geometry(32, 32), cache=tmp_path)
    assert dataset[[0]].shape == (1, 3, 32, 32)
    assert any("28 px are enlarged to 32" in note for note in dataset.notes)
    assert not any("enlarged" in note for note in Dataset(open_source(npz), Geometry(16, 16), cache=tmp_path).notes)


def test_arrays_smaller_than_a_raw_crop_are_refused(npz, tmp_path):
    with pytest.raises(DataError, match="28 x 28 px is smaller than the crop of 32"):
        Dataset(open_source(npz), Geometry(32, None), cache=tmp_path)
