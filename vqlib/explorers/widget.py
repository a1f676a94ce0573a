"""An explorer in a notebook: one anywidget, and a picture for readers without a kernel."""
import base64
import html

import anywidget
import traitlets

from vqlib.explorers.assets import script, style
from vqlib.explorers.explorer import Explorer, Session


class ExplorerWidget(anywidget.AnyWidget):
    """Shows what the explorer opens with at once; every later picture is a message."""

    _esm = script()          # text: a path would be watched for changes
    _css = style()
    view = traitlets.Unicode().tag(sync=True)
    opening = traitlets.Dict().tag(sync=True)

    def __init__(self, explorer: Explorer):
        opened = explorer.opened()
        super().__init__(view=explorer.name, opening={"about": explorer.about, **opened})
        self.title = explorer.title
        self.still, self.alt = explorer.still(opened)
        self.session = Session(explorer, self.send)
        self.on_msg(lambda _, request, buffers: self.session.receive(request))

    def _repr_mimebundle_(self, **options):
        """Where no widget runs (saved pages, code hosts) the picture takes its place, with words.

        As HTML, because what shows notebooks drops the alternative text of a bare PNG.
        """
        found = super()._repr_mimebundle_(**options)
        data, metadata = found if isinstance(found, tuple) else (found, {})
        return {**data, "text/html": self.figure(), "text/plain": self.alt}, metadata

    def figure(self) -> str:
        url = f"data:image/jpeg;base64,{base64.b64encode(self.still).decode()}"
        words = html.escape(self.alt)
        return (f'<figure style="margin:0"><img src="{url}" alt="{words}" style="max-width:100%">'
                f"<figcaption>{words}. (Explorer {html.escape(self.title)}: run this notebook, or "
                "<code>make explore</code>, to use it.)</figcaption></figure>")
