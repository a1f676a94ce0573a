"""Laws of tables: read however they were exported, or refused with the line."""
import pytest

from vqlib.data import tables
from vqlib.data.folders import Tree
from vqlib.data.records import DataError
from vqlib.data.tables import find_tables, read_table


def read(tmp_path, content, name="t.csv"):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(tmp_path / name)


def values(table):
    return [[*row.values()] for _, row in table.rows]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_the_encoding_is_found(tmp_path, encoding):
    rows = "".join(f"bild_{i},Nävus größer als üblich\n" for i in range(40))
    table = read(tmp_path, ("bild,diagnose\n" + rows).encode(encoding))
    assert values(table)[3] == ["bild_3", "Nävus größer als üblich"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_that_the_header_is_divided_by(tmp_path, delimiter):
    table = read(tmp_path, delimiter.join(("a", '"b, c; d"', "e")) + "\n" + delimiter.join("123"))
    assert table.columns == ["a", "b,_c;_d", "e"]
    assert values(table) == [["1", "2", "3"]]


def test_commas_in_the_header_of_a_table_with_semicolons_are_no_delimiters(tmp_path):
    table = read(tmp_path, "image;site, side, depth, more;dx\na;x, y;nv\nb;z;mel\n")
    assert values(table) == [["a", "x, y", "nv"], ["b", "z", "mel"]]


@pytest.mark.parametrize("hint", ["sep=;", '"sep=;"', "SEP=;"])
def test_the_delimiter_that_excel_names_is_no_header(tmp_path, hint):
    assert read(tmp_path, f"{hint}\r\na;b\r\n1;2\r\n").columns == ["a", "b"]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "gb18030"])
