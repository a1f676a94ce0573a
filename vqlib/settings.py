"""Ranges of the settings of models, whether a file or a caller gives them."""
import math
from dataclasses import asdict, fields

# the largest value of a setting; of the others MOST
LIMITS = {"n_down": 8, "grid": 256, "patch": 64, "layers": 256, "residual_layers": 256,
          "steps": 1000, "heads": 256, "kv_heads": 256, "n_codes": 2**15}
MOST = 2**13
LEAST = {"hidden": 2, "decoder_hidden": 2}                       # a layer has half; of the others 1
SHARES = ("decay", "dropout", "class_dropout")                   # of 1


def is_size(value, most: int, least=1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def out_of_range(cls, settings: dict) -> tuple[str, str] | None:
    """The first of a config's settings that no model can have, and what it must be, in words.

    None if all are in their ranges.
    """
    types = {field.name: field.type for field in fields(cls)}
    for name, value in settings.items():
        if types[name] is bool:
            good, rule = isinstance(value, bool), "True or False"
        elif types[name] is float:
            most = 1 if name in SHARES else math.inf
            good = isinstance(value, int | float) and 0 <= value <= most and value < math.inf
            rule = "a number in 0..1" if name in SHARES else "a finite number, at least 0"
        else:
            least, most = LEAST.get(name, 1), LIMITS.get(name, MOST)
            optional = isinstance(None, types[name])
            good = is_size(value, most, least) or (optional and value is None)
            rule = f"a whole number in {least}..{most}" + ", or None" * optional
        if not good:
            return name, rule
    return None


def check(cfg) -> None:
    """Raises ValueError that names a setting out of its range, before memory is taken for it."""
    if wrong := out_of_range(type(cfg), asdict(cfg)):
        name, rule = wrong
        raise ValueError(f"{type(cfg).__name__}: {name} {getattr(cfg, name)!r} must be {rule}")
