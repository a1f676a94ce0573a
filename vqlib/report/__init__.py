"""The course report, written again from what the notebooks saved, as a page and as a PDF.

    python -m vqlib.report             # or make report; VQLIB_PRESET or --preset chooses the run

`report.md` is the report: prose with placeholders, which `document` fills with the metrics that
`saved` reads, with the tables of `tables` and with the course report's own values, which stand in
`course_report.toml`. `build` makes pages of it and of the five notebooks (`notebooks`), and the
PDF. `style/` says how both look. Needs `pip install 'vqlib[report]'`: pandoc and typst.
"""
import importlib


def need(module: str):
    """Import a module of the extra; raises ImportError that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is missing: pip install 'vqlib[report]'") from error
