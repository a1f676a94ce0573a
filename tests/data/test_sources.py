"""Laws of the layouts: each is recognised, nothing is guessed, and what cannot be used is named."""
import shutil

import numpy as np
import pytest
from conftest import picture, write_table

from vqlib.data.sources import ISIC_CLASSES, DataError, open_source

pytestmark = pytest.mark.usefixtures("home")
HAM = "HAM10000_metadata.csv"


def facts(source):
    return {r.name: (r.label, r.lesion) for r in source.records}


def test_ham10000_is_read_from_both_folders_with_its_lesions(ham):
    root, rows = ham
    source = open_source(root)
    assert source.kind == "ham10000"
    assert source.skipped == []
    assert facts(source) == {r["image_id"]: (r["dx"], r["lesion_id"]) for r in rows}
    folders = {r.place.parent.name for r in source.records}
    assert folders == {"HAM10000_images_part_1", "HAM10000_images_part_2"}
    assert all(r.place.stem == r.name for r in source.records)


def joined(rows, comma, newline):
    lines = [list(rows[0]), *[r.values() for r in rows]]           # a header, then values
    return newline.join(comma.join(map(str, line)) for line in lines) + newline


def quoted(rows):
    header = dict(zip(rows[0], rows[0]))
    return "\n".join(",".join(f'"{value}"' for value in r.values()) for r in [header, *rows])


def reordered(rows):
    """Columns from last to first, after a quoted one that has commas in its name and values."""
    columns = [*reversed(rows[0])]
    lines = ['"note, free",' + ",".join(columns)]
    lines += ['"a, b",' + ",".join(str(r[c]) for c in columns) for r in rows]
    return "\n".join(lines)


@pytest.mark.parametrize("write", [
    pytest.param(lambda rows: "\ufeff" + joined(rows, ",", "\n"), id="byte order mark"),
    pytest.param(lambda rows: joined(rows, ",", "\r\n"), id="CRLF"),
    pytest.param(lambda rows: joined(rows, "\t", "\n"), id="tabs"),
    pytest.param(quoted, id="quotes"),
    pytest.param(reordered, id="other columns, other order"),
])
def test_a_table_means_the_same_however_it_was_exported(ham, write):
    root, rows = ham
    expected = facts(open_source(root))
    (root / HAM).write_bytes(write(rows).encode())
    assert facts(open_source(root)) == expected


def test_images_without_a_row_and_rows_without_an_image_are_listed(ham):
    root, rows = ham
    (root / "HAM10000_images_part_1" / "ISIC_0000003.jpg").unlink()
    write_table(root / HAM, [r for r in rows if r["image_id"] != "ISIC_0000030"])
    source = open_source(root)
    assert len(source.records) == 38
    reasons = dict(source.skipped)
    assert set(reasons) == {"ISIC_0000003", "ISIC_0000030"}
    assert "no such image file" in reasons["ISIC_0000003"]
    assert f"not in {HAM}" in reasons["ISIC_0000030"]


def isic(tmp_path, lesions):
    """A folder like ISIC 2018, task 3: one JPEG per class, two images per lesion."""
    root, rows = tmp_path / "isic", []
    (root / "images").mkdir(parents=True)
    for i, c in enumerate(ISIC_CLASSES):
        picture(i).save(root / "images" / f"ISIC_{i}.jpg")
        rows.append({"image": f"ISIC_{i}"} | {k: float(k == c) for k in ISIC_CLASSES})
    write_table(root / "ISIC2018_Task3_Training_GroundTruth.csv", rows)
    if lesions:
        groupings = [
            {"image": r["image"], "lesion_id": f"HAM_{i // 2}"} for i, r in enumerate(rows)
        ]
        write_table(root / "ISIC2018_Task3_Training_LesionGroupings.csv", groupings)
    return root


