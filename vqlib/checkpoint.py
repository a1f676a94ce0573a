"""Models and training states on disk: written whole or not at all, refused when a byte differs."""
import hashlib
import io
import json
from dataclasses import asdict, fields
from pathlib import Path

import safetensors.torch as st
import torch
from torch.overrides import TorchFunctionMode

from vqlib.backend.distributed import wait_for_all
from vqlib.backend.files import FileError, is_there, read_regular, write_atomically
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig
from vqlib.gpt import GPT, GPTConfig
from vqlib.identity import digest, origin_of, unpacked
from vqlib.settings import MOST, is_size, out_of_range
from vqlib.vqvae import VQVAE, VQVAEConfig
from vqlib.windowed_gpt import WindowedGPT, WindowedGPTConfig

KINDS = {"vqvae": (VQVAE, VQVAEConfig), "flow_decoder": (FlowDecoder, FlowDecoderConfig),
         "gpt": (GPT, GPTConfig), "windowed_gpt": (WindowedGPT, WindowedGPTConfig)}
FORMAT = 2                     # of a model file; 1 had no origin
MAGIC = b"vqlib state 3 "
ORIGIN = ("identity", "pictures", "adopted")
DTYPES = {torch.float32: ("F32", "F16"), torch.int64: ("I64",)}  # what may be read into what


def is_text(value) -> bool:
    return isinstance(value, str)


def is_dict(value) -> bool:
    return isinstance(value, dict)


def is_identity(value) -> bool:
    """True if the fields of an identity that are read later have the right types.

    Missing ones are allowed.
    """
    codes = value.get("codes", "")                               # a digest, or where they are from
    known = is_text(codes) or isinstance(codes["augmentations"], list)
    return known and is_text(value.get("vqvae", ""))


def is_filter(value) -> bool:
    try:
        return all(len(unpacked(value[part])) for part in ("records", "contents"))
    except FileError:        # raised without a file name; the caller adds it
        return False


def is_geometry(value) -> bool:
    crop, resize = value["crop"], value["resize"]
    return value.keys() == {"crop", "resize"} and is_size(crop, MOST) and (
        resize is None or (is_size(resize, MOST) and crop <= resize))


# a check for each optional key of the metadata
METADATA_CHECKS = {
    "preset": is_text, "data": is_text, "fingerprint": is_text, "identity": is_identity,
    "training": is_dict, "geometry": is_geometry, "pictures": is_filter,
    "classes": lambda names: (isinstance(names, list) and all(map(is_text, names))
                              and len(set(names)) == len(names)),
}


def kind_of(model) -> str:
    """The name of a model's kind, as its file has it. Raises TypeError for other objects."""
    for kind, (cls, _) in KINDS.items():
        if type(model) is cls:
            return kind
    raise TypeError(f"a {type(model).__name__} is none of the models {', '.join(KINDS)}")


def save_model(path: Path, model, **metadata) -> None:
    """Weights and config in one .safetensors file, there for all ranks when this returns.

    metadata: what else a reader should know (data, split, settings of the training). What the model
    learnt from goes with it, see `vqlib.identity`. Raises FileError if `path` is no regular file,
    OSError that names the file if the disk is full or read-only.
    """
    kind = kind_of(model)
    weights = {name: w.detach().cpu().contiguous() for name, w in model.state_dict().items()}
    metadata = {"format": FORMAT, "kind": kind, "config": asdict(model.cfg), **origin_of(model),
                **metadata}
    text = json.dumps(metadata, sort_keys=True, default=asdict)
    header = {"metadata": text, "sha256": digest(weights, text)}
    # one key: safetensors writes several in any order
    write_atomically(path, st.save(weights, {"vqlib": json.dumps(header, sort_keys=True)}))
    wait_for_all()


def load_model(path: Path, kind: str | None = None, made_by: str = ""):
    """(model in eval mode, metadata).

    Raises FileError if the file is missing (`made_by` says what makes it there), damaged, of
    another kind or of another version. Sizes are checked before memory is taken for them.
    """
    path = Path(path)
    if not is_there(path):
        hint = f": {made_by} makes it, run that first" if made_by else ""
        if made_by.startswith("notebook"):                       # commands take none that ship
            hint += (" (make notebooks runs all); with preset flagship and HAM10000 the weights "
                     "that ship are taken")
        raise FileError(f"{path.name} is missing in {path.parent}{hint}")
    weights, metadata = read_checked(path, kind)
    cls, config = KINDS[metadata["kind"]]
    model = cls(config(**metadata["config"]))
    model.load_state_dict(weights)
    model.origin = {name: metadata[name] for name in ORIGIN if name in metadata}
    return model.eval(), metadata


