"""What a model learnt from: the identity of its run, and a filter of the pictures it saw.

Both travel with the model, as `model.origin`, into its file and out of it again. Models belong
together if one learnt from the other, and data is new to a model if the filter knows none of it.
"""
import base64
import binascii
import hashlib
import json
from dataclasses import asdict

import numpy as np
from torch import nn

from vqlib.backend.files import FileError
from vqlib.data.dataset import in_chunks

# two keys of 4 bytes a picture: with 8,000 training pictures one new picture in 270,000 is taken
# for a known one (2 * 8,000 / 2**32)
KEY = "<u4"


def plain(value):
    """A value as it comes back from a JSON file: tuples are lists, keys are text."""
    return json.loads(json.dumps(value))


def digest(weights: dict, text: str = "") -> str:
    """SHA-256 over a text and every tensor, whatever their order; 64 hex digits."""
    h = hashlib.sha256(text.encode())
    for name in sorted(weights):
        h.update(name.encode())
        h.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of a model's weights alone: the same on every device and in every file."""
    return digest(model.state_dict())


def sizes_of(model) -> dict:
    """Kind and settings of a model, as an identity has them."""
    return plain({"kind": type(model).__name__, **asdict(model.cfg)})


def origin_of(model) -> dict:
    """What is known of what a model learnt from: identity, pictures; {} of most models."""
    return getattr(model, "origin", {})


def difference(was: dict, now: dict) -> str:
    """Where two identities differ, in a line; "" if nowhere. What is not said counts as None."""
    a, b = flat(was), flat(now)
    parts = [f"{name} was {brief(a.get(name))}, now {brief(b.get(name))}"
             for name in {**a, **b} if a.get(name) != b.get(name)]
    more = f" and {len(parts) - 3} more" if len(parts) > 3 else ""
    return "; ".join(parts[:3]) + more


def flat(values: dict, path="") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{path}{name}.") if isinstance(value, dict) else {path + name: value}
    return found


def brief(value) -> str:
    """A value for a message; of a digest the first digits."""
    if value is None:
        return "not said"
    return value[:8] if isinstance(value, str) and len(value) == 64 else str(value)


def assert_learnt_from(model, vqvae) -> None:
    """Raises ValueError if a prior or a flow decoder says that it learnt from another VQ-VAE.

    Files older than identities do not say; then sizes have to do.
    """
    said = origin_of(model).get("identity", {}).get("vqvae")
    if said and said != (mine := weights_digest(vqvae)):
        raise ValueError(f"the {type(model).__name__} learnt from another VQ-VAE (weights "
                         f"{said[:8]}) than this one ({mine[:8]}): take the one it was trained "
                         "with, or train it on this one")


def picture_filter(dataset, rows: np.ndarray) -> dict:           # (n,)
    """A filter of a data set's pictures, ready for JSON: 8 bytes each, no way back to a picture.

    records: keys of name, class and lesion: the same pictures in another size. contents: keys of
    the decoded pixels: the same pictures under another name.
    """
    records, contents = keys_of(dataset, rows)
    return {"images": len(rows), "records": packed(records), "contents": packed(contents)}


def known_pictures(pictures: dict, dataset, rows: np.ndarray) -> np.ndarray:  # (n,) -> (n,) bool
    """Which of a data set's pictures a filter knows, by their record or by their content."""
    records, contents = keys_of(dataset, rows)
    known = np.isin(records, unpacked(pictures["records"]))
    return known | np.isin(contents, unpacked(pictures["contents"]))


def known_records(pictures: dict, dataset, rows: np.ndarray) -> float:        # (n,)
    """Share of a filter's records that are among these rows of a data set."""
    return float(np.isin(unpacked(pictures["records"]), record_keys(dataset, rows)).mean())


def keys_of(dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:      # (n,) -> (n,), (n,)
    contents = []
    for chunk in in_chunks(rows, 256):
        contents += [key(square.tobytes()) for square in dataset.squares(chunk).cpu().numpy()]
    return record_keys(dataset, rows), np.array(contents, KEY)


def record_keys(dataset, rows: np.ndarray) -> np.ndarray:        # (n,) -> (n,)
    records = zip(dataset.names, dataset.label_names, dataset.lesions)
    every = ["\t".join(record) for record in records]
    return np.array([key(every[row].encode()) for row in rows], KEY)


def key(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "little")


def packed(keys: np.ndarray) -> str:
    return base64.b64encode(np.unique(keys).tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """Raises FileError for a text that holds no keys."""
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), KEY)
    except (TypeError, ValueError, binascii.Error) as e:
        raise FileError("the filter of training pictures in the model's file is damaged: fetch or "
                        "train the model again") from e
