"""How values become Markdown: numbers need a format, and everything else is escaped."""
import re
import string

import numpy as np

SPACE = "\u00a0"  # between a number and its unit: lines do not break there
MINUS = "\u2212"


class Markdown(str):
    """Text that is Markdown already, and is not escaped again."""

    __slots__ = ()


def escape(value) -> Markdown:
    """Any text as one line of Markdown that shows it as it is, such as the name of a class."""
    line = " ".join(str(value).split())
    return Markdown(re.sub(f"([{re.escape(string.punctuation)}])", r"\\\1", line))


def finished(value):
    """What a placeholder of the template prints.

    Raises TypeError for a float without a format: its digits would be chosen by chance.
    """
    if isinstance(value, Markdown):
        return value
    if isinstance(value, float):
        raise TypeError(f"{value} needs a format: fixed, signed or percent")
    if isinstance(value, int) and not isinstance(value, bool):
        return count(value)
    return escape(value)


def with_unit(number: str, unit: str) -> Markdown:
    return Markdown(number.replace("-", MINUS) + (SPACE + escape(unit) if unit else ""))


def fixed(value: float | None, digits: int, unit="") -> Markdown:
    """34.12 -> 34.1 dB; what could not be measured is a dash."""
    return Markdown("-") if value is None else with_unit(f"{value:,.{digits}f}", unit)


def signed(value: float, digits: int, unit="") -> Markdown:
    """A difference, always with its sign."""
    return with_unit(f"{value:+,.{digits}f}", unit)


def percent(value: float | None, digits=0) -> Markdown:
    """0.4 -> 40 %."""
    return fixed(None if value is None else 100 * value, digits, "%")


def count(value: int) -> Markdown:
    """9025 -> 9,025."""
    return Markdown(f"{value:,}")


def spread(metric: dict, digits: int, unit="") -> Markdown:
    """Mean ± standard deviation over images, as `vqlib.metrics.spread` saved them."""
    mean, std = fixed(metric["mean"], digits), fixed(metric["std"], digits, unit)
    return Markdown(f"{mean} ± {std}")


def setting(value) -> Markdown:
    """A setting of a config: yes, no, a number with all its digits, or several of them."""
    if value is None:
        return Markdown("-")
    if isinstance(value, bool):
        return Markdown("yes" if value else "no")
    if isinstance(value, list | tuple):
        return Markdown(", ".join(setting(one) for one in value))
    if isinstance(value, float):
        return Markdown(np.format_float_positional(value, trim="-"))
    return finished(value)


def listed(parts: list) -> Markdown:
    """a, b and c."""
    *first, last = [finished(part) for part in parts]
    return Markdown(f"{', '.join(first)} and {last}" if first else last)


COLUMNS = 200  # pandoc wraps the cells of a table in which a line is longer than this


def rule(align: str) -> str:
    """The line under a table's header."""
    dashes = {"l": ":---", "r": "---:", "s": ":" + 6 * "-", "p": ":" + 9 * "-"}
    return "|" + "|".join(dashes[letter] for letter in align) + "|"


def pipe_table(header: list, rows: list[list], align: str) -> Markdown:
    """A Markdown table; align has a letter for each column: l, r, or s and p for sentences.

    A table with sentences is as wide as the page; p is the widest.
    """
    lines = ["| " + " | ".join(finished(cell) for cell in line) + " |" for line in [header, *rows]]
    if {*align} & {"s", "p"}:
        lines[0] = lines[0][:-1].ljust(COLUMNS) + "|"
    lines.insert(1, rule(align))
    return Markdown("\n".join(lines))


def listed_rows(text: str) -> list[list[Markdown]]:
    """Rows of a table whose cells are sentences: `* ` begins a row, `- ` a cell of it.

        * the first cell of a row, which
          may go on
        - the second
    """
    rows = []
    for line in text.strip().splitlines():
        mark, rest = line[:2], line[2:].strip()
        if mark == "* ":
            rows.append([rest])
        elif mark == "- ":
            rows[-1].append(rest)
        elif rest:
            rows[-1][-1] += " " + rest
    return [[Markdown(cell) for cell in row] for row in rows]