def read_checked(path: Path, kind: str | None = None) -> tuple[dict, dict]:
    """Weights and metadata of a model file that holds what it says; else raises FileError."""
    try:
        with st.safe_open(path, "pt") as f:
            header = json.loads(f.metadata()["vqlib"])
            text, expected = header["metadata"], header["sha256"]
            metadata = json.loads(text)
            check_metadata(path.name, metadata, kind)
            check_tensors(path.name, metadata, {name: f.get_slice(name) for name in f.keys()})
            weights = {name: f.get_tensor(name) for name in f.keys()}
    except FileError:
        raise
    except Exception as e:  # safetensors raises its own types for cut and foreign files
        raise FileError(f"{path.name} is no whole vqlib model ({e}): fetch or train it "
                        "again") from e
    if digest(weights, text) != expected:
        raise FileError(f"{path.name} is damaged: its SHA-256 is not {expected[:12]}...; fetch or "
                        "train it again")
    for name, w in weights.items():
        if not w.isfinite().all():
            raise FileError(f"{path.name}: {name} holds NaN or infinite numbers; fetch or train it "
                            "again")
    return weights, metadata


def check_metadata(name: str, metadata: dict, kind: str | None) -> None:
    """Raises FileError unless kind, version and all that is read later are what they should be."""
    found = metadata.get("kind")
    if kind and found != kind:
        raise FileError(f"{name} holds a {found}, a {kind} is needed")
    if found not in KINDS:
        raise FileError(f"{name} holds a {found}; known are {', '.join(KINDS)}")
    if metadata.get("format", 1) not in range(1, FORMAT + 1):
        raise FileError(f"{name} has format {metadata['format']}, this vqlib reads up to {FORMAT}: "
                        "update it")
    check_config(name, found, metadata.get("config"))
    if wrong := [key for key, is_good in METADATA_CHECKS.items()
                 if key in metadata and not is_good(metadata[key])]:
        raise FileError(f"{name}: its {wrong[0]} cannot be; fetch or train it again")
    side, geometry = metadata["config"].get("image_size"), metadata.get("geometry")
    if side and geometry and geometry["crop"] != side:
        raise FileError(f"{name}: a vqvae for images of {side} px was not trained on crops of "
                        f"{geometry['crop']} px; fetch or train it again")


def check_config(name: str, kind: str, config) -> None:
    """Raises FileError unless it has settings of that kind of model, each in its range.

    A file that is older than a setting was made with that setting's default.
    """
    cls = KINDS[kind][1]
    if not isinstance(config, dict) or not config.keys() <= {field.name for field in fields(cls)}:
        raise FileError(f"{name} holds a {kind} of another version of vqlib, with settings "
                        f"{list(config or ())}: fetch or train it again")
    if wrong := out_of_range(cls, config):
        setting, rule = wrong
        raise FileError(f"{name}: no {kind} has {setting} {config[setting]}, it must be {rule}; "
                        "fetch or train it again")
    try:
        cls(**config)
    except (ValueError, ArithmeticError) as e:
        raise FileError(f"{name}: {e}") from e


class Shapes(TorchFunctionMode):
    """Under it a model has shapes, but takes no memory: its tensors hold no numbers.

    `torch.device("meta")` would do the same, and import torch._dynamo for it, which takes seconds.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.empty, torch.zeros, torch.ones, torch.randn):
            return torch.empty(*args, dtype=kwargs.get("dtype"), device="meta")
        if function.__name__.endswith("_") and not function.__name__.endswith("__"):
            return args[0] if args else kwargs["tensor"]         # uniform_, kaiming_uniform_, ...
        return function(*args, **kwargs)


def check_tensors(name: str, metadata: dict, found: dict) -> None:
    """Raises FileError unless the file's tensors are those of the model that it says it is."""
    model, config = KINDS[metadata["kind"]]
    with Shapes():
        wanted = model(config(**metadata["config"])).state_dict()
    for tensor in {**wanted, **found}:
        if tensor not in wanted or tensor not in found or (
                list(wanted[tensor].shape) != found[tensor].get_shape()):
            raise FileError(f"{name} holds a {metadata['kind']} of another version of vqlib: its "
                            f"{tensor} does not fit its settings; fetch or train it again")
        if (dtype := found[tensor].get_dtype()) not in DTYPES[wanted[tensor].dtype]:
            raise FileError(f"{name}: {tensor} holds {dtype}; {DTYPES[wanted[tensor].dtype]} are "
                            "read")


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
    head, _, data = read_regular(path).partition(b"\n")
    claimed = head[len(MAGIC) :].decode("ascii", "replace")
    if not head.startswith(MAGIC) or claimed != hashlib.sha256(data).hexdigest():
        raise FileError(f"{path.name} is cut, damaged or of another version of vqlib: delete it to "
                        "start afresh")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        parts = {name: state[name] for name in ("identity", "weights", "optimizer", "extra")}
    except Exception as e:  # pickle, torch and zip raise what they like
        raise FileError(f"{path.name} is no training state ({type(e).__name__}): delete it to "
                        "start afresh") from e
    step = state.get("step")
    if not all(isinstance(part, dict) for part in parts.values()) or not (
            step == 0 or is_size(step, 2**62)):
        raise FileError(f"{path.name} is no training state: delete it to start afresh")
    return state
