"""Tables that lie beside images: which column names the image, its class, its lesion.

The image column is found by what stands in it: names of images that are there. The class is a
column of a known name, or a group of columns of which one is 1 (ISIC).
"""
import csv
import io
import re
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import charset_normalizer

from vqlib.data.classes import CODES, MISSING
from vqlib.data.folders import Tree, image_key
from vqlib.data.records import DataError, printable

IMAGES = ("image_id", "isic_id", "image", "image_name", "img_id", "image_path", "image_file")
NAMES = (*IMAGES, "file_name", "filename", "file", "path", "id_code", "id")  # often something else
LABELS = ("dx", "diagnosis", "diagnostic", "label", "labels", "class", "class_name", "class_label",
          "category", "target", "disease", "lesion_type", "clinical_diagnosis",
          "histological_diagnosis", "benign_malignant", "diagnosis_1")
LESIONS = ("lesion_id", "lesion", "lesionid", "lesion_no", "lesion_number",  # best ones first
           "patient_id", "patient", "patientid", "subject_id", "subject", "case_id")
SPREADSHEETS = {".xlsx", ".xls", ".ods", ".parquet", ".feather", ".jsonl"}
TELLING = re.compile(r"image|img|isic|file|path|photo|pic|name|(^|_)id(_|$)")   # of images
TEXT_SUFFIXES = (".txt", "")                                       # prose, or a table
SWITCH = {"1": True, "true": True, "0": False, "false": False, "": False}
GUESSES = re.compile(r"submission|predict|(^|[^a-z])preds?([^a-z]|$)", re.IGNORECASE)  # no labels
ENCODINGS = ["utf_16", "utf_16_le", "utf_16_be", "utf_32", "cp1252", "cp1250", "cp1251", "gb18030",
             "cp932", "cp949", "big5"]            # what spreadsheets write, not old Macs' pages
LARGE = 2**24    # bytes of a text of another name: more are no table
HEAD = 2**18     # bytes that an encoding is found by: it takes seconds for each MB
PIXEL = re.compile(r"pixel_?\d+")                                  # of hmnist_8_8_L.csv
WIDE = 200       # columns, none of a usual name: more are pixels (hmnist_28_28_RGB.csv)


@dataclass
class Table:
    """A table, its rows by folded column name, and the columns found in it.

    rows: (line, {column: value}), values stripped, "" where missing. one_hot: columns of classes.
    """

    path: Path
    columns: list[str]
    rows: list[tuple[int, dict[str, str]]]
    broken: list[tuple[int, str]] = field(default_factory=list)   # (line, what is wrong with it)
    image: str | None = None
    label: str | None = None
    lesion: str | None = None
    one_hot: tuple[str, ...] = ()
    matches: int = 0     # images that are there
    others: list[str] = field(default_factory=list)    # columns that name other images

    @property
    def labelled(self) -> bool:
        return bool(self.image and (self.label or self.one_hot))

    def labels_of(self, row: dict[str, str]) -> list[str]:
        """The class as the table writes it; none if it is missing, several if several are set."""
        if self.one_hot:
            return [column for column in self.one_hot if is_one(row[column])]
        return [row[self.label]] if row[self.label] else []


def is_one(text: str) -> bool | None:
    """What a cell of a column of zeros and ones says; None if it says something else."""
    return SWITCH.get(re.sub(r"[.,]0+$", "", text.casefold()))


def fold(column: str) -> str:
    """The name of a column in lower case: lesion_id of "Lesion ID", LESION-ID and lesionId."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column.strip())
    return re.sub(r"[\s-]+", "_", words.casefold())


def read_text(path: Path) -> str:
    """A text in UTF-8, or in the encoding that its bytes speak for."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        head = data[:HEAD]
        if len(head) < len(data) and b"\0" not in head:            # a sign may be of two bytes
            head = head[: head.rfind(b"\n") + 1] or head
        best = charset_normalizer.from_bytes(head, cp_isolation=ENCODINGS).best()
        if best is None:
            raise DataError(f"{printable(path.name)} is no text in a known encoding: "
                            "save it as UTF-8") from None
        return data.decode(best.encoding, "replace").removeprefix("\ufeff")


def read_table(path: Path, delimiter: str | None = None) -> Table:
    """Read a table with any usual delimiter (default: found), encoding, quoting and line end.

    Raises DataError that names the line if a quote is not closed, or if there is no header or row.
    """
    csv.field_size_limit(2**31 - 1)    # else a cell of over 131,072 letters is an error
    name, text = printable(path.name), read_text(path).replace("\0", "")
    if text.lstrip().startswith("<"):
        raise DataError(f"{name} is a web page, no table: fetch it again")
    first = [*islice((line for line in text.splitlines() if line.strip()), 9)] or [""]
    if hint := re.fullmatch(r'"?sep=(.)"?', first[0].strip(), re.IGNORECASE):    # Excel writes it
        delimiter, text = hint[1], text.partition("\n")[2]
    elif delimiter is None:            # csv.Sniffer takes a letter for the delimiter of one column
        delimiter = max(",;\t|", key=lambda d: columns_of(first, d))
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True,
                       skipinitialspace=True)
    rows = []
    while True:
        line = lines.line_num + 1
        try:
            row = [value.strip() for value in next(lines)]
        except StopIteration:
            break
        except csv.Error as e:
            raise DataError(f"{name}, line {line}: a quote that opens there is not closed "
                            f"as it should be ({e}): inside a text it is doubled") from e
        if any(row):
            rows.append((line, row))
        if len(row) > WIDE and len(rows) == 1 and not {*map(fold, row)} & {*NAMES}:
            return Table(path, [fold(column) for column in row], [])
    if not rows:
        raise DataError(f"{name} is empty: fetch it again, or move it away")
    return with_columns(path, *rows)


