"""The views of the explorers for browsers: one script and one style sheet, read from assets/."""
import json
from pathlib import Path

FOLDER = Path(__file__).with_name("assets")
PARTS = ("base", "data", "reconstruction", "codebook", "sampler", "inpainting", "main")


def script() -> str:
    """An ES module; `export default {render}` is what anywidget asks for."""
    return "\n".join((FOLDER / f"{part}.js").read_text(encoding="utf-8") for part in PARTS)


def style() -> str:
    return (FOLDER / "style.css").read_text(encoding="utf-8")


def as_data(value) -> str:
    """JSON that can stand in a <script>: nothing in it can end the element."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
