"""The explorers as one page: a small server on this computer, for this computer only.

Python's own http.server: requests come by POST, replies go out as server-sent events. Whoever asks
needs the key of the address that was printed. Nothing is loaded from elsewhere.
"""
import hmac
import json
import queue
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from vqlib.explorers.explorer import MISTAKES, Explorer, Session
from vqlib.explorers.static import NO_CLINIC, fill

LARGEST = 32 * 2**20     # bytes of a request: a picture of one's own
TITLE = "Explorers: discrete images of skin lesions"
BEAT = 5.0               # seconds after which a page that went away is noticed
POLICY = ("default-src 'none'; img-src data:; style-src 'unsafe-inline'; connect-src 'self'; "
          "script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'")


class Later(Explorer):
    """An explorer that is made when it is first asked: the page opens before its data does."""

    def __init__(self, kind, make):
        self.name, self.title, self.about = kind.name, kind.title, kind.about
        self.make, self.made, self.lock = make, None, threading.Lock()

    def answer(self, request: dict):
        yield {"progress": [0, 0, "opening"]} if self.made is None else None
        try:
            with self.lock:
                self.made = self.made or self.make()
        except MISTAKES as e:
            yield {"error": " ".join(str(e).split())}
            return
        yield from self.made.answer(request)


class Visit:
    """One open page: what goes out to it, and a session per explorer."""

    def __init__(self, explorers: dict):
        self.outbox = queue.Queue()
        self.sessions = {name: Session(explorer, self.sender(name))
                         for name, explorer in explorers.items()}

    def sender(self, name: str):
        return lambda reply: self.outbox.put({"view": name, **reply})

    def close(self) -> None:
        for session in self.sessions.values():
            session.receive({"do": "stop"})


class Server(ThreadingHTTPServer):
    """Serves explorers at `address`; use `serve_forever`, and `shutdown` from another thread.

    port: 0 takes any free one. Raises OSError if it is taken.
    """

    daemon_threads = True

    def __init__(self, explorers: list[Explorer], port=0, title=TITLE):
        super().__init__(("127.0.0.1", port), Handler)
        self.explorers = {explorer.name: explorer for explorer in explorers}
        self.title, self.key, self.visits = title, secrets.token_urlsafe(12), {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/?key={self.key}"

    def handle_error(self, request, client_address) -> None:
        """A browser that goes away in the middle is no error."""


class Handler(BaseHTTPRequestHandler):
    """GET / is the page, GET /hear its events, POST /say its requests."""

    def log_message(self, *args) -> None:
        """Requests are not worth a line each."""

    def allowed(self) -> dict | None:
        """The query of a request that may be answered.

        The name of the host is checked, too: another site's page could otherwise have its own name
        resolve to this computer.
        """
        query = {name: values[0] for name, values in
                 parse_qs(urlsplit(self.path).query).items()}
        hosts = {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}
        right = hmac.compare_digest(query.get("key", "").encode(), self.server.key.encode())
        if right and self.headers.get("Host") in hosts:
            return query
        self.reply(403, b"Use the address that the program printed, with its key.", "text/plain")
        return None

    def do_GET(self) -> None:
        query = self.allowed()
        path = urlsplit(self.path).path
        if query is None:
            return
        if path == "/":
            self.page()
        elif path == "/hear":
            self.events(query.get("page", ""))
        else:
            self.reply(404, b"no such page", "text/plain")

    def do_POST(self) -> None:
        query = self.allowed()
        if query is None:
            return
        size = int(self.headers.get("Content-Length") or 0)
        visit = self.server.visits.get(query.get("page"))
        if visit is None or not 0 < size <= LARGEST:
            return self.reply(400, b"no such page, or too much", "text/plain")
        try:
            request = json.loads(self.rfile.read(size))
            visit.sessions[request.pop("view")].receive(request)
        except (ValueError, KeyError, AttributeError, TypeError):
            return self.reply(400, b"no such request", "text/plain")
        self.reply(204, b"", "text/plain")

    def page(self) -> None:
        server, nonce = self.server, secrets.token_urlsafe(12)
        pages = [{"name": e.name, "title": e.title, "about": e.about}
                 for e in server.explorers.values()]
        start = ("servePage(document.getElementById('explorers'), pages, "
                 f"{json.dumps(server.key)});")
        text = fill(server.title, NO_CLINIC, pages, start, nonce)
        self.reply(200, text.encode(), "text/html; charset=utf-8",
                   {"Content-Security-Policy": POLICY.format(nonce=nonce),
                    "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"})

    def events(self, name: str) -> None:
        """Send replies until the page goes away."""
        visit = self.server.visits[name] = Visit(self.server.explorers)
        self.start(200, "text/event-stream")
        message = {}                                             # the first says: I listen
        try:
            while True:
                text = ": still here" if message is None else f"data: {json.dumps(message)}"
                self.wfile.write(f"{text}\n\n".encode())
                self.wfile.flush()
                try:
                    message = visit.outbox.get(timeout=BEAT)
                except queue.Empty:
                    message = None
        except OSError:
            pass
        finally:
            visit.close()
            self.server.visits.pop(name, None)

    def reply(self, status: int, body: bytes, kind: str, headers=()) -> None:
        self.start(status, kind, {"Content-Length": str(len(body)), **dict(headers)})
        self.wfile.write(body)

    def start(self, status: int, kind: str, headers=()) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Cache-Control": "no-store",
                            **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
