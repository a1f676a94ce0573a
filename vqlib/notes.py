"""What a notebook leaves behind beside its figures: its figures of merit as JSON, and a closing line."""
import json
import platform
import resource
import sys
import time

import torch

from vqlib.checkpoint import write_atomically


def keep(ws, notebook: str, key_figure: str, **figures) -> None:
    """Save a notebook's figures of merit beside the weights; `key_figure` goes into the closing table."""
    text = json.dumps({"key_figure": key_figure, **figures}, indent=1, default=float)
    write_atomically(ws.folder / f"{notebook}.json", text.encode())


def recall(ws, notebook: str) -> dict:
    """What `keep` saved; raises FileNotFoundError that names the notebook to run first."""
    path = ws.folder / f"{notebook}.json"
    if not path.exists():
        raise FileNotFoundError(f"run notebook {notebook} first: it has not run on {ws.dataset.title} under preset "
                                f"{ws.preset.name} yet")
    return json.loads(path.read_text())


def closing(ws, seed: int) -> str:
    """Versions, seed, device, wall time and peak memory, for the last cell of a notebook."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform != "darwin" else 2**30)
    return (f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads, device "
            f"{ws.device}, seed {seed}\n{time.time() - ws.opened:.0f} s, peak memory {peak:.1f} GiB")
