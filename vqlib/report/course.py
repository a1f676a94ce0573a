"""The course report's own values, each with the place where it was read."""
import tomllib
from dataclasses import dataclass
from pathlib import Path

from vqlib.report.text import Markdown, fixed

FILE = Path(__file__).with_name("course_report.toml")


@dataclass(frozen=True)
class Value:
    """One value of the course report."""

    value: float
    what: str
    source: str
    digits: int = 0
    unit: str = ""

    @property
    def shown(self) -> Markdown:
        return fixed(self.value, self.digits, self.unit)


def read() -> dict[str, Value]:
    return {name: Value(**entry) for name, entry in tomllib.loads(FILE.read_text()).items()}
