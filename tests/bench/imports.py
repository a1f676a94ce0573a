"""How long loading the library takes beside PyTorch alone, and what it must not load."""
import json
import subprocess
import sys
from pathlib import Path

from .timing import Row, between, compare

LIBRARY = ("import vqlib.data.dataset, vqlib.vqvae, vqlib.gpt, vqlib.windowed_gpt, vqlib.train, "
           "vqlib.metrics, vqlib.presets")
ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("umap", "sklearn", "numba")


def python(code: str) -> str:
    return subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)


def bench(tiny=False):
    rounds = 1 if tiny else 7
    seconds = compare(rounds, torch=lambda: python("import torch"),
                      vqlib=lambda: python("import vqlib, torch"), whole=lambda: python(LIBRARY))
    for name, what in (("vqlib", "`import vqlib`"), ("whole", "all of vqlib's modules")):
        yield Row(f"{what}: time", "`import torch`", "<= 1.2", seconds[name] / seconds["torch"],
                  between(seconds[name], seconds["torch"]))
    which = f"[name for name in {HEAVY} if name in sys.modules]"
    loaded = json.loads(python(f"{LIBRARY}; import json, sys; print(json.dumps({which}))"))
    yield Row(f"of {', '.join(HEAVY)} it loads", "", "<= 0", [len(loaded)], " ".join(loaded))
