"""Judges what vqlib trained, with features and measures that never train anything. Needs `pip install 'vqlib[evaluation]'`."""
import importlib


def need(module: str):
    """Import a module of the extra; raises ImportError that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise ImportError(f"{module.partition('.')[0]} is missing: pip install 'vqlib[evaluation]'") from e
