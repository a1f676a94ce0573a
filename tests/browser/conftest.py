"""A browser, and the explorers in it: Debian's Chromium, driven by Playwright."""
import os
import shutil
import threading

import numpy as np
import pytest

from vqlib import explorers
from vqlib.explorers.server import Server
from vqlib.explorers.static import page as static_page

PATIENCE = 1000 * int(os.environ.get("VQLIB_BROWSER_SECONDS", "60"))   # ms, on a busy machine
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium():
    """A running browser; the tests are skipped, with the reason, where there is none."""
    playwright = pytest.importorskip("playwright.sync_api",
                                     reason="no playwright: make test-browser installs it")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def servers():
    """Servers of a test; they end after its page is closed, which would else report the loss."""
    running = []
    yield running
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(params=[1280, 390], ids=["wide", "phone"])
def tab(request, chromium, servers):
    """An empty page of a computer and of a phone; fails the test at any error on its console."""
    size = {"width": request.param, "height": 900}
    context = chromium.new_context(viewport=size, has_touch=request.param < 500)
    made, errors = context.new_page(), []
    made.set_default_timeout(PATIENCE)
    made.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    made.on("pageerror", lambda e: errors.append(str(e)))
    yield made
    overflow = made.evaluate("document.documentElement.scrollWidth - innerWidth")
    context.close()
    assert errors == []
    assert overflow <= 0, f"the page is {overflow} px wider than its window"


class Asked(list):
    """Requests that an explorer was asked in Python, in their order."""

    def of(self, explorer):
        answer = explorer.answer

        def noting(request):
            self.append(dict(request))
            yield from answer(request)

        explorer.answer = noting
        return explorer


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def opened(tab, servers, asked, pipeline, dataset, home):
    """opened(name): the view of that explorer, on a page that a server serves."""
    rows = dataset.splits["test"]
    made = {
        "data": lambda: explorers.Data(dataset),
        "reconstruction": lambda: explorers.Reconstruction(pipeline, dataset, "test"),
        "codebook": lambda: explorers.Codebook(pipeline, dataset[rows], dataset.labels[rows],
                                               dataset.classes,
                                               {"grid": np.stack(np.divmod(np.arange(16), 4), 1)}),
        "sampler": lambda: explorers.Sampler(pipeline, dataset),
        "inpainting": lambda: explorers.Inpainting(pipeline),
    }

    def go(*names):
        server = Server([asked.of(made[name]()) for name in names])
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        tab.goto(server.address)
        view = tab.locator(f".vq[data-view={names[0]}]")
        view.wait_for()
        return view

    return go


@pytest.fixture
def opened_offline(tab, pipeline, home, tmp_path):
    """A file of explorers without Python, opened without a server."""
    text = static_page([explorers.Reconstruction(pipeline), explorers.Codebook(pipeline)])
    (tmp_path / "page.html").write_text(text)
    tab.goto((tmp_path / "page.html").as_uri())
    tab.locator(".vq[data-view=reconstruction]").wait_for()
    return tab
