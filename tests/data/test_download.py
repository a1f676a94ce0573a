"""Laws of downloads, against a server on this machine that misbehaves: one good file, or the cause.

No test leaves the machine.
"""
import hashlib
import http.server
import io
import json
import re
import stat
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from conftest import picture

from vqlib.data import download as module
from vqlib.data.catalogue import CATALOGUE, File, Published
from vqlib.data.download import DownloadError, download, fetch, readable, state, unpack
from vqlib.data.records import DataError
from vqlib.data.sources import open_source

BODY = np.random.default_rng(0).bytes(200_000)
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /NAME as `behaviours[NAME]` does; asked: (name, first byte wanted)."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = self.path.strip("/").partition("?")[0]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted else 0
        self.server.asked.append((name, first))
        self.server.behaviours[name](self, first)
        self.close_connection = True

    def send(self, body=BODY, first=0, length=None, code=None, sent=None, **headers):
        """The body from `first` on; `sent` bytes of it, then the connection is cut."""
        rest = body[first:]
        self.send_response(code or (206 if first else 200))
        self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(rest) if length is None else length))
        if first:
            span = f"bytes {first}-{len(body) - 1}/{len(body)}"
            self.send_header("Content-Range", headers.pop("span", span))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(rest if sent is None else rest[:sent])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """A server; waits are short. `server.url(name)`, `server.behaviours`, `server.asked`."""
    monkeypatch.setattr(module, "WAIT", 0.0)
    monkeypatch.setattr(module, "TIMEOUT", (0.5, 0.5))
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.2)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.behaviours, httpd.asked = {"good": Handler.send}, []
    httpd.url = lambda name: f"http://127.0.0.1:{httpd.server_port}/{name}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


def good(handler, first):
    handler.send(first=first)


def file_of(server, *names, **options):
    options = {"size": len(BODY), "digest": SHA} | options
    return File("data.npz", tuple(map(server.url, names)), **options)


def cut_at(share):
    """Cut the first answer, go on from there with the second."""
    answers = []

    def behave(handler, first):
        answers.append(first)
        sent = int(share * len(BODY)) if len(answers) == 1 else None
        handler.send(first=first, sent=sent)

    return behave


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_cut_transfer_goes_on_where_it_ended(server, tmp_path, share):
    server.behaviours["cut"] = cut_at(share)
    assert fetch(file_of(server, "cut"), tmp_path).read_bytes() == BODY
    first = server.asked[1][1]
    assert share * len(BODY) - module.CHUNK <= first <= share * len(BODY)
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_stopped_command_goes_on_in_the_next_one(server, tmp_path, share):
    (tmp_path / "data.npz.part").write_bytes(BODY[: int(share * len(BODY))])
    server.behaviours["good"] = good
    assert fetch(file_of(server, "good"), tmp_path).read_bytes() == BODY
    assert server.asked == [("good", int(share * len(BODY)))]


def test_a_part_that_is_whole_needs_no_server(server, tmp_path):
    (tmp_path / "data.npz.part").write_bytes(BODY)
    assert fetch(file_of(server, "good"), tmp_path).read_bytes() == BODY
    assert server.asked == []


def test_a_server_that_ignores_the_range_gives_the_whole_file_once(server, tmp_path):
    (tmp_path / "data.npz.part").write_bytes(BODY[:1000])
    server.behaviours["whole"] = lambda handler, first: handler.send()
    assert fetch(file_of(server, "whole"), tmp_path).read_bytes() == BODY


def test_a_range_that_was_not_asked_for_is_not_appended(server, tmp_path):
    (tmp_path / "data.npz.part").write_bytes(BODY[:1000])
    server.behaviours["shifted"] = lambda handler, first: handler.send(
        first=first and first + 7, span=f"bytes {first + 7}-{len(BODY) - 1}/{len(BODY)}")
    assert fetch(file_of(server, "shifted"), tmp_path).read_bytes() == BODY


def test_a_part_that_is_too_long_is_fetched_anew(server, tmp_path):
    (tmp_path / "data.npz.part").write_bytes(BODY + b"more")
    server.behaviours["good"] = lambda handler, first: (
        handler.send(b"", code=416) if first >= len(BODY) else handler.send(first=first))
    assert fetch(file_of(server, "good"), tmp_path).read_bytes() == BODY


def loop(handler, first):
    handler.send(b"", code=302, Location="/loop")


def stall(handler, first):
    handler.send(sent=50_000)
    time.sleep(1.2)


