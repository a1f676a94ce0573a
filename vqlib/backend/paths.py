"""Where the project keeps its files."""
import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """The folder that holds data/, figures/ and notebooks/: `$VQLIB_HOME`, else this checkout."""
    return Path(os.environ.get("VQLIB_HOME") or CHECKOUT)


def pretrained() -> Path:
    """The folder of the weights that ship: that of `home()` if there is one, else this checkout's.

    So a `$VQLIB_HOME` for results does not hide them.
    """
    own = home() / "data" / "pretrained"
    return own if own.exists() else CHECKOUT / "data" / "pretrained"
