"""What the front page says holds: its links, its table of faults, its length."""
import re
from pathlib import Path

import pytest

from vqlib.studies import faults

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *(ROOT / name / "README.md" for name in (
    "notebooks", "data", "data/pretrained", "figures", "tests/bench", "vqlib/backend"))]


def test_it_is_read_in_a_minute():
    lines = README.read_text().splitlines()
    assert len(lines) <= 120
    assert not [line for line in lines if len(line) > 100 and not line.startswith("|")]


def test_its_faults_are_those_of_the_studies():
    rows = faults.table(short=True).splitlines()
    assert "\n".join(rows) in README.read_text()
    assert len(rows) - 2 == sum(fault.short for fault in faults.FAULTS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_links_lead_to_files(page):
    text = page.read_text()
    assert "@@" not in text
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
