"""Laws of listing: every image is found once, and what is left out is named with its reason."""
import os

import pytest
from conftest import picture
from PIL import Image

from vqlib.data.folders import HIDDEN, MASK, image_key, list_files


def put(root, *places):
    for i, place in enumerate(places):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(root / place, format="PNG")
    return root


def images(tree):
    return [tree.name(path) for path in tree.images]


def test_every_suffix_that_pillow_reads_is_tried_and_what_begins_like_an_image_too(tmp_path):
    names = "a.jfif b.JPE c.gif d.webp e.tga f.ppm g.avif ISIC_1 h.jpg_orig".split()
    assert images(list_files(put(tmp_path, *names))) == sorted(names)


def test_pictures_that_pillow_does_not_read_are_listed_and_texts_are_not(tmp_path):
    for name in ("a.heic", "b.dcm", "c.nef", "README.md", "LICENSE", "t.csv", "w.npz"):
        (tmp_path / name).write_bytes(b"....ftypheic")
    tree = list_files(tmp_path)
    assert dict(tree.skipped) == {name: f"no image: Pillow reads no {name[1:]}"
                                  for name in ("a.heic", "b.dcm", "c.nef")}
    assert {path.name for path in tree.others} == {"README.md", "LICENSE", "t.csv", "w.npz"}


@pytest.mark.parametrize("place", [
    ".ipynb_checkpoints/a.jpg", "nv/._a.jpg", ".hidden/deep/a.jpg", "__MACOSX/nv/a.jpg",
    ".Trash-1000/files/a.jpg", "Trash/a.jpg", "$RECYCLE.BIN/a.jpg", "nv/thumbnails/a.jpg",
    "nv/thumbs/a.jpg", "nv/@eaDir/a.jpg", "nv/checkpoints/a.jpg", "RECYCLER/a.jpg",
    "#recycle/a.jpg", "@Recycle/a.jpg", "Recycle Bin/a.jpg", "nv/_thumbs/a.jpg",
    "nv/thumbnails_256/a.jpg", "#snapshot/a.jpg", "System Volume Information/a.jpg",
])
def test_hidden_and_second_hand_pictures_are_left_out_by_name(tmp_path, place):
    tree = list_files(put(tmp_path, "nv/good.jpg", place))
    assert images(tree) == ["nv/good.jpg"]
    assert tree.skipped == [(place, HIDDEN)]


@pytest.mark.parametrize("place", [
    "masks/a.png", "Mask/a.png", "train_masks/a.png", "a_mask.png",
    "HAM10000_segmentations_lesion_tschandl/a.png", "ISIC_1_segmentation.png",
    "a-segmentation.png", "IMD003_lesion/x.bmp", "IMD003/IMD003_lesion.bmp",
    "lesion/a.png", "ISIC_1_superpixels.png", "ground_truth/a.png",
    "ISIC2018_Task1_Training_GroundTruth/a.png", "a_seg.png", "a-GT.png", "gt/a.png",
    "SegmentationClass/a.png", "PNGMasks/a.png", "annotations/a.png", "labels/a.png",
    "ISIC_1_label.png", "IMD003_R1_Label3.bmp", "a_overlay.jpg", "a_contour2.png",
])
def test_masks_are_left_out_by_name(tmp_path, place):
    tree = list_files(put(tmp_path, "nv/good.jpg", place))
    assert images(tree) == ["nv/good.jpg"]
    assert tree.skipped == [(place, MASK)]


@pytest.mark.parametrize("place", [
    "vascular lesion/a.jpg", "vascular_lesion/a.jpg", "Vascular lesions/a.jpg", "damask/a.jpg",
    "nv/lesion_12.jpg", "nv/thumbelina.jpg", "nv/GT-I9300_12.jpg", "nv/label_12.jpg",
    "segovia/a.jpg",
])
def test_diagnoses_and_photographs_are_no_masks(tmp_path, place):
    assert images(list_files(put(tmp_path, place))) == [place]


def test_photographs_in_a_folder_of_lesions_are_no_masks(tmp_path):
    places = ["lesion/a.jpg", "normal/b.jpg", "Lesions/nv/c.JPEG", "labels/d.jfif"]
    tree = list_files(put(tmp_path, *places, "lesion/a.bmp"))
    assert sorted(images(tree)) == sorted(places)
    assert tree.skipped == [("lesion/a.bmp", MASK)]


def test_linked_folders_are_entered_once_and_after_those_that_are_there(tmp_path):
    root, elsewhere = put(tmp_path / "root", "z/a.jpg"), put(tmp_path / "elsewhere", "b.jpg")
    os.symlink(elsewhere, root / "nv")
    os.symlink(elsewhere, root / "nv2")
    os.symlink(root / "z", root / "a")
    os.symlink(root, root / "z" / "loop")
    os.symlink(tmp_path, root / "z" / "above")
    tree = list_files(root)
    assert sorted(images(tree)) == ["nv/b.jpg", "z/a.jpg"]
    assert sorted(name for name, _ in tree.skipped) == ["a", "nv2", "z/above", "z/loop"]


def test_what_is_no_file_is_listed_and_never_opened(tmp_path):
    put(tmp_path, "nv/good.jpg")
    os.symlink(tmp_path / "gone.jpg", tmp_path / "nv" / "broken.jpg")
    os.mkfifo(tmp_path / "nv" / "pipe.jpg")
    os.symlink(tmp_path / "nv" / "pipe.jpg", tmp_path / "nv" / "linked.jpg")
    os.symlink(".git/annex/objects/1", tmp_path / "metadata.csv")
    os.mkfifo(tmp_path / "x.npz")
    tree = list_files(tmp_path)
    assert images(tree) == ["nv/good.jpg"]
    assert tree.others == []
    assert dict(tree.skipped) == {
        "nv/broken.jpg": "a broken link", "metadata.csv": "a broken link",
        "nv/pipe.jpg": "no regular file", "nv/linked.jpg": "no regular file",
        "x.npz": "no regular file"}


def test_what_a_spreadsheet_locks_is_no_table(tmp_path):
    put(tmp_path, "nv/good.jpg")
    for name in ("~$metadata.xlsx", ".~lock.metadata.csv#"):
        (tmp_path / name).write_bytes(b"user")
    assert list_files(tmp_path).others == []


def test_a_name_that_is_no_unicode_is_shown_as_text(tmp_path):
    place = os.fsdecode(b"caf\xe9.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg")
    os.rename(tmp_path / "x.jpg", tmp_path / place)
    assert images(list_files(tmp_path)) == ["caf\\xe9.jpg"]


def test_a_file_and_the_name_in_a_table_agree_whatever_their_spelling():
    same = ("ISIC_1.jpg", "isic_1", "ISIC_1.JPEG", "x/y/ISIC_1.png", r"D:\x\ISIC_1.jpg", " ISIC_1 ",
            "ISIC_1_downsampled.jpg", "ISIC_1_downsampled")
    assert {image_key(name) for name in same} == {"isic_1"}
    url = "https://isic-archive.com/images/my%20ISIC_1.JPG?size=full#top"
    assert image_key(url) == image_key("my ISIC_1.png")
    assert image_key("img.001") != image_key("img.002")
    assert image_key("0007.jpg") == image_key("7") == image_key("7.0") != image_key("70")
    assert image_key("nävus.jpg") == image_key("na\u0308vus.png")
