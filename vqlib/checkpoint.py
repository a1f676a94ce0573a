"""Models and training states on disk: written whole or not at all, refused when a byte differs."""
import hashlib
import io
import json
import os
from dataclasses import asdict
from pathlib import Path

import safetensors.torch as st
import torch

from vqlib.backend.distributed import rank
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig
from vqlib.gpt import GPT, GPTConfig
from vqlib.vqvae import VQVAE, VQVAEConfig
from vqlib.windowed_gpt import WindowedConfig, WindowedGPT

KINDS = {"vqvae": (VQVAE, VQVAEConfig), "sharp": (FlowDecoder, FlowDecoderConfig), "gpt": (GPT, GPTConfig),
         "windowed": (WindowedGPT, WindowedConfig)}
MAGIC = b"vqlib state 1 "


class FileError(ValueError):
    """A file that cannot be trusted; the message names it and says what to do."""


def write_atomically(path: Path, data: bytes) -> None:
    """A reader finds the old file or the new one, never a part, also after a power cut. Of several ranks the first writes."""
    if rank():
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def digest(weights: dict, card: str) -> str:
    """SHA-256 over the card and every tensor: safetensors itself does not notice a flipped bit."""
    h = hashlib.sha256(card.encode())
    for name in sorted(weights):
        h.update(name.encode())
        h.update(weights[name].contiguous().numpy().tobytes())
    return h.hexdigest()


def save_model(path: Path, model, **card) -> None:
    """Weights and config in one .safetensors file; `card` keeps what else a reader should know (data, split, run)."""
    kind = next(k for k, (cls, _) in KINDS.items() if type(model) is cls)
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    text = json.dumps({"kind": kind, "config": asdict(model.cfg), **card}, sort_keys=True, default=asdict)
    meta = json.dumps({"card": text, "sha256": digest(weights, text)}, sort_keys=True)
    write_atomically(path, st.save(weights, {"vqlib": meta}))         # one key: safetensors writes several in any order


def load_model(path: Path, kind: str | None = None, made_by: str = ""):
    """(model in eval mode, card). Raises FileError if the file is missing, damaged or of another kind."""
    path = Path(path)
    if not path.exists():
        hint = f": {made_by} makes it, run that first" if made_by else f" in {path.parent}"
        raise FileError(f"{path.name} is missing{hint}")
    try:
        with st.safe_open(path, "pt") as f:
            meta, weights = json.loads(f.metadata()["vqlib"]), {k: f.get_tensor(k) for k in f.keys()}
        card, expected = json.loads(meta["card"]), meta["sha256"]
    except Exception as e:  # safetensors raises its own types for cut and foreign files
        raise FileError(f"{path.name} is no whole vqlib model ({e}): fetch or train it again") from e
    if digest(weights, meta["card"]) != expected:
        raise FileError(f"{path.name} is damaged: its SHA-256 is not {expected[:12]}...; fetch or train it again")
    if kind and card["kind"] != kind:
        raise FileError(f"{path.name} holds a {card['kind']}, a {kind} is needed")
    cls, config = KINDS[card["kind"]]
    try:
        model = cls(config(**card["config"]))
        model.load_state_dict(weights)
    except (TypeError, RuntimeError) as e:
        raise FileError(f"{path.name} holds a {card['kind']} of another version of vqlib: fetch or train it again") from e
    return model.eval(), card


def save_state(path: Path, state: dict) -> None:
    """A training state, its SHA-256 in front."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    write_atomically(path, MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


def load_state(path: Path) -> dict:
    """Raises FileError unless the file is whole; nothing but tensors and plain values is unpickled."""
    head, _, data = Path(path).read_bytes().partition(b"\n")
    if not head.startswith(MAGIC) or head[len(MAGIC) :].decode("ascii", "replace") != hashlib.sha256(data).hexdigest():
        raise FileError(f"{Path(path).name} is cut or damaged: delete it to start afresh")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
