"""Laws of explorers in notebooks: a picture with words where nothing runs, else answers."""
import base64
import re
from types import SimpleNamespace

import pytest
import torch
from nbconvert import HTMLExporter
from nbformat import v4

from vqlib import explorers
from vqlib.explorers import widget as module
from vqlib.explorers.explorer import Explorer
from vqlib.explorers.widget import ExplorerWidget, somebody_there
from vqlib.pictures import to_jpeg


class Nasty(Explorer):
    """A class folder may be called anything."""

    name, title, about = "sampler", "<b>", "about"

    def do_open(self):
        yield {"label": "</script><script>alert(1)</script>"}

    def do_echo(self, word):
        yield {"word": word}

    def still(self, opened):
        return to_jpeg(torch.zeros(3, 4, 4)), 'a "picture" of <script>alert(1)</script>'


@pytest.fixture
def widget():
    made = ExplorerWidget(Nasty())
    made.replies = []
    made.session.send = made.replies.append
    yield made
    made.session.wait()
    made.close()


def test_a_saved_notebook_shows_a_picture_with_words_that_are_no_html(widget):
    data, _ = widget._repr_mimebundle_()
    page = data["text/html"]
    assert "<script" not in page
    assert "<b>" not in page
    assert '&quot;picture&quot; of &lt;script&gt;' in page
    url = re.search(r'src="data:image/jpeg;base64,([^"]+)"', page)[1]
    assert base64.b64decode(url) == widget.still.image
    assert "application/vnd.jupyter.widget-view+json" in data


def test_a_report_page_shows_the_picture_and_no_dead_text(widget):
    data, _ = widget._repr_mimebundle_()
    output = v4.new_output("execute_result", data, execution_count=1)
    notebook = v4.new_notebook(cells=[v4.new_code_cell("show", outputs=[output])])
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    body = page[page.index("<body") :]
    assert re.search("alt=.a (\"|&quot;)picture", body)
    assert "ExplorerWidget" not in body
    assert widget.model_id not in body


def test_it_opens_with_its_state_before_the_first_move(widget):
    assert widget.view == "sampler"
    assert widget.opening == {"about": "about", "label": "</script><script>alert(1)</script>"}


def test_a_message_is_answered(widget):
    widget._handle_custom_msg({"do": "echo", "word": "hello", "id": 3}, [])
    widget.session.wait()
    assert widget.replies == [{"id": 3, "word": "hello"}, {"id": 3, "done": True}]


@pytest.mark.parametrize("kind", ["Sampler", "Inpainting", "Reconstruction", "Codebook"])
def test_every_explorer_of_a_pipeline_shows_itself(pipeline, home, kind):
    page = explorers.show(getattr(explorers, kind)(pipeline))._repr_mimebundle_()["text/html"]
    assert len(re.search(r'alt="([^"]+)"', page)[1]) > 20


@pytest.mark.parametrize(("kernel", "server", "there"), [
    (SimpleNamespace(_allow_stdin=True), "", True),              # JupyterLab, VS Code
    (SimpleNamespace(_allow_stdin=False), "", False),            # nbconvert, nbclient
    (SimpleNamespace(_allow_stdin=False), "voila/0.5", True),
    (None, "", False),                                           # a plain script
])
def test_a_widget_is_made_only_where_somebody_could_move_it(monkeypatch, kernel, server, there):
    monkeypatch.setenv("SERVER_SOFTWARE", server)
    monkeypatch.setattr(module, "get_ipython", lambda: SimpleNamespace(kernel=kernel))
    assert somebody_there() == there
    made = explorers.show(Nasty())
    assert isinstance(made, ExplorerWidget) == there
    if there:
        made.close()
