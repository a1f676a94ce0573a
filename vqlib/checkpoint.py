"""Models and training states on disk: written whole or not at all, refused when a byte differs."""
import hashlib
import io
import json
import os
from dataclasses import asdict
from pathlib import Path

import safetensors.torch as st
import torch

from vqlib.backend.distributed import rank, wait_for_all
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig
from vqlib.gpt import GPT, GPTConfig
from vqlib.vqvae import VQVAE, VQVAEConfig
from vqlib.windowed_gpt import WindowedGPT, WindowedGPTConfig

KINDS = {"vqvae": (VQVAE, VQVAEConfig), "flow_decoder": (FlowDecoder, FlowDecoderConfig),
         "gpt": (GPT, GPTConfig), "windowed_gpt": (WindowedGPT, WindowedGPTConfig)}
MAGIC = b"vqlib state 2 "


class FileError(ValueError):
    """A file that cannot be trusted; the message names it and says what to do."""


def write_atomically(path: Path, data: bytes) -> None:
    """A reader finds the old file or the new one, never a part, also after a power cut.

    Of several ranks the first writes.
    """
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


def digest(weights: dict, metadata: str) -> str:
    """SHA-256 over metadata and every tensor: safetensors does not notice a flipped bit."""
    h = hashlib.sha256(metadata.encode())
    for name in sorted(weights):
        h.update(name.encode())
        h.update(weights[name].contiguous().numpy().tobytes())
    return h.hexdigest()


def save_model(path: Path, model, **metadata) -> None:
    """Weights and config in one .safetensors file, there for all ranks when this returns.

    metadata: what else a reader should know (data, split, settings of the training).
    """
    kind = next(kind for kind, (cls, _) in KINDS.items() if type(model) is cls)
    weights = {name: w.detach().cpu().contiguous() for name, w in model.state_dict().items()}
    metadata = {"kind": kind, "config": asdict(model.cfg), **metadata}
    text = json.dumps(metadata, sort_keys=True, default=asdict)
    header = {"metadata": text, "sha256": digest(weights, text)}
    # one key: safetensors writes several in any order
    write_atomically(path, st.save(weights, {"vqlib": json.dumps(header, sort_keys=True)}))
    wait_for_all()


def load_model(path: Path, kind: str | None = None, made_by: str = ""):
    """(model in eval mode, metadata).

    Raises FileError if the file is missing (`made_by` says what makes it), damaged, of another
    kind or of another version.
    """
    path = Path(path)
    if not path.exists():
        hint = f": {made_by} makes it, run that first" if made_by else f" in {path.parent}"
        raise FileError(f"{path.name} is missing{hint}")
    weights, metadata = read_checked(path)
    found = metadata.get("kind")
    if kind and found != kind:
        raise FileError(f"{path.name} holds a {found}, a {kind} is needed")
    try:
        cls, config = KINDS[found]
        model = cls(config(**metadata["config"]))
        model.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as e:
        raise FileError(f"{path.name} holds a {found} of another version of vqlib: fetch or train "
                        "it again") from e
    return model.eval(), metadata


def read_checked(path: Path) -> tuple[dict, dict]:
    """Weights and metadata of a model file whose SHA-256 is right; else raises FileError."""
    try:
        with st.safe_open(path, "pt") as f:
            header = json.loads(f.metadata()["vqlib"])
            weights = {name: f.get_tensor(name) for name in f.keys()}
        text, expected = header["metadata"], header["sha256"]
        metadata = json.loads(text)
    except Exception as e:  # safetensors raises its own types for cut and foreign files
        raise FileError(f"{path.name} is no whole vqlib model ({e}): fetch or train it "
                        "again") from e
    if digest(weights, text) != expected:
        raise FileError(f"{path.name} is damaged: its SHA-256 is not {expected[:12]}...; fetch or "
                        "train it again")
    return weights, metadata


def save_state(path: Path, state: dict) -> None:
    """A training state, its SHA-256 in front."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    write_atomically(path, MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data)


def load_state(path: Path) -> dict:
    """A training state; only tensors and plain values are unpickled.

    Raises FileError unless the file is whole.
    """
    path = Path(path)
    head, _, data = path.read_bytes().partition(b"\n")
    claimed = head[len(MAGIC) :].decode("ascii", "replace")
    if not head.startswith(MAGIC) or claimed != hashlib.sha256(data).hexdigest():
        raise FileError(f"{path.name} is cut, damaged or of another version of vqlib: delete it to "
                        "start afresh")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
