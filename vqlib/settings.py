"""Ranges of the settings of models, whether a file or a caller gives them."""
import math
from dataclasses import asdict, fields

# the largest value of a setting; of the others MOST
LIMITS = {"n_down": 8, "grid": 256, "patch": 64, "layers": 256, "residual_layers": 256,
          "steps": 1000, "heads": 256, "kv_heads": 256, "n_codes": 2**15}
MOST = 2**13
SHARES = ("decay", "dropout", "class_dropout")                   # of 1


def is_size(value, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def out_of_range(cls, settings: dict) -> str:
    """The first of a config's settings that no model can have; "" if there is none."""
    types = {field.name: field.type for field in fields(cls)}
    for name, value in settings.items():
        if types[name] in (bool, float):
            numbers = bool if types[name] is bool else int | float
            most = 1 if name in SHARES else math.inf
            good = isinstance(value, numbers) and 0 <= value <= most and value < math.inf
        else:
            optional = isinstance(None, types[name])
            good = is_size(value, LIMITS.get(name, MOST)) or (optional and value is None)
        if not good:
            return name
    return ""


def check(cfg) -> None:
    """Raises ValueError that names a setting out of its range, before memory is taken for it."""
    if name := out_of_range(type(cfg), asdict(cfg)):
        value, number = getattr(cfg, name), isinstance(getattr(type(cfg), name), float)
        most = (1 if name in SHARES else "infinity") if number else LIMITS.get(name, MOST)
        raise ValueError(f"{type(cfg).__name__}: {name} {value!r} must be "
                         f"{'in 0' if number else 'a whole number in 1'}..{most}")
