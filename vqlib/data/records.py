"""What is known of a data set before anything is decoded: its records, and what was left out."""
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


class DataError(ValueError):
    """The data cannot be used as it is; the message names the file, the value and what to do."""


@dataclass(frozen=True)
class Record:
    """One image before decoding."""

    name: str            # unique in its source
    label: str
    lesion: str          # images of one lesion stay on one side of a split; unknown: the name
    place: Path | int    # a file, or a row of the source's array


@dataclass
class Source:
    """Everything that is known of a data set without decoding it."""

    kind: str
    title: str                                # printed on top of notebooks and on figures
    records: list[Record]
    skipped: list[tuple[str, str]] = field(default_factory=list)  # (name, reason), never replaced
    notes: list[str] = field(default_factory=list)                # what a reader should know
    array: np.ndarray | None = None           # (N, H, W, 3) uint8 of sources that are not files


def printable(path) -> str:
    """A path as one line of text that every terminal can show, whatever bytes its name has."""
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"[\x00-\x1f\x7f]", lambda control: repr(control[0])[1:-1], text)


def listing(skipped: list[tuple[str, str]], names=3) -> list[str]:
    """A line for each reason, most frequent first: how many were left out, and some by name."""
    of_reason = defaultdict(list)
    for name, reason in skipped:
        of_reason[reason].append(name)
    lines = []
    for reason, found in sorted(of_reason.items(), key=lambda item: -len(item[1])):
        more = f" and {len(found) - names} more" if len(found) > names else ""
        lines.append(f"{len(found)} x {reason}: {', '.join(found[:names])}{more}")
    return lines
