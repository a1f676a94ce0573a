"""Where the project keeps its files."""
import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """The folder that holds data/, figures/ and notebooks/: `$VQLIB_HOME`, else this checkout.

    A blank value counts as unset. ~ is expanded here, because no shell expands it in an env file.
    """
    return Path((os.environ.get("VQLIB_HOME") or "").strip() or CHECKOUT).expanduser()


def pretrained() -> Path:
    """The folder of the weights that ship: that of `home()` if there is one, else this checkout's.

    So a `$VQLIB_HOME` for results does not hide them.
    """
    own = home() / "data" / "pretrained"
    return own if own.exists() else CHECKOUT / "data" / "pretrained"