def test_isic2018_takes_its_classes_from_the_one_and_its_lesions_from_the_groupings(tmp_path):
    source = open_source(isic(tmp_path, lesions=True))
    expected = {f"ISIC_{i}": (c, f"HAM_{i // 2}") for i, c in enumerate(ISIC_CLASSES.values())}
    assert source.kind == "isic2018"
    assert source.notes == []
    assert facts(source) == expected


def test_isic2018_without_groupings_says_that_lesions_are_unknown(tmp_path):
    source = open_source(isic(tmp_path, lesions=False))
    assert all(r.lesion == r.name for r in source.records)
    assert "LesionGroupings" in source.notes[0]


def test_an_isic_image_with_two_classes_is_refused_by_name(tmp_path):
    root = isic(tmp_path, lesions=False)
    table = root / "ISIC2018_Task3_Training_GroundTruth.csv"
    table.write_text(table.read_text().replace("ISIC_0,1.0,0.0", "ISIC_0,1.0,1.0"))
    with pytest.raises(DataError, match=rf"{table.name}.*ISIC_0 has 2"):
        open_source(root)


def test_an_isic_image_with_two_rows_of_different_classes_is_left_out_with_both(tmp_path):
    root = isic(tmp_path, lesions=False)
    table = root / "ISIC2018_Task3_Training_GroundTruth.csv"
    row = table.read_text().splitlines()[2].replace("ISIC_1", "ISIC_0")
    table.write_text(table.read_text() + row + "\n")
    source = open_source(root)
    assert "ISIC_0" not in facts(source)
    [(name, reason)] = source.skipped
    assert name == "ISIC_0"
    assert "mel" in reason
    assert "nv" in reason


def test_medmnist_keeps_every_image_with_its_class(npz):
    source = open_source(npz)
    with np.load(npz) as z:
        expected = np.concatenate([z[f"{s}_images"] for s in ("train", "val", "test")])
        labels = np.concatenate([z[f"{s}_labels"][:, 0] for s in ("train", "val", "test")])
    assert source.kind == "medmnist"
    assert len({r.name for r in source.records}) == 30
    assert (source.array[[r.place for r in source.records]] == expected).all()
    classes = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert [r.label for r in source.records] == [classes[k] for k in labels]


