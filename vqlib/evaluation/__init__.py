"""Evaluation of reconstructed and generated images. Nothing in vqlib is trained on what is here.

Needs `pip install 'vqlib[evaluation]'`. Start with `suite.evaluate_generation`, which calls the
rest.
"""
import importlib


def need(module: str):
    """Import a module of the extra; raises ImportError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        message = f"{package} is missing: pip install 'vqlib[evaluation]'"
        raise ImportError(message) from error
