"""Laws of the layouts: each is recognised, nothing is guessed, and what cannot be used is named."""
import os
import re
import shutil
import unicodedata
from collections import Counter

import pytest
from conftest import picture, write_table
from PIL import Image

from vqlib.data.classes import name_classes
from vqlib.data.sources import DataError, locate, open_source

pytestmark = pytest.mark.usefixtures("home")
HAM = "HAM10000_metadata.csv"
ISIC_CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")


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


def renamed(rows, name):
    return re.sub(r"(ISIC_\d+)", name, joined(rows, ",", "\n"))


@pytest.mark.parametrize("write", [
    pytest.param(lambda rows: "\ufeff" + joined(rows, ",", "\n"), id="byte order mark"),
    pytest.param(lambda rows: joined(rows, ",", "\r\n"), id="CRLF"),
    pytest.param(lambda rows: joined(rows, "\t", "\n"), id="tabs"),
    pytest.param(quoted, id="quotes"),
    pytest.param(reordered, id="other columns, other order"),
    pytest.param(lambda rows: joined(rows, ";", "\n"), id="semicolons"),
    pytest.param(lambda rows: "sep=|\n" + joined(rows, "|", "\n"), id="a delimiter that is named"),
    pytest.param(lambda rows: joined(rows, ", ", "\n"), id="spaces"),
    pytest.param(lambda rows: joined(rows, ",", "\n").replace("_id,dx", "_ID,DX "), id="capitals"),
    pytest.param(lambda rows: joined(rows, ",", "\n").replace(",nv,", ", NV ,"), id="values"),
    pytest.param(lambda rows: renamed(rows, r"\1.jpg"), id="files"),
    pytest.param(lambda rows: renamed(rows, r"D:\\ham\\\1.JPG"), id="paths of another machine"),
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
    expected = {f"ISIC_{i}": (c.lower(), f"HAM_{i // 2}") for i, c in enumerate(ISIC_CLASSES)}
    assert source.kind == "isic2018"
    assert source.notes == []
    assert facts(source) == expected


def test_isic2018_without_groupings_says_that_lesions_are_unknown(tmp_path):
    source = open_source(isic(tmp_path, lesions=False))
    assert all(r.lesion == r.name for r in source.records)
    assert "LesionGroupings" in source.notes[0]


def test_an_isic_image_with_two_classes_is_left_out_with_both(tmp_path):
    root = isic(tmp_path, lesions=False)
    table = root / "ISIC2018_Task3_Training_GroundTruth.csv"
    table.write_text(table.read_text().replace("ISIC_0,1.0,0.0", "ISIC_0,1.0,1.0"))
    source = open_source(root)
    assert "ISIC_0" not in facts(source)
    assert source.skipped == [("ISIC_0", f"{table.name} has it as mel and nv")]


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


def folders(root, *places, **options):
    """Pictures at these places below a folder, each of its own."""
    for i, place in enumerate(places):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        picture(i, **options).save(root / place)
    return root


def classes(source):
    return Counter(record.label for record in source.records)


def test_class_folders_are_pooled_below_train_and_test(tmp_path):
    root = folders(tmp_path / "isic9", "Train/melanoma/a.jpg", "Train/nevus/b.png",
                   "Test/melanoma/c.JPG", "Test/nevus/d.jpeg")
    source = open_source(root)
    assert source.kind == "folders"
    assert "isic9" in source.title
    assert {r.name: r.label for r in source.records} == {
        "Train/melanoma/a.jpg": "melanoma",
        "Train/nevus/b.png": "nevus",
        "Test/melanoma/c.JPG": "melanoma",
        "Test/nevus/d.jpeg": "nevus",
    }
    assert all(r.lesion == r.name for r in source.records)


def test_a_class_is_the_first_level_below_what_an_archive_wraps_around_it(tmp_path):
    places = [f"{split}/{name}/{deep}{i}.jpg" for split in ("train", "val") for i in (1, 2)
              for name in ("nv", "mel") for deep in ("", "patient_3/", "2019/05/")]
    assert classes(open_source(folders(tmp_path / "plain", *places))) == {"nv": 12, "mel": 12}
    wrapped = folders(tmp_path / "wrapped", *[f"Skin cancer ISIC/{place}" for place in places])
    assert classes(open_source(wrapped)) == {"nv": 12, "mel": 12}


@pytest.mark.parametrize("parts", [
    ("Training", "valid", "TEST"), ("train-set", "hold-out", "eval"), ("fold 2", "split_1", "set3"),
    ("original", "augmented_images", "Evaluation"), ("train_data", "test2", "unlabelled"),
])
def test_folders_of_any_split_or_version_are_no_classes(tmp_path, parts):
    root = folders(tmp_path / "set", *[f"{part}/{c}/{part}{i}.jpg" for part in parts
                                       for c in ("nv", "mel") for i in range(2)])
    assert classes(open_source(root)) == {"nv": 6, "mel": 6}


def test_a_picture_beside_what_an_archive_wraps_is_listed(tmp_path):
    places = [f"archive/{c}/{i}.jpg" for c in ("nv", "mel") for i in range(4)]
    source = open_source(folders(tmp_path / "set", *places, "preview.png"))
    assert classes(source) == {"nv": 4, "mel": 4}
    assert source.skipped == [("preview.png", "lies in no folder that names a class")]


def test_one_class_with_folders_below_it_says_that_they_may_be_classes(tmp_path):
    places = [f"archive/{c}/{i}.jpg" for c in ("nv", "mel") for i in range(4)]
    source = open_source(folders(tmp_path / "set", *places, "archive/preview.png"))
    assert classes(source) == {"archive": 9}
    assert any("such as archive/nv, give archive as the data" in note for note in source.notes)
    parts = [f"{part}/nv/{part}.jpg" for part in ("train", "val", "test")]
    assert not any("one class" in note for note in open_source(
        folders(tmp_path / "parts", *parts)).notes)
    inner = open_source(tmp_path / "set" / "archive")
    assert classes(inner) == {"nv": 4, "mel": 4}
    assert not any("one class" in note for note in inner.notes)


def test_one_class_needs_no_second(tmp_path):
    root = folders(tmp_path / "one", *[f"nevus/{i}.jpg" for i in range(4)])
    assert classes(open_source(root)) == {"nevus": 4}


def test_equal_names_in_two_folders_are_two_images(tmp_path):
    root = folders(tmp_path / "numbered", *[f"{c}/{i}.jpg" for c in "ab" for i in range(3)])
    source = open_source(root)
    assert classes(source) == {"a": 3, "b": 3}
    assert source.skipped == []


def test_spellings_of_one_class_are_joined_with_a_note(tmp_path):
    n, d = (unicodedata.normalize(form, "nävus") for form in ("NFC", "NFD"))
    spellings = ("Melanoma", "melanoma", "melanoma ", "basal_cell", "Basal  Cell", n, d)
    root = folders(tmp_path / "spelt", *[f"{c}/{i}.jpg" for c in spellings for i in range(2)])
    source = open_source(root)
    assert sorted(classes(source).values()) == [4, 4, 6]
    [note] = [note for note in source.notes if "one class each" in note]
    assert "'Melanoma' = 'melanoma' = 'melanoma '" in note


def test_hyphens_between_letters_are_spaces_and_signs_of_numbers_are_not():
    names, notes = name_classes(["basal-cell", "basal cell", "basal cell", "-1", "1"])
    assert [*names.values()] == ["-1", "1", "basal cell", "basal cell"]
    assert notes == ["one class each: 'basal cell' = 'basal-cell'"]


def test_known_diagnoses_keep_their_codes_and_others_their_usual_spelling():
    names, _ = name_classes(["NV", "NV", "nv", "Nevus", "Nevus", "nevus", "3.0", "3"])
    assert names["NV"] == names["nv"] == "nv"
    assert names["Nevus"] == names["nevus"] == "Nevus"
    assert names["3.0"] == names["3"]


@pytest.mark.parametrize("name", ["any", "Any", " ANY ", "any.0", "_any\u200b"])
def test_no_class_is_called_as_all_classes_are(name):
    with pytest.raises(DataError, match=r"no class can be called .*any means all.*rename") as error:
        name_classes(["nv", name])
    assert len(str(error.value).splitlines()) == 1
    name_classes(["nv", "any other", "company"])


def test_a_folder_and_a_value_of_a_table_called_any_are_refused(tmp_path, ham):
    with pytest.raises(DataError, match="'Any'"):
        open_source(folders(tmp_path / "f", "nv/a.jpg", "nv/b.jpg", "Any/c.jpg", "Any/d.jpg"))
    table = ham[0] / HAM
    table.write_text(table.read_text().replace(",bcc,", ",ANY,"))
    with pytest.raises(DataError, match="'ANY'"):
        open_source(ham[0])


def test_images_that_lie_in_no_class_are_listed(tmp_path):
    root = folders(tmp_path / "half", "nv/a.jpg", "nv/b.jpg", "c.jpg", "images/d.jpg")
    source = open_source(root)
    assert classes(source) == {"nv": 2}
    assert dict(source.skipped) == dict.fromkeys(
        ("c.jpg", "images/d.jpg"), "lies in no folder that names a class")


@pytest.mark.parametrize("places", [
    pytest.param(["a.jpg", "b.jpg"], id="flat"),
    pytest.param(["images/a.jpg", "images/b.jpg"], id="one folder of all"),
    pytest.param(["HAM10000_images_part_1/a.jpg", "HAM10000_images_part_2/b.jpg"], id="parts"),
    pytest.param(["HAM10000_images/a.jpg", "test_set/jpg/b.jpg"], id="sets"),
    pytest.param(["imgs_part_1/a.jpg", "imgs_part_2/b.jpg"], id="PAD-UFES without its table"),
    pytest.param([f"{i}/image/{i}.jpg" for i in range(9)], id="a folder for each image"),
])
def test_folders_that_name_no_class_are_refused_by_name(tmp_path, places):
    with pytest.raises(DataError, match=r"somewhere/.*(no folder that names a class|no classes)"):
        open_source(folders(tmp_path / "somewhere", *places))


def test_what_cannot_be_used_says_what_can(tmp_path):
    root = folders(tmp_path / "yolo", "images/train/1.jpg", "images/val/2.jpg")
    (root / "labels").mkdir()
    (root / "labels" / "1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(DataError, match=r"no folder that names a class.*Read are HAM10000"):
        open_source(root)


def test_two_sizes_of_the_images_are_to_be_one(ham):
    (ham[0] / "small").mkdir()
    for path in ham[0].glob("*/*.jpg"):
        Image.open(path).resize((24, 20)).save(ham[0] / "small" / path.name)
    with pytest.raises(DataError, match=r"such as .*ISIC_0000000\.jpg and .*: keep one of each"):
        open_source(ham[0])


def test_images_whose_table_lies_above_say_so(ham):
    with pytest.raises(DataError, match=rf"Is {HAM} its table\? Then give the folder above"):
        open_source(ham[0] / "HAM10000_images_part_1")


@pytest.mark.parametrize("name", ["set.zip", "SET.ZIP", "set.tar.gz", "set.7z"])
def test_what_is_packed_is_to_be_unpacked(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=f"{name} is packed: unpack it"):
        open_source(tmp_path / "folder" / name)
    with pytest.raises(DataError, match=f"unpack {name} first"):
        open_source(tmp_path / "folder")


@pytest.mark.parametrize("path", ["~no_such_user/data", "x" * 5000, "a\0b"],
                         ids=["user", "long", "zero byte"])
def test_a_path_that_no_system_has_is_no_such_file(path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(path)


def test_images_without_their_table_say_what_is_packed(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "HAM10000_images_part_1.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"no image file.*unpack HAM10000_images_part_1\.zip"):
        open_source(tmp_path / "begun")


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


def test_a_table_without_lesions_is_read_and_says_so_and_one_without_classes_is_named(ham):
    root, rows = ham
    write_table(root / HAM, [{k: v for k, v in r.items() if k != "lesion_id"} for r in rows])
    source = open_source(root)
    assert all(r.lesion == r.name for r in source.records)
    assert "no lesion ids" in source.notes[0]
    write_table(root / HAM, [{"image_id": r["image_id"], "age": r["age"]} for r in rows[:30]])
    with pytest.raises(DataError, match=rf"{HAM}.*columns image_id, age; 30 images.*--label-col"):
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


@pytest.mark.parametrize("missing", ["", " ", "nan", "NaN", "NA", "None"])
def test_a_row_without_a_value_is_listed_and_a_lesion_without_id_is_one_of_its_own(ham, missing):
    root, rows = ham
    for i, column in enumerate(("dx", "image_id", "lesion_id")):
        rows[i] = {**rows[i], column: missing}
    write_table(root / HAM, rows)
    source = open_source(root)
    assert dict(source.skipped) == {
        "ISIC_0000000": f"{HAM} has it as without a diagnosis",
        f"{HAM}, line 3": f"in {HAM}, names no image",
        "ISIC_0000001": f"image file not in {HAM}",
    }
    assert facts(source)["ISIC_0000002"] == ("mel", "ISIC_0000002")
    assert "1 of 38 images have no lesion id" in source.notes[-1]


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




HAM_NAMES = {
    "lower case": lambda root: (root / HAM).rename(root / HAM.lower()),
    "no suffix": lambda root: (root / HAM).rename(root / "HAM10000_metadata"),
    "as text": lambda root: (root / HAM).rename(root / "HAM10000_metadata.txt"),
    "in a folder of its name": lambda root: move(root / HAM, root / "HAM10000_metadata" / HAM),
    "deep": lambda root: [move(path, root / "dataverse_files" / "v4" / path.name)
                          for path in [*root.iterdir()]],
    "another name": lambda root: (root / HAM).rename(root / "metadata.csv"),
}


def move(path, target):
    path = path.rename(path.with_name("moved"))
    target.parent.mkdir(parents=True, exist_ok=True)
    path.rename(target)


@pytest.mark.parametrize("name", HAM_NAMES)
def test_ham10000_is_known_by_its_columns_whatever_the_name_and_depth(ham, name):
    before = open_source(ham[0])
    HAM_NAMES[name](ham[0])
    after = open_source(ham[0])
    assert (after.kind, after.title, after.skipped) == (before.kind, before.title, [])
    assert facts(after) == facts(before)


def test_a_second_partial_download_of_the_table_takes_nothing_away(ham):
    root, rows = ham
    write_table(root / "HAM10000_metadata (1).csv", rows[:7])
    assert len(open_source(root).records) == 40


def test_tables_of_train_and_test_are_read_together_and_conflicts_are_left_out_with_both(ham):
    root, rows = ham
    (root / HAM).unlink()
    write_table(root / "train.csv", rows[:30])
    write_table(root / "test.csv", [*rows[30:], {**rows[2], "dx": "vasc"},
                                    {**rows[3], "lesion_id": "HAM_9"}])
    source = open_source(root)
    assert len(source.records) == 38
    assert dict(source.skipped) == {
        "ISIC_0000002": "test.csv, train.csv has it as mel and vasc",
        "ISIC_0000003": "test.csv, train.csv has it as HAM_0000001 and HAM_9"}


def test_masks_with_the_names_of_the_photographs_are_never_used(ham):
    for i in range(40):
        place = ham[0] / ("masks" if i % 2 else "drawn") / f"ISIC_{i:07d}.png"
        place.parent.mkdir(exist_ok=True)
        outline = Image.new("L", (48, 40))
        outline.paste(255, (9, 9, 20 + i, 30))
        outline.save(place)
    source = open_source(ham[0])
    assert len(source.records) == 40
    assert {r.place.suffix for r in source.records} == {".jpg"}


def test_copies_are_one_image_and_different_images_of_one_name_are_none(ham):
    root = ham[0]
    shutil.copytree(root / "HAM10000_images_part_1", root / "ham10000_images_all")
    picture(99).save(root / "ham10000_images_all" / "ISIC_0000004.jpg")
    source = open_source(root)
    assert len(source.records) == 39
    reasons = Counter(reason.partition(",")[0] for _, reason in source.skipped)
    assert reasons == {"a second copy": 19, f"in {HAM}": 1}
    assert "different image files" in dict(source.skipped)["ISIC_0000004"]


def test_rows_of_numbered_files_find_theirs_by_the_folder(tmp_path):
    root = folders(tmp_path / "set", *[f"pics/{c}/{i}.jpg" for c in "ab" for i in range(3)])
    rows = [{"path": f"/kaggle/input/{c}/{i}.jpg", "target": "ab".index(c)}
            for c in "ab" for i in range(3)]
    write_table(root / "train.csv", rows)
    source = open_source(root)
    assert {r.name: r.label for r in source.records} == {
        f"pics/{c}/{i}.jpg": str("ab".index(c)) for c in "ab" for i in range(3)}


def test_names_that_differ_in_case_only_are_those_of_their_rows(tmp_path):
    root = folders(tmp_path / "set", "pics/a1.jpg", "pics/A1.jpg", "pics/b.jpg")
    write_table(root / "t.csv", [{"image": name, "label": label} for name, label in
                                 (("a1.jpg", "nv"), ("A1", "mel"), ("B", "nv"))])
    source = open_source(root)
    assert {r.place.name: r.label for r in source.records} == {
        "a1.jpg": "nv", "A1.jpg": "mel", "b.jpg": "nv"}
    assert source.skipped == []


def test_segmentations_of_any_kind_with_the_names_of_the_photographs_are_never_used(ham):
    (ham[0] / "drawn").mkdir()
    for i in range(40):
        outline = Image.new("P" if i % 2 else "L", (48, 40))
        outline.putpalette([0, 0, 0, 128, 0, 0]) if i % 2 else None
        outline.paste(1 if i % 2 else 255, (9, 9, 20 + i, 30)) if i % 5 else None  # else empty
        outline.save(ham[0] / "drawn" / f"ISIC_{i:07d}{'.png' if i % 2 else '.jpg'}")
    assert {r.place.parent.name for r in open_source(ham[0]).records} == {
        "HAM10000_images_part_1", "HAM10000_images_part_2"}


def test_the_exact_name_wins_over_the_one_that_is_scaled_down(ham):
    picture(50).save(ham[0] / "HAM10000_images_part_1" / "ISIC_0000001_downsampled.jpg")
    source = open_source(ham[0])
    assert len(source.records) == 40
    assert source.skipped == [("ISIC_0000001_downsampled", f"image file not in {HAM}")]


def test_lesions_that_are_called_unknown_are_no_lesion(ham):
    root, rows = ham
    write_table(root / HAM, [{**row, "lesion_id": "unknown"} for row in rows])
    assert all(r.lesion == r.name for r in open_source(root).records)


@pytest.mark.parametrize("place", ["{0}/{0}.csv", "{0}.csv"], ids=["inside", "beside"])
def test_the_same_names_in_train_and_test_belong_to_the_table_of_their_folder(tmp_path, place):
    root = folders(tmp_path / "set", *[f"{part}/{i}.jpg" for part in ("train", "test")
                                       for i in range(3)])
    for part, label in (("train", "a"), ("test", "b")):
        write_table(root / place.format(part), [{"image": i, "label": label} for i in range(3)])
    source = open_source(root)
    assert {r.name: r.label for r in source.records} == {
        f"{part}/{i}.jpg": label for part, label in (("train", "a"), ("test", "b"))
        for i in range(3)}


def isic_table(path, names, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"image": name} | {c: float(i % len(columns) == k) for k, c in enumerate(columns)}
            for i, name in enumerate(names)]
    write_table(path, rows)


def test_the_three_parts_of_isic2018_are_one_set(tmp_path):
    root = tmp_path / "isic2018"
    for part, first in (("Training", 0), ("Validation", 20), ("Test", 30)):
        names = [f"ISIC_{i:07d}" for i in range(first, first + 10)]
        folders(root, *[f"ISIC2018_Task3_{part}_Input/{name}.jpg" for name in names])
        table = f"ISIC2018_Task3_{part}_GroundTruth"
        isic_table(root / table / f"{table}.csv", names, ISIC_CLASSES)
    source = open_source(root)
    assert (source.kind, len(source.records), source.skipped) == ("isic2018", 30, [])


def test_isic2019_is_read_with_its_lesions_scaled_images_and_the_class_of_no_diagnosis(tmp_path):
    root, names = tmp_path / "isic2019", [f"ISIC_{i:07d}" for i in range(18)]
    names[3] += "_downsampled"
    folders(root, *[f"ISIC_2019_Training_Input/{name}.jpg" for name in names])
    columns = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    isic_table(root / "ISIC_2019_Training_GroundTruth.csv", names, columns)
    write_table(root / "ISIC_2019_Training_Metadata.csv", [
        {"image": name, "age_approx": "", "lesion_id": f"BCN_{i // 2}" if i > 3 else ""}
        for i, name in enumerate(names)])
    source = open_source(root)
    assert (source.kind, source.skipped) == ("isic2019", [])
    assert set(classes(source)) == {c.lower() for c in columns}
    assert facts(source)["ISIC_0000003_downsampled"] == ("ak", "ISIC_0000003_downsampled")
    assert facts(source)["ISIC_0000005"][1] == "BCN_2"
    assert "4 of 18 images have no lesion id" in source.notes[-1]


def test_a_plain_table_beside_images_is_read(tmp_path):
    root = folders(tmp_path / "pad", *[f"imgs_part_{1 + i % 3}/PAT_{i}.png" for i in range(9)])
    write_table(root / "metadata.csv", [
        {"patient_id": i // 3, "diagnostic": ("NEV", "MEL")[i % 2], "img_id": f"PAT_{i}.png"}
        for i in range(9)])
    source = open_source(root)
    assert source.title == "pad (metadata.csv)"
    assert facts(source)["PAT_4"] == ("NEV", "1")
    assert "split by patient" in source.notes[-1]


def test_a_table_that_is_not_understood_stops_what_class_folders_would_begin(tmp_path):
    root = folders(tmp_path / "set", "a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg")
    write_table(root / "info.csv", [{"file": "1.jpg", "age": 3}, {"file": "2.jpg", "age": 4}])
    with pytest.raises(DataError, match=r"info\.csv.*columns file, age; 2 images.*--label-column"):
        open_source(root)
    assert classes(open_source(root, label_column="age")) == {"3": 1, "4": 1}
    (root / "info.csv").rename(root / "info.xlsx")
    with pytest.raises(DataError, match=r"info\.xlsx is no CSV"):
        open_source(root)
    (root / "info.xlsx").unlink()
    assert classes(open_source(root)) == {"a": 2, "b": 2}


@pytest.mark.parametrize(("name", "text"), [
    ("classes.txt", "0 a\n1 b\n"), ("labels.txt", "1,a\n2,b\n"),
    ("train.txt", "a/1.jpg\nb/3.jpg\n"), ("log.txt", "1 0.5\n2 0.4\n"),
])
def test_a_text_without_classes_beside_class_folders_is_not_used_and_named(tmp_path, name, text):
    root = folders(tmp_path / "set", *[f"{c}/{i}.jpg" for c in "ab" for i in range(6)])
    (root / name).write_text(text)
    source = open_source(root)
    assert classes(source) == {"a": 6, "b": 6}
    assert f"not used: {name}" in source.notes


def test_a_legend_of_classes_beside_a_table_is_none_of_images(tmp_path):
    root = folders(tmp_path / "set", *[f"pics/{i}.jpg" for i in range(6)])
    write_table(root / "train.csv", [{"image": i, "label": i % 2} for i in range(6)])
    write_table(root / "names.csv", [{"id": i, "class": name} for i, name in enumerate("xy")])
    source = open_source(root)
    assert classes(source) == {"0": 3, "1": 3}
    assert "not used: names.csv" in source.notes


@pytest.mark.parametrize("header", ["patient_id,diagnosis", "epoch,target", "pixel0000,label"])
def test_numbers_of_something_else_name_no_images(tmp_path, header):
    root = folders(tmp_path / "set", *[f"{c}/{c}{i}.jpg" for c in "ab" for i in range(4)],
                   *[f"{c}/{i}.jpg" for c, i in zip("abababab", range(8))])
    (root / "t.csv").write_text(f"{header}\n" + "".join(f"{i},x\n" for i in range(6)))
    with pytest.raises(DataError, match=r"t\.csv.*no image that is there is named in it"):
        open_source(root)
    column = header.split(",")[0]
    if "pixel" not in column:
        assert len(open_source(root, image_column=column).records) == 6


def test_two_columns_of_images_are_named(tmp_path):                # Derm7pt
    root = folders(tmp_path / "set", *[f"pics/{kind}{i}.jpg" for kind in "cd" for i in range(4)])
    write_table(root / "meta.csv", [{"diagnosis": "ab"[i % 2], "clinic": f"c{i}.jpg",
                                     "derm": f"D{i}.jpg"} for i in range(4)])
    source = open_source(root)
    assert [r.name for r in source.records] == ["c0", "c1", "c2", "c3"]
    assert "meta.csv: images are those of column clinic, not of derm (--image-column)" in (
        source.notes)
    derm = open_source(root, image_column="derm")
    assert [r.place.name for r in derm.records] == ["d0.jpg", "d1.jpg", "d2.jpg", "d3.jpg"]


def test_tables_that_contradict_each_other_throughout_say_how_to_choose(ham):
    root, rows = ham
    write_table(root / "labels.csv", [{"image": r["image_id"], "label": i % 3}
                                      for i, r in enumerate(rows)])
    with pytest.raises(DataError, match=r"--label-column names the column.*has it as"):
        open_source(root)
    assert len(open_source(root, label_column="dx").records) == 40


def test_a_table_of_lesions_beside_class_folders_is_used(tmp_path):
    root = folders(tmp_path / "set", *[f"{c}/{c}{i}.jpg" for c in "ab" for i in range(4)])
    write_table(root / "lesions.csv", [{"image": f"{c}{i}", "lesion_id": f"L{c}{i // 2}"}
                                       for c in "ab" for i in range(4)])
    source = open_source(root)
    assert {r.lesion for r in source.records} == {"La0", "La1", "Lb0", "Lb1"}


def test_other_tables_beside_a_known_one_are_named(ham):
    (ham[0] / "hmnist_8_8_L.csv").write_text("pixel0000,label\n1,2\n")
    (ham[0] / "sample_submission.csv").write_text("image_id,dx\nISIC_0000000,vasc\n")
    source = open_source(ham[0])
    assert len(source.records) == 40
    assert source.notes == ["not used: hmnist_8_8_L.csv, sample_submission.csv"]


def test_a_table_whose_images_have_other_names_says_both(ham):
    for i, path in enumerate(sorted(ham[0].rglob("*.jpg"))):
        path.rename(path.with_name(f"IMG{i}.jpg"))
    with pytest.raises(DataError, match=r"none of the 40 images.*40 x in .*ISIC_0000000"):
        open_source(ham[0])


def test_class_folders_beside_features_are_class_folders_and_beside_images_nobody_knows(
    tmp_path, npz
):
    root = folders(tmp_path / "set", "a/1.jpg", "a/2.jpg", "b/3.jpg")
    (root / "features.npz").write_bytes(b"features")
    source = open_source(root)
    assert (source.kind, len(source.records)) == ("folders", 3)
    assert "not used: features.npz" in source.notes
    shutil.copy(npz, root / "again.npz")
    with pytest.raises(DataError, match=r"set/ holds again\.npz and folders of images"):
        open_source(root)


def test_an_archive_beside_a_table_of_other_images_is_read_and_beside_their_images_named(ham, npz):
    shutil.copy(npz, ham[0] / "again.npz")
    (npz.parent / "archive").mkdir()
    npz = npz.rename(npz.parent / "archive" / "set.npz")
    write_table(npz.with_name("labels.csv"), [{"image": "x", "label": "nv"}])
    source = open_source(npz.parent)
    assert (source.kind, len(source.records)) == ("medmnist", 30)
    assert "not used: labels.csv" in source.notes
    source = open_source(ham[0])
    assert (len(source.records), source.notes) == (40, ["not used: again.npz"])


def test_a_relative_path_is_resolved_once_here_first_then_in_the_project(ham, home, monkeypatch):
    here = ham[0].parent
    monkeypatch.chdir(here)
    shutil.copytree(ham[0], home / "elsewhere")
    (home / "ham").mkdir(parents=True)
    assert locate("ham") == ham[0]
    assert locate("elsewhere") == home / "elsewhere"
    monkeypatch.setenv("VQLIB_DATA", "ham")
    assert locate() == ham[0]


def test_an_empty_path_is_refused_and_an_empty_variable_is_none(monkeypatch):
    with pytest.raises(DataError, match="path of the data is empty"):
        open_source("")
    monkeypatch.setenv("VQLIB_DATA", "")
    assert locate() == "synthetic"


def test_a_name_that_is_no_unicode_does_no_harm(tmp_path):
    root = folders(tmp_path / "set", "nv/a.jpg", "nv/b.jpg")
    os.rename(root / "nv" / "a.jpg", os.fsencode(root / "nv") + b"/caf\xe9.jpg")
    assert sorted(r.name for r in open_source(root).records) == ["nv/b.jpg", "nv/caf\\xe9.jpg"]
