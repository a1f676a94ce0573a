"""Names of classes: one for all spellings, none for what says that it is missing."""
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable

from vqlib.data.records import DataError, printable
from vqlib.data.synthetic import CLASSES

ANY = "any"                             # a prior's label for all classes at once
CODES = {*CLASSES, "ak", "scc", "unk"}  # of HAM10000 and ISIC: always in lower case
MISSING = {"", "nan", "na", "n/a", "<na>", "null", "none", "nat", "?",
           "-nan", "n.a.", "<null>", "#n/a", "#na", "#value!", "#ref!", "#name?", "#div/0!"}


def fold(name: str) -> str:
    """What spellings of one class agree in: letters, whatever their case, space and form."""
    visible = "".join(c for c in unicodedata.normalize("NFKC", name)
                      if unicodedata.category(c) != "Cf")
    words = re.split(r"[\s_]+|(?<=[^\W\d])-(?=[^\W\d])", visible.casefold())
    return re.sub(r"\.0+$", "", " ".join(words).strip())


def name_classes(labels: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """One name for all spellings of a class -> ({spelling: name}, notes on what was joined).

    Raises DataError for a class called `any`, which nobody could ask for.
    """
    spellings = defaultdict(Counter)                               # folded -> spelling -> images
    for label in labels:
        spellings[fold(label)][label] += 1
    if ANY in spellings:
        raise DataError(f"no class can be called {printable(min(spellings[ANY]))!r}: {ANY} means "
                        "all classes; rename the folder, or the value in the table")
    names, joined = {}, []
    for folded, counts in sorted(spellings.items()):
        often = min(counts, key=lambda label: (-counts[label], label))
        name = folded if folded in CODES else unicodedata.normalize("NFC", " ".join(often.split()))
        names |= dict.fromkeys(counts, name)
        if len(counts) > 1:
            joined.append(" = ".join(map(repr, sorted(counts))))
    return names, [f"one class each: {'; '.join(joined)}"] if joined else []
