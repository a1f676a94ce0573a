"""Where the project keeps its files."""
import os
from pathlib import Path


def home() -> Path:
    """The folder that holds data/, figures/ and notebooks/: `$VQLIB_HOME`, else this checkout."""
    return Path(os.environ.get("VQLIB_HOME") or Path(__file__).resolve().parents[2])