def test_the_encoding_of_a_long_text_is_found_by_its_head(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr(tables, "HEAD", 2**11 + 2)
    told = "黑色素瘤" if encoding == "gb18030" else "Nävus größer als üblich"
    rows = "".join(f"bild_{i},{told}\n" for i in range(400))
    table = read(tmp_path, ("bild,diagnose\n" + rows).encode(encoding))
    assert values(table)[399] == ["bild_399", told]


def test_what_a_spreadsheet_could_not_compute_is_missing(tmp_path):
    assert values(read(tmp_path, "a,b,c\n#N/A,n.a.,#REF!\nx,#NAME?,y\n")) == [
        ["", "", ""], ["x", "", "y"]]


def test_values_are_stripped_and_what_means_nothing_is_missing(tmp_path):
    table = read(tmp_path, "a,b,c,d\n x ,nan, NULL ,N/A\n\n,None,?,y\n")
    assert values(table) == [["x", "", "", ""], ["", "", "", "y"]]
    assert [line for line, _ in table.rows] == [2, 4]


def test_a_line_with_too_many_values_is_kept_apart_and_a_short_one_is_filled(tmp_path):
    table = read(tmp_path, "a,b\n1,2\n1,2,3\n1\n1,2,,\n")
    assert values(table) == [["1", "2"], ["1", ""], ["1", "2"]]
    assert table.broken == [(3, "3 values for 2 columns")]


def test_a_text_in_quotes_may_span_lines(tmp_path):
    assert values(read(tmp_path, 'a,b\n"x\ny",2\n')) == [["x\ny", "2"]]


LONG = "".join(f"{i},nv\n" for i in range(40_000))


@pytest.mark.parametrize("rest", [LONG, "5,nv\n", '5,"nv"\n'],
                         ids=["long", "short", "closed by the next"])
def test_a_quote_that_is_not_closed_is_named_with_its_line(tmp_path, rest):
    with pytest.raises(DataError, match=r"t\.csv, line 3: a quote that opens there"):
        read(tmp_path, 'a,b\n1,nv\n"2,nv\n' + rest)


@pytest.mark.parametrize(("text", "message"), [
    ("", "empty"),
    ("<!DOCTYPE html><html>login</html>", "web page"),
    ("\n\n", "empty"),
    ("a,b\n", "header but no rows"),
    ("a,A \n1,2\n", "two columns 'a'"),
])
def test_a_table_that_says_nothing_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(DataError, match=rf"t\.csv.*{message}"):
        read(tmp_path, text)


def found(tmp_path, text, images=("a.jpg", "b.jpg", "c.jpg"), name="t.csv", **columns):
    (tmp_path / name).write_text(text)
    tree = Tree(tmp_path, [tmp_path / image for image in images], [tmp_path / name])
    tables = find_tables(tree, **columns)
    return tables[0] if tables else None


def test_the_image_column_is_the_one_that_names_images(tmp_path):
    table = found(tmp_path, "id,age,photo,diagnostic\n1,40,x/a.png,nv\n2,50,b,mel\n3,60,C,nv\n")
    assert (table.image, table.label, table.matches) == ("photo", "diagnostic", 3)


def test_ages_are_no_images(tmp_path):
    images = ("1.jpg", "2.jpg", "3.jpg")
    table = found(tmp_path, "age,image_id,dx\n1,1,nv\n1,2,nv\n2,3,nv\n", images)
    assert table.image == "image_id"


def test_a_text_of_another_name_is_a_table_only_if_it_names_images(tmp_path):
    assert found(tmp_path, "image,label\na,nv\nb,mel\n", name="labels.txt").labelled
    assert found(tmp_path, "Please cite, if you can,\nand, or, not\n", name="README") is None


def test_columns_of_which_one_is_1_are_classes(tmp_path):
    table = found(tmp_path, "image,MEL,NV,UNK\na,1.0,0.0,0\nb,0,1,0\nc,0,0,0\n")
    assert table.one_hot == ("mel", "nv", "unk")
    assert [table.labels_of(row) for _, row in table.rows] == [["mel"], ["nv"], []]


@pytest.mark.parametrize(("one", "zero"), [
    ("True", "False"), ("TRUE", "FALSE"), ("1,0", "0,0"), ("1.000000", "0.000000"), ("1", "")])
def test_zeros_and_ones_may_be_written_in_any_way(tmp_path, one, zero):
    table = found(tmp_path, f"image;MEL;NV\na;{one};{zero}\nb;{zero};{one}\nc;{one};{zero}\n")
    assert [table.labels_of(row) for _, row in table.rows] == [["mel"], ["nv"], ["mel"]]


def test_probabilities_are_no_classes(tmp_path):
    assert not found(tmp_path, "image,MEL,NV\na,0.9,0.1\nb,0.2,0.8\nc,1,0\n").labelled


def test_weights_beside_known_diagnoses_and_sexes_beside_ages_are_no_classes(tmp_path):
    table = found(tmp_path, "image,MEL,NV,score_weight\na,1.0,0.0,1.0\nb,0,1,1.0\nc,0,1,0\n")
    assert table.one_hot == ("mel", "nv")
    assert not found(tmp_path, "image,age,male,female\na,3,1,0\nb,4,0,1\n").labelled
    table = found(tmp_path, "image,patient,benign,malignant\na,3,1,0\nb,4,0,1\n")
    assert table.one_hot == ("benign", "malignant")


def test_a_list_of_names_and_classes_with_spaces_is_a_table(tmp_path):
    table = found(tmp_path, "x/a.jpg 0\ny/b.jpg 1\n", name="train.txt")
    assert [table.labels_of(row) for _, row in table.rows] == [["0"], ["1"]]


def test_two_questions_of_yes_and_no_are_no_classes(tmp_path):
    table = found(tmp_path, "image_id,melanoma,keratosis\na,0,0\nb,0,0\nc,1,0\n")      # ISIC 2017
    assert table.image == "image_id"
    assert not table.labelled


def test_a_table_without_a_header_is_read_if_it_can_mean_one_thing_only(tmp_path):
    table = found(tmp_path, "a,benign\nb,malignant\nc,benign\n")
    assert [(row[table.image], *table.labels_of(row)) for _, row in table.rows] == [
        ("a", "benign"), ("b", "malignant"), ("c", "benign")]
    assert not found(tmp_path, "a,benign,40\nb,malignant,50\n").labelled


def test_columns_can_be_named_and_a_name_that_no_table_has_is_refused_with_what_was_seen(tmp_path):
    text = "first,second,grade,dx\na,b,3,nv\nb,c,4,nv\n"
    table = found(tmp_path, text, image_column="Second ", label_column="grade")
    assert (table.image, table.label) == ("second", "grade")
    with pytest.raises(DataError, match=r"no table has a column 'stage'.*t\.csv with first, sec"):
        found(tmp_path, text, label_column="stage")


@pytest.mark.parametrize("name", ["sample_submission.csv", "predictions.csv", "val_preds_1.csv",
                                  "pred.csv"])
def test_predictions_are_no_labels(tmp_path, name):
    assert not found(tmp_path, "image,target\na,0\nb,0\n", name=name).labelled
    assert found(tmp_path, "image,target\na,0\nb,0\n", name="spreds.csv").labelled


def test_a_column_is_known_however_its_words_are_divided(tmp_path):
    for header in ("Image ID,Lesion-ID,DX", "imageId,lesionID,dx", "IMAGE_ID,lesion id,Dx"):
        table = found(tmp_path, f"{header}\na,1,nv\nb,2,mel\n")
        assert (table.image, table.lesion, table.label) == ("image_id", "lesion_id", "dx")


@pytest.mark.parametrize("column", ["lesionid", "PatientID", "subject_id", "case_id"])
def test_images_of_one_patient_are_kept_together_whatever_the_column_is_called(tmp_path, column):
    assert found(tmp_path, f"image,{column},dx\na,1,nv\nb,1,mel\n").lesion


def test_a_table_of_many_features_is_read_if_it_names_images(tmp_path):
    header = "image_id," + ",".join(f"f{i}" for i in range(300)) + ",label\n"
    table = found(tmp_path, header + "".join(f"{name},{'0,' * 300}nv\n" for name in "abc"))
    assert (table.image, table.label, len(table.rows)) == ("image_id", "label", 3)


def test_a_table_of_pixels_is_not_read(tmp_path):
    header = ",".join(f"pixel{i:04d}" for i in range(784)) + ",label\n"
    assert found(tmp_path, header + "0," * 784 + "4\n").rows == []


@pytest.mark.parametrize("row", [1, 30])
def test_a_long_cell_is_read(tmp_path, row):
    rows = [f"a{i},nv,{'x' * 140_000 * (i == row)}" for i in range(40)]
    table = read(tmp_path, "\n".join(["image,dx,note", *rows]))
    assert len(table.rows) == 40
    assert len(table.rows[row][1]["note"]) == 140_000
