"""Laws of `explore`: a page of its own, an address that is printed, a port that is free."""
import socket

import pytest
from conftest import arguments, fails, runs

from vqlib.__main__ import main
from vqlib.cli import explore
from vqlib.explorers.explorer import Explorer

pytestmark = pytest.mark.usefixtures("home")


def test_a_page_that_needs_no_python_is_written(weights, tmp_path, capsys):
    out = tmp_path / "pages" / "explorers.html"
    runs("explore", "--html", out, *arguments(weights))
    assert out.read_text().startswith("<!doctype html>")
    assert "opens offline" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--data", "--image-column", "--label-column"])
def test_a_page_shows_no_data_set_and_says_so(weights, tmp_path, capsys, option):
    out = tmp_path / "explorers.html"
    line = fails(capsys, "explore", "--html", out, option, "x", *arguments(weights))
    assert "leave out --data and the columns" in line
    assert not out.exists()


def test_columns_of_a_table_can_be_named(weights, ham, monkeypatch, capsys):
    table = ham[0] / "HAM10000_metadata.csv"
    table.write_text(table.read_text().replace("image_id,dx,", "image_id,finding,"))
    monkeypatch.setattr("vqlib.explorers.server.Server.serve_forever", interrupted)
    command = ["explore", "--no-browser", "--port", "0", "--data", ham[0], *arguments(weights)]
    assert "--label-column" in fails(capsys, *command)
    runs(*command, "--label-column", "finding")


def test_a_taken_port_is_told_unless_it_is_the_default(weights, capsys, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = fails(capsys, "explore", "--no-browser", "--port", port, "--data", "synthetic",
                     *arguments(weights))
        assert f"port {port} is taken" in line
        monkeypatch.setattr(explore, "PORT", port)
        server = explore.listen([Explorer()], port)
        assert server.server_port != port
        server.server_close()


def test_the_address_is_printed_and_an_interrupt_ends_calmly(weights, capsys, monkeypatch):
    monkeypatch.setattr("vqlib.explorers.server.Server.serve_forever", interrupted)
    runs("explore", "--no-browser", "--port", "0", "--data", "synthetic", *arguments(weights))
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("explorers at http://127.0.0.1:")
    assert printed[-1] == "ended"


def interrupted(server):
    raise KeyboardInterrupt


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_a_port_that_is_none_is_named(capsys, port):
    with pytest.raises(SystemExit):
        main(["explore", "--port", port])
    assert f"argument --port: {'invalid' if port == 'x' else port}" in capsys.readouterr().err
