"""Laws of what placeholders print: text shows as it is, and numbers have a format."""
import pytest

from vqlib.report import text
from vqlib.report.text import Markdown


def test_text_is_escaped_once_and_markdown_never():
    assert text.finished("a|b *c* <d>") == r"a\|b \*c\* \<d\>"
    assert text.finished(text.finished("a|b")) == r"a\|b"
    assert text.finished(Markdown("**bold**")) == "**bold**"


def test_text_of_several_lines_stays_in_its_line():
    assert text.finished("a\n\n# b") == r"a \# b"


def test_a_float_without_a_format_is_an_error():
    with pytest.raises(TypeError, match=r"3\.14"):
        text.finished(3.14)


@pytest.mark.parametrize(("shown", "expected"), [
    (text.finished(9025), "9,025"),
    (text.fixed(34.056, 1, "dB"), "34.1\u00a0dB"),
    (text.fixed(-0.5, 1), "\u22120.5"),
    (text.fixed(None, 1, "dB"), "-"),
    (text.signed(1.26, 1, "dB"), "+1.3\u00a0dB"),
    (text.percent(0.404), "40\u00a0\\%"),
    (text.spread({"mean": 34.06, "std": 3.1}, 1, "dB"), "34.1 ± 3.1\u00a0dB"),
    (text.setting(0.00005), "0.00005"),
    (text.setting([0.0004, 0.00005]), "0.0004, 0.00005"),
    (text.setting(True), "yes"),
    (text.setting(None), "-"),
    (text.listed(["01"]), "01"),
    (text.listed(["01", "02", "04"]), "01, 02 and 04"),
])
def test_numbers_have_their_digits_and_their_unit(shown, expected):
    assert shown == expected


def test_rows_of_sentences_may_go_on_over_lines():
    rows = text.listed_rows("""
        * a fault that
          goes on
        - its fix
        * another
        - and its fix
        """.replace("\n        ", "\n"))
    assert rows == [["a fault that goes on", "its fix"], ["another", "and its fix"]]


def test_only_a_table_with_sentences_is_as_wide_as_the_page():
    numbers = text.pipe_table(["a", "b"], [["x", 1]], "lr").splitlines()
    assert numbers == ["| a | b |", "|:---|---:|", "| x | 1 |"]
    sentences = text.pipe_table(["a", "b"], [["x", 1]], "pr").splitlines()
    assert len(sentences[0]) > text.COLUMNS
    assert sentences[1] == "|:---------|---:|"
