"""How the rows of a study are written down: one setting differs from the row compared with.

A row is a frozen dataclass with `key` (its name in file names), `label` (its name in tables),
`against` (the key of the row compared with, or None) and settings.
"""
from dataclasses import replace


def path(first, *changes) -> list:
    """The first row, and one more for each change, which is added to all changes before it.

    A change is (key, label, {setting: value}).
    """
    rows = [first]
    for change in changes:
        rows += swaps(rows[-1], change)
    return rows


def swaps(base, *changes) -> list:
    """One row for each change (key, label, {setting: value}) of the base alone."""
    return [replace(base, key=key, label=label, against=base.key, **settings)
            for key, label, settings in changes]
