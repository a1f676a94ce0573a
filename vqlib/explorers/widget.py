"""An explorer in a notebook: one anywidget, or a picture where nobody can move it."""
import base64
import html
import os

import anywidget
import traitlets
from IPython import get_ipython

from vqlib.explorers.assets import script, style
from vqlib.explorers.explorer import Explorer, Session


def somebody_there() -> bool:
    """Whether a person runs this cell, who could move what it shows.

    Programs that execute notebooks (nbconvert, our run.py) tell the kernel that they cannot answer
    questions. A widget would come out blank in their pages without a network.
    """
    kernel = getattr(get_ipython(), "kernel", None)
    is_voila = "voila" in os.environ.get("SERVER_SOFTWARE", "")
    return kernel is not None and (is_voila or getattr(kernel, "_allow_stdin", True))


class Still:
    """The picture that an explorer opens with, with words, as HTML.

    As HTML, because what shows notebooks drops the alternative text of a bare PNG.
    """

    def __init__(self, explorer: Explorer, opened: dict):
        self.title = explorer.title
        self.image, self.words = explorer.still(opened)

    def _repr_mimebundle_(self, **options) -> dict:
        return {"text/html": self.figure(), "text/plain": self.words}

    def figure(self) -> str:
        url = f"data:image/jpeg;base64,{base64.b64encode(self.image).decode()}"
        words = html.escape(self.words)
        return (f'<figure style="margin:0"><img src="{url}" alt="{words}" style="max-width:100%">'
                f"<figcaption>{words}. (Explorer {html.escape(self.title)}: run this notebook, or "
                "<code>make explore</code>, to use it.)</figcaption></figure>")


class ExplorerWidget(anywidget.AnyWidget):
    """Shows what the explorer opens with at once; every later picture is a message."""

    _esm = script()          # text: a path would be watched for changes
    _css = style()
    view = traitlets.Unicode().tag(sync=True)
    opening = traitlets.Dict().tag(sync=True)

    def __init__(self, explorer: Explorer):
        opened = explorer.opened()
        super().__init__(view=explorer.name, opening={"about": explorer.about, **opened})
        self.still = Still(explorer, opened)
        self.session = Session(explorer, self.send)
        self.on_msg(lambda _, request, buffers: self.session.receive(request))

    def _repr_mimebundle_(self, **options):
        """The picture goes along, for saved pages and code hosts."""
        found = super()._repr_mimebundle_(**options)
        data, metadata = found if isinstance(found, tuple) else (found, {})
        return {**data, **self.still._repr_mimebundle_()}, metadata
