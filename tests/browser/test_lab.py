"""An explorer in JupyterLab: it draws, answers, and leaves no error behind."""
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

pytestmark = pytest.mark.browser
expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect
SECONDS = int(os.environ.get("VQLIB_BROWSER_SECONDS", "60"))     # on a busy machine
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"},  # else only what is seen is
            "apputils-extension/notification": {"fetchNews": "false"}}  # in the page
CELL = """from vqlib import explorers
from vqlib.pipeline import load_pipeline
pipeline = load_pipeline({folder!r}, needs=("prior",))
explorers.show(explorers.Sampler(pipeline))"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def lab(tmp_path, weights):
    """The address of a JupyterLab that shows a notebook of one explorer."""
    cell = nbformat.v4.new_code_cell(CELL.format(folder=str(weights[0].parent)))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=kernel)
    nbformat.write(notebook, tmp_path / "explorer.ipynb")
    for name, value in SETTINGS.items():
        path = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    port = free_port()
    root = str(Path(__file__).parents[2])
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
         "--ServerApp.port_retries=0", "--IdentityProvider.token=t", "--allow-root",
         f"--ServerApp.root_dir={tmp_path}", "--LabApp.expose_app_in_browser=True",
         f"--LabApp.user_settings_dir={tmp_path / 'settings'}",
         f"--LabApp.workspaces_dir={tmp_path / 'workspaces'}"],
        env={**os.environ, "PYTHONPATH": root}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True)
    address, end = f"http://127.0.0.1:{port}", time.time() + SECONDS
    while time.time() < end and server.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/api?token=t", timeout=SECONDS)
            break
        time.sleep(0.2)
    yield f"{address}/lab/tree/explorer.ipynb?reset&token=t"
    os.killpg(server.pid, signal.SIGTERM)                        # Lab ends its kernels
    server.wait(SECONDS)


def test_an_explorer_draws_in_a_notebook(chromium, lab):
    page, errors = chromium.new_page(viewport={"width": 1280, "height": 900}), []
    page.set_default_timeout(1000 * SECONDS)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.goto(lab)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.wait_for_function(
        "() => /Idle/.test(document.querySelector('#jp-main-statusbar')?.innerText)")
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    view = page.locator(".jp-OutputArea .vq")
    expect(view.locator(".vq-big img")).to_have_count(4, timeout=1000 * SECONDS)
    view.get_by_label("images").fill("2")
    view.get_by_role("button", name="Draw", exact=True).click()
    expect(view.locator(".vq-big img")).to_have_count(2, timeout=1000 * SECONDS)
    expect(view.locator(".vq-name").last).to_contain_text("n 2", timeout=1000 * SECONDS)
    view.get_by_label("seed").fill("-1")
    view.get_by_role("button", name="Draw", exact=True).click()
    expect(view.get_by_role("alert")).to_contain_text("whole number", timeout=1000 * SECONDS)
    stderr = page.locator("[data-mime-type='application/vnd.jupyter.stderr']")
    assert stderr.count() == 0
    assert errors == []
    page.close()