def test_grey_medmnist_becomes_three_equal_channels(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = grey, np.zeros((4, 1), int)
    np.savez(tmp_path / "pneumonia.npz", **arrays)
    array = open_source(tmp_path / "pneumonia.npz").array
    assert array.shape[-1] == 3
    assert all((array[:4, ..., c] == grey).all() for c in range(3))


def test_a_folder_with_one_archive_is_that_archive(npz):
    assert facts(open_source(npz.parent)) == facts(open_source(npz))


@pytest.mark.parametrize("damage", [
    pytest.param(lambda b: b[: len(b) // 2], id="cut"),
    pytest.param(lambda b: b[:5000] + bytes([b[5000] ^ 1]) + b[5001:], id="one bit"),
    pytest.param(lambda b: b"<html>not found</html>", id="a web page"),
    pytest.param(lambda b: b"", id="empty"),
])
def test_a_damaged_archive_is_refused_by_name(npz, damage):
    npz.write_bytes(damage(npz.read_bytes()))
    with pytest.raises(DataError, match=r"dermamnist\.npz"):
        open_source(npz)


def test_an_archive_of_something_else_is_refused_by_name(tmp_path):
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    with pytest.raises(DataError, match=r"weights\.npz.*train_images"):
        open_source(tmp_path / "weights.npz")


def test_class_folders_are_pooled_below_train_and_test(tmp_path):
    for i, place in enumerate((
        "Train/melanoma/a.jpg", "Train/nevus/b.png", "Test/melanoma/c.JPG", "Test/nevus/d.jpeg",
    )):
        (tmp_path / "isic9" / place).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(tmp_path / "isic9" / place)
    source = open_source(tmp_path / "isic9")
    assert source.kind == "folders"
    assert "isic9" in source.title
    assert facts(source) == {
        "a": ("melanoma", "a"),
        "b": ("nevus", "b"),
        "c": ("melanoma", "c"),
        "d": ("nevus", "d"),
    }


def test_a_name_in_two_classes_is_left_out_with_both_named_and_a_second_copy_is_listed(tmp_path):
    for place in ("Train/mel/a.jpg", "Train/nv/a.jpg", "Train/nv/b.jpg", "Test/nv/b.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        picture(0).save(tmp_path / place)
    source = open_source(tmp_path)
    assert facts(source) == {"b": ("nv", "b")}
    reasons = dict(source.skipped)
    assert reasons.pop("a") == "labelled both mel and nv"
    assert [*reasons.values()] == ["second copy of the same name and class"]


def test_without_a_path_the_source_is_synthetic_and_says_so():
    source = open_source(n_synthetic=20, side=16, seed=3)
    assert source.kind == "synthetic"
    assert "synthetic" in source.title
    assert "seed 3" in source.title
    assert source.array.shape == (20, 16, 16, 3)
    assert facts(source) == facts(open_source("synthetic", n_synthetic=20, side=16, seed=3))


def test_the_path_wins_over_the_variable_which_wins_over_the_standard_folder(
    ham, npz, home, monkeypatch
):
    shutil.copytree(ham[0], home / "data" / "ham10000")
    assert open_source().kind == "ham10000"
    monkeypatch.setenv("VQLIB_DATA", str(npz))
    assert open_source().kind == "medmnist"
    assert open_source(ham[0]).kind == "ham10000"


def test_a_path_that_is_not_there_is_never_replaced_by_synthetic_data(tmp_path):
    with pytest.raises(DataError, match="no_such_folder"):
        open_source(tmp_path / "no_such_folder")


def test_a_folder_without_images_is_refused_by_name(tmp_path):
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="void"):
        open_source(tmp_path / "void")


def test_a_file_that_is_no_archive_is_refused_by_name(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt"):
        open_source(tmp_path / "notes.txt")


def test_a_missing_column_is_named_with_its_file(ham):
    root, rows = ham
    write_table(root / HAM, [{k: v for k, v in r.items() if k != "lesion_id"} for r in rows])
    with pytest.raises(DataError, match=rf"{HAM}.*lesion_id.*has.*image_id"):
        open_source(root)


@pytest.mark.parametrize("text", ["", "lesion_id,image_id,dx\n"], ids=["no byte", "a header only"])
def test_an_empty_table_is_refused_by_name(ham, text):
    (ham[0] / HAM).write_text(text)
    with pytest.raises(DataError, match=HAM):
        open_source(ham[0])


def test_a_table_whose_images_lie_elsewhere_is_refused(ham):
    for part in ham[0].glob("HAM10000_images*"):
        shutil.rmtree(part)
    with pytest.raises(DataError, match=rf"none of the 40 images of {HAM}"):
        open_source(ham[0])


@pytest.mark.parametrize("column", ["dx", "lesion_id", "image_id"])
def test_a_row_without_a_needed_value_is_refused_with_its_number(ham, column):
    root, rows = ham
    write_table(root / HAM, [*rows[:5], {**rows[5], column: ""}, *rows[6:]])
    with pytest.raises(DataError, match=rf"{HAM}, row 7: no {column}"):
        open_source(root)


def test_an_image_with_two_labels_in_the_table_is_left_out_with_both(ham):
    root, rows = ham
    write_table(root / HAM, [*rows, {**rows[3], "dx": "vasc"}])
    source = open_source(root)
    assert rows[3]["image_id"] not in facts(source)
    assert len(source.records) == 39
    [(name, reason)] = source.skipped
    assert name == rows[3]["image_id"]
    assert "vasc" in reason
    assert rows[3]["dx"] in reason


def test_a_table_in_another_encoding_is_refused_by_name(ham):
    text = (ham[0] / HAM).read_text()
    (ham[0] / HAM).write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match=rf"{HAM} is not UTF-8"):
        open_source(ham[0])
