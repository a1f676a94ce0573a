"""Laws of the rows: one change each, and the path ends at the library."""
from dataclasses import asdict, replace

import pytest

from vqlib.studies.runner import STUDIES

NAMES = {"key", "label", "against"}
each_study = pytest.mark.parametrize("study", STUDIES.values(), ids=STUDIES)
each_path = pytest.mark.parametrize("name", ["vqvae", "prior"])


@each_study
def test_keys_are_unique_and_rows_are_compared_with_rows_above_them(study):
    keys = [row.key for row in study.rows]
    assert len({*keys}) == len(keys)
    for i, row in enumerate(study.rows):
        assert row.against is None or row.against in keys[:i]


@pytest.mark.parametrize("name", ["vqvae", "prior", "limits"])
def test_a_row_differs_from_the_one_it_is_compared_with_in_one_setting(name):
    rows = {row.key: asdict(row) for row in STUDIES[name].rows}
    for row in STUDIES[name].rows[1:]:
        a, b = rows[row.key], rows[row.against]
        assert len([k for k in a if a[k] != b[k] and k not in NAMES]) == 1, row.key


@each_path
def test_the_path_ends_at_the_library(name):
    ours = next(row for row in STUDIES[name].rows if row.key == "ours")
    defaults = type(ours)("ours", ours.label)
    assert replace(defaults, against=ours.against) == ours
