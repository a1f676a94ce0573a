"""Laws of the page that serves explorers: for this computer and this key only, and it answers."""
import http.client
import json
import re
import threading
import time

import pytest

from vqlib.explorers.explorer import Explorer
from vqlib.explorers.server import Later, Server


class Echo(Explorer):
    """Says what it hears, or waits until it is stopped."""

    name, title, about = "sampler", "Sampler", "about"

    def __init__(self):
        self.ended = threading.Event()

    def do_open(self):
        yield {"opened": True}

    def do_wait(self):
        try:
            while True:
                time.sleep(0.01)
                yield None
        finally:
            self.ended.set()


@pytest.fixture
def server():
    made = Server([Echo()])
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def ask(server, method, path, body=None, host=None):
    """(status, headers, body) of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    headers = {"Host": host} if host else {}
    connection.request(method, path, body, headers)
    reply = connection.getresponse()
    data = reply.status, dict(reply.headers), reply.read().decode()
    connection.close()
    return data


class Listener:
    """A page that hears what the server sends."""

    def __init__(self, server):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
        self.connection.request("GET", f"/hear?key={server.key}&page=p")
        self.reply = self.connection.getresponse()

    def next(self):
        while not (line := self.reply.readline().decode()).startswith("data: "):
            pass
        return json.loads(line.removeprefix("data: "))

    def close(self):
        self.reply.close()
        self.connection.close()


def test_nobody_is_answered_without_the_key(server):
    for path in ("/", "/?key=", "/?key=wrong", "/hear?page=p", "/etc/passwd"):
        status, _, body = ask(server, "GET", path)
        assert status == 403
        assert server.key not in body
    assert ask(server, "POST", "/say?page=p", b"{}")[0] == 403


def test_a_page_of_another_site_whose_name_leads_here_is_not_answered(server):
    path = f"/?key={server.key}"
    assert ask(server, "GET", path, host=f"evil.example:{server.server_port}")[0] == 403
    assert ask(server, "GET", path, host=f"localhost:{server.server_port}")[0] == 200


def test_the_page_may_load_nothing_from_elsewhere_and_run_its_own_script_only(server):
    status, headers, body = ask(server, "GET", f"/?key={server.key}")
    policy = headers["Content-Security-Policy"]
    nonce = re.search("'nonce-([^']+)'", policy)[1]
    assert status == 200
    assert "default-src 'none'" in policy
    assert f'<script type="module" nonce="{nonce}">' in body
    assert not re.search(r'(src|href)="(?!data:)', body)
    assert ask(server, "GET", f"/?key={server.key}")[1]["Content-Security-Policy"] != policy


def test_a_request_is_answered_to_the_page_that_asked(server):
    page = Listener(server)
    assert page.next() == {}
    request = json.dumps({"view": "sampler", "do": "open", "id": 4})
    assert ask(server, "POST", f"/say?key={server.key}&page=p", request)[0] == 204
    assert page.next() == {"view": "sampler", "id": 4, "opened": True}
    assert page.next() == {"view": "sampler", "id": 4, "done": True}
    page.close()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"view": "nothing"}', b'"x"', b"1"])
def test_what_is_no_request_is_refused(server, body):
    page = Listener(server)
    page.next()
    assert ask(server, "POST", f"/say?key={server.key}&page=p", body)[0] == 400
    page.close()


def test_a_page_that_closes_stops_what_it_asked_for(server, monkeypatch):
    monkeypatch.setattr("vqlib.explorers.server.BEAT", 0.05)
    page, explorer = Listener(server), server.explorers["sampler"]
    page.next()
    request = json.dumps({"view": "sampler", "do": "wait", "id": 1})
    ask(server, "POST", f"/say?key={server.key}&page=p", request)
    page.close()
    assert explorer.ended.wait(60)
    assert server.visits == {}


def test_an_explorer_is_made_when_it_is_first_asked_and_once():
    made = []

    def make():
        made.append(Echo())
        return made[-1]

    later = Later(Echo, make)
    assert made == []
    assert [r for r in later.answer({"do": "open"}) if r][-1] == {"opened": True}
    list(later.answer({"do": "open"}))
    assert len(made) == 1


def test_an_explorer_that_cannot_be_made_says_why_in_one_line():
    def make():
        raise ValueError("no\nweights")

    assert [*Later(Echo, make).answer({"do": "open"})][-1] == {"error": "no weights"}