def columns_of(lines: list[str], delimiter: str) -> tuple[int, int]:
    """Into how many columns a delimiter divides the narrowest line, and the header."""
    widths = [len(next(csv.reader([line], delimiter=delimiter), ())) for line in lines]
    return min(widths), widths[0]


def with_columns(path: Path, header: tuple, *rows: tuple) -> Table:
    """Rows by the names in the header, which may be longer or shorter than a row."""
    columns = [fold(column) for column in header[1]]
    while columns and not columns[-1]:                             # delimiters at the end of lines
        columns.pop()
    twice = {c for c in columns if c and columns.count(c) > 1}
    if twice:
        raise DataError(f"{printable(path.name)} has two columns {min(twice)!r}: rename one")
    if not rows:
        raise DataError(f"{printable(path.name)} has a header but no rows: fetch it again, "
                        "or move it away")
    table = Table(path, columns, [])
    for line, values in rows:
        if any(values[len(columns) :]):
            table.broken.append((line, f"{len(values)} values for {len(columns)} columns"))
            continue
        values = ["" if value.casefold() in MISSING else value for value in values]
        values += [""] * (len(columns) - len(values))
        table.rows.append((line, dict(zip(columns, values))))
    return table


def find_tables(tree: Tree, image_column=None, label_column=None) -> list[Table]:
    """All tables below a folder with the columns found in them.

    A text of another name is a table if it names images. Raises DataError if a table cannot be
    read, or if no table has a column that was asked for.
    """
    keys, tables = {image_key(path.name) for path in tree.images}, []
    wanted = [fold(column) if column else None for column in (image_column, label_column)]
    for path in tree.others:
        suffix = path.suffix.lower()
        if suffix in SPREADSHEETS:
            tables.append(Table(path, [], []))
        elif suffix in (".csv", ".tsv", ".tab"):
            tables.append(assign(read_table(path), keys, *wanted))
        elif suffix in TEXT_SUFFIXES and path.stat().st_size < LARGE:
            for delimiter in (None, " "):                          # a list of names and classes
                try:
                    table = assign(read_table(path, delimiter), keys, *wanted)
                except DataError:
                    continue                                       # prose
                if table.matches or {"image_id", "dx"} <= {*table.columns}:
                    tables.append(table)
                    break
    for column in filter(None, wanted):
        if not any(column in table.columns for table in tables):
            seen = "; ".join(f"{printable(table.path.name)} with {', '.join(table.columns)}"
                             for table in tables)
            raise DataError(f"no table has a column {column!r}; seen: {seen or 'no table at all'}")
    return tables


def assign(table: Table, keys: set[str], image_column, label_column) -> Table:
    """Find the columns of a table; `keys` of the images that are there."""
    no_header = bool({image_key(column) for column in table.columns} & keys)
    if no_header:
        table.rows.insert(0, (1, dict(zip(table.columns, table.columns))))
    named = {}                                                     # column -> images it names
    for column in table.columns:
        if not column or PIXEL.fullmatch(column):
            continue
        values = {row[column] for _, row in table.rows}
        named[column] = {image_key(value) for value in values} & keys
        told = TELLING.search(column) and column not in LESIONS
        told = told or no_header or column == image_column
        if not told and 2 * len(named[column]) < len(keys):        # ages, epochs, patients
            named[column] = {key for key in named[column] if not key.isdigit()}
    found = {column: len(images) for column, images in named.items()}
    table.matches = max(found.values(), default=0)
    first = [c for c in (*NAMES, *found) if table.matches and found.get(c) == table.matches]
    by_name = [c for c in IMAGES if c in found]                    # its images lie elsewhere
    table.image = image_column if image_column in found else next(iter(first or by_name), None)
    rest = [c for c in found if c != table.image]
    own = named.get(table.image, set())
    table.others = [c for c in rest if 2 * len(named[c] - own) > table.matches]
    if label_column:
        table.label = label_column if label_column in rest else None
    elif not GUESSES.search(table.path.name):
        filled = {c for c in rest if any(row[c] for _, row in table.rows)}
        table.label = next((c for c in LABELS if c in filled), None)
        table.one_hot = () if table.label else one_hot(table, rest)
        if no_header and len(rest) == 1:                           # ISIC 2016: image,class
            table.label = rest[0]
        if table.labelled and 2 * table.matches < len(keys) and is_legend(table):
            table.label = None
    table.lesion = next((c for c in LESIONS if c in rest and c != table.label), None)
    return table


def is_legend(table: Table) -> bool:
    """Whether a table numbers the classes: 0, 1, ... or 1, 2, ..., each with a name of its own."""
    numbers = [row[table.image] for _, row in table.rows]
    names = {row[table.label] for _, row in table.rows} if table.label else ()
    counted = [[str(i + first) for i in range(len(numbers))] for first in (0, 1)]
    return len(names) == len(numbers) and numbers in counted


def one_hot(table: Table, columns: list[str]) -> tuple[str, ...]:
    """Columns of zeros and ones of which most rows have a single 1; () if there are none.

    Those of known diagnoses (ISIC adds weights), or all: other pairs of yes and no may be sexes.
    """
    binary = [c for c in columns
              if all(is_one(row[c]) is not None for _, row in table.rows)]
    known = [c for c in binary if c in CODES]
    chosen = known if len(known) > 1 else binary
    if len(chosen) < 2 or not (known or {*binary} == {*columns} - {*LESIONS}):
        return ()
    ones = [sum(is_one(row[c]) for c in chosen) for _, row in table.rows]
    return tuple(chosen) if 2 * ones.count(1) > len(ones) else ()