FAULTS = {
    "cut for ever": (lambda h, first: h.send(sent=100), "the connection failed|it ended after"),
    "shorter than it says": (lambda h, first: h.send(length=len(BODY) + 9), "it offers 200,009"),
    "longer than it says": (lambda h, first: h.send(length=9), "it offers 9 bytes, not the"),
    "a page": (lambda h, first: h.send(b"\n<!DOCTYPE html>login"), "HTML page"),
    "a long page": (lambda h, first: h.send(b"<html>" + BODY[6:]), "HTML page"),
    "403": (lambda h, first: h.send(b"no", code=403), "HTTP 403"),
    "404": (lambda h, first: h.send(b"no", code=404), "HTTP 404"),
    "429": (lambda h, first: h.send(b"no", code=429, Retry_After="9999"), "HTTP 429"),
    "503": (lambda h, first: h.send(b"no", code=503), "HTTP 503"),
    "redirect loop": (loop, "redirects without end"),
    "stall": (stall, "no byte within"),
    "another file": (lambda h, first: h.send(BODY[::-1], first), "has the digest sha256:"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_source_that_fails_is_named_with_its_cause_and_the_next_one_is_asked(
    server, tmp_path, fault, monkeypatch
):
    if fault == "stall":
        monkeypatch.setattr(module, "TRIES", 2)
    behave, cause = FAULTS[fault]
    server.behaviours |= {"bad": behave, "loop": loop, "good": good}
    with pytest.raises(DownloadError, match=cause) as error:
        fetch(file_of(server, "bad"), tmp_path)
    assert "127.0.0.1" in str(error.value)
    assert len(server.asked) <= 40
    assert not (tmp_path / "data.npz").exists()
    assert fetch(file_of(server, "bad", "good"), tmp_path).read_bytes() == BODY


def test_what_is_only_busy_is_asked_again(server, tmp_path):
    codes = iter([503, 429])

    def busy(handler, first):
        code = next(codes, None)
        handler.send(b"", code=code, Retry_After="0") if code else handler.send()

    server.behaviours["busy"] = busy
    assert fetch(file_of(server, "busy"), tmp_path).read_bytes() == BODY
    assert len(server.asked) == 3


def test_slow_progress_is_no_failure_but_none_is(server, tmp_path, monkeypatch):
    server.behaviours["slow"] = lambda handler, first: handler.send(first=first, sent=20_000)
    assert fetch(file_of(server, "slow"), tmp_path).read_bytes() == BODY
    assert len(server.asked) > module.TRIES


def test_a_wrong_file_is_set_aside_and_never_taken_again(server, tmp_path):
    server.behaviours["bad"] = lambda handler, first: handler.send(BODY[::-1])
    with pytest.raises(DownloadError, match=r"set aside as data\.npz\.bad"):
        fetch(file_of(server, "bad"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz.bad"]
    server.behaviours["good"] = good
    assert fetch(file_of(server, "good"), tmp_path).read_bytes() == BODY
    (tmp_path / "data.npz").write_bytes(b"spoilt later")
    assert fetch(file_of(server, "good"), tmp_path).read_bytes() == BODY


def test_a_second_wrong_file_does_not_replace_the_first(tmp_path):
    for text in (b"first", b"second", b"third"):
        (tmp_path / "data.npz.part").write_bytes(text)
        name = module.set_aside(tmp_path / "data.npz.part", tmp_path / "data.npz")
        assert (tmp_path / name).read_bytes() == text
    assert [(tmp_path / f"data.npz{n}.bad").read_bytes() for n in ("", "-2", "-3")] == [
        b"first", b"second", b"third"]


def test_offline_one_message_says_what_to_put_where(tmp_path, monkeypatch):
    files = [File(f"{i}.zip", (f"http://127.0.0.1:9/{i}.zip",), 1_234, "md5:0123") for i in (1, 2)]
    monkeypatch.setitem(CATALOGUE, "isic2018", Published("A", 1, (tuple(files),)))
    with pytest.raises(DownloadError) as error:
        download("isic2018", tmp_path / "data")
    message = str(error.value)
    assert "\n" not in message
    assert "1.zip cannot be fetched (127.0.0.1:9: the connection failed" in message
    for file in files:
        assert f"{file.name} from {file.urls[0]} (1,234 bytes, md5:0123)" in message
    assert f"put it into {tmp_path / 'data'}/" in message
    assert [path.name for path in tmp_path.iterdir()] == [".data.lock"]


def test_a_full_disk_is_told_before_anything_is_written(server, tmp_path, monkeypatch):
    usage = module.shutil.disk_usage(tmp_path)._replace(free=150_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    server.behaviours["good"] = good
    with pytest.raises(DataError, match=r"has 150\.0 kB free, data\.npz needs 200\.0 kB"):
        fetch(file_of(server, "good", "good"), tmp_path)
    assert server.asked == [("good", 0)]


def test_without_a_digest_the_length_that_the_server_says_is_required(server, tmp_path):
    server.behaviours["cut"] = cut_at(0.5)
    file = file_of(server, "cut", digest="", size=150_000, exact=False)
    assert fetch(file, tmp_path).read_bytes() == BODY


def pack(path, *members):
    """A .zip of (name, bytes, mode of the file)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
            archive.writestr(info, content)
    return path


@pytest.mark.parametrize(("name", "content", "mode", "why"), [
    ("../out.jpg", b"x", 0, "leaves the folder"),
    ("/etc/out.jpg", b"x", 0, "leaves the folder"),
    ("a\\..\\..\\out.jpg", b"x", 0, "leaves the folder"),
    ("C:/out.jpg", b"x", 0, "leaves the folder"),
    ("link.jpg", b"/etc/passwd", stat.S_IFLNK | 0o777, "is a link"),
    ("pipe.jpg", b"", stat.S_IFIFO | 0o777, "no regular file"),
    ("GOOD.jpg", b"x", 0, "twice"),
    ("bomb.jpg", bytes(2**24), 0, "unpacks from"),
])
def test_an_archive_that_is_not_safe_is_refused_by_member(tmp_path, name, content, mode, why):
    archive = pack(tmp_path / "a.zip", ("good.jpg", b"1", 0), (name, content, mode))
    with pytest.raises(DataError, match=rf"a\.zip: .*{why}"):
        unpack(archive, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_a_damaged_archive_is_set_aside_and_leaves_nothing(tmp_path):
    archive = pack(tmp_path / "a.zip", *[(f"{i}.jpg", BODY[:5000], 0) for i in range(3)])
    data = bytearray(archive.read_bytes())
    data[7000] ^= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip cannot be unpacked.*a\.zip\.bad"):
        unpack(archive, tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip.bad"]


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """A set of two archives and a table, whose first source is gone."""
    jpeg, rows = io.BytesIO(), ["image_id,dx,lesion_id"]
    bodies = {}
    for part in (1, 2):
        members = []
        for i in range(4):
            jpeg = io.BytesIO()
            picture(10 * part + i).save(jpeg, "jpeg")
            members.append((f"ISIC_{part}{i}.jpg", jpeg.getvalue(), 0))
            rows.append(f"ISIC_{part}{i},nv,HAM_{i}")
        name = f"part_{part}.zip"
        bodies[name] = pack(tmp_path / name, *members).read_bytes()
        (tmp_path / name).unlink()
    bodies["meta.csv"] = "\n".join(rows).encode()
    files = []
    for name, body in bodies.items():
        server.behaviours[name] = lambda handler, first, body=body: handler.send(body, first)
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        files.append(File(name, (server.url(name),), len(body), digest))
    server.behaviours["gone"] = lambda handler, first: handler.send(b"", code=404)
    gone = replace(files[0], name="gone.zip", urls=(server.url("gone"),))
    entry = Published("A set", 8, ((gone,), tuple(files)))
    monkeypatch.setitem(CATALOGUE, "ham10000", entry)
    return entry


def test_a_set_is_fetched_unpacked_and_read_and_then_present(server, published, home):
    folder = home / "data" / "ham10000"
    assert state(published, folder) == "-"
    assert download("ham10000") == folder
    source = open_source()
    assert (len(source.records), source.skipped) == (8, [])
    assert not [*folder.glob("*.zip")]
    assert set(json.loads((folder / module.MARK).read_text())["files"]) == {
        "part_1.zip", "part_2.zip", "meta.csv"}
    assert state(published, folder) == "present"
    asked = len(server.asked)
    download("ham10000")
    assert len(server.asked) == asked


def test_files_that_were_put_there_by_hand_are_checked_and_used(server, published, home):
    folder = home / "data" / "ham10000"
    folder.mkdir(parents=True)
    download("ham10000", home / "elsewhere")
    for path in (home / "elsewhere").iterdir():
        if not path.name.startswith((".", "download")):
            path.rename(folder / path.name)
    server.asked.clear()
    assert state(published, folder) == "present"
    assert download("ham10000") == folder
    assert server.asked == []


def test_two_processes_at_once_end_with_one_good_file(server, tmp_path):
    def slow(handler, first):
        time.sleep(0.3)
        handler.send(first=first)

    server.behaviours["slow"] = slow
    script = (
        "import sys; from pathlib import Path\n"
        "from vqlib.data import download as d; from vqlib.data.catalogue import *\n"
        f"f = File('data.npz', ({server.url('slow')!r},), {len(BODY)}, {SHA!r})\n"
        "d.CATALOGUE['x'] = Published('x', 1, ((f,),)); d.download('x', Path(sys.argv[1]))\n")
    command = [sys.executable, "-c", script, str(tmp_path / "x")]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (tmp_path / "x" / "data.npz").read_bytes() == BODY
    assert len(server.asked) == 1


def test_every_published_file_has_an_address_and_a_digest_or_none_of_its_length():
    lengths = {"md5": 32, "sha256": 64}
    for entry in CATALOGUE.values():
        for file in (file for way in entry.ways for file in way):
            assert all(url.startswith("https://") for url in file.urls)
            algorithm, _, digest = file.digest.partition(":")
            assert len(digest) == lengths.get(algorithm, 0)
            assert re.fullmatch("[0-9a-f]*", digest)
    assert readable(CATALOGUE["ham10000"].size) == "2.8 GB"
