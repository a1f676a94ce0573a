"""Laws of files: replaced whole or not at all, read only if regular, locked by the living."""
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vqlib.backend.files import (
    FileError,
    Lock,
    is_there,
    read_json,
    read_regular,
    rename_to_free,
    write_atomically,
)

ROOT = Path(__file__).resolve().parents[2]


def failing(*args, **kwargs):
    raise OSError(28, "No space left on device")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here: that takes root, and a kernel that lets it")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_names_the_file_keeps_the_old_one_and_leaves_no_part(
        tmp_path, monkeypatch, call):
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match=r"No space left on device: 'a\.bin'"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_on_a_full_disk_the_old_file_stays_whole(small_disk):
    path = small_disk / "a.bin"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match=r"No space left on device: 'a\.bin'"):
        write_atomically(path, bytes(10**5))
    assert path.read_bytes() == b"old"
    assert os.listdir(small_disk) == ["a.bin"]
    write_atomically(path, b"new")                               # there is room for that
    assert path.read_bytes() == b"new"


def test_on_a_disk_that_is_read_only_the_old_file_stays_whole(small_disk):
    path = small_disk / "a.bin"
    write_atomically(path, b"old")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match=r"Read-only file system: 'a\.bin'"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_bytes_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: calls.append("fsync") or fsync(f))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace") or replace(a, b))
    write_atomically(tmp_path / "new" / "folder" / "a.bin", b"data")
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "new" / "folder" / "a.bin").read_bytes() == b"data"


def test_two_processes_with_one_number_write_parts_of_two_names(tmp_path, monkeypatch):
    """In containers everybody is process 1."""
    names, replace = [], os.replace
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "replace", lambda a, b: names.append(a) or replace(a, b))
    for _ in range(2):
        write_atomically(tmp_path / "a.bin", b"data")
    assert len(set(names)) == 2


def test_what_a_dead_process_left_of_a_write_is_swept_by_the_next(tmp_path):
    (tmp_path / "a.bin.0123456789abcdef.part").write_bytes(b"half")
    (tmp_path / "b.bin.0123456789abcdef.part").write_bytes(b"of another file")
    write_atomically(tmp_path / "a.bin", b"data")
    assert {p.name for p in tmp_path.iterdir()} == {"a.bin", "b.bin.0123456789abcdef.part"}


def test_the_part_of_a_process_that_still_writes_is_left_alone(tmp_path, monkeypatch):
    replace = os.replace

    def another_writes_too(part, path):
        monkeypatch.setattr(os, "replace", replace)
        write_atomically(path, b"other")
        replace(part, path)

    monkeypatch.setattr(os, "replace", another_writes_too)
    write_atomically(tmp_path / "a.bin", b"mine")
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
    assert os.listdir(tmp_path) == ["a.bin"]


def unsupported(file, operation):
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_part_is_locked_by_a_file_that_can_be_written_as_nfs_asks(tmp_path, monkeypatch):
    """There flock is a lock for writing, which takes a file open for writing."""
    flock, modes = fcntl.flock, []

    def of_nfs(file, operation):
        modes.append(file.mode)
        return flock(file, operation) if file.writable() else unsupported(file, operation)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    (tmp_path / "a.bin.0123456789abcdef.part").write_bytes(b"half")
    write_atomically(tmp_path / "a.bin", b"data")
    assert os.listdir(tmp_path) == ["a.bin"]
    assert modes == ["rb+", "xb"]


def test_where_a_file_system_has_no_locks_parts_stay_and_everybody_has_the_lock(
        tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", unsupported)
    (tmp_path / "a.bin.0123456789abcdef.part").write_bytes(b"of a living writer, perhaps")
    write_atomically(tmp_path / "a.bin", b"data")
    assert {p.name for p in tmp_path.iterdir()} == {"a.bin", "a.bin.0123456789abcdef.part"}
    with Lock(tmp_path / "lock"), Lock(tmp_path / "lock"):
        pass


def test_a_part_that_cannot_be_opened_stays(tmp_path):
    (tmp_path / "a.bin.0123456789abcdef.part").mkdir()
    write_atomically(tmp_path / "a.bin", b"data")
    assert (tmp_path / "a.bin").read_bytes() == b"data"


def test_a_link_stays_and_the_file_that_it_names_is_replaced(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.bin").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "a.bin")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "a.bin").read_bytes() == b"new"


def test_only_regular_files_are_replaced_or_read(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        for use in (lambda path: write_atomically(path, b"data"), read_regular):
            with pytest.raises(FileError, match=rf"{name} is a {name}"):
                use(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_what_is_missing_is_named_with_its_folder(tmp_path):
    with pytest.raises(FileError, match=rf"a\.bin is missing in {tmp_path}"):
        read_regular(tmp_path / "a.bin")


# locks --------------------------------------------------------------------------------------------

def hold(path):
    """A process that has the lock until it is killed."""
    code = ("import sys, time; from vqlib.backend.files import Lock\n"
            f"with Lock({str(path)!r}): print('mine', flush=True); time.sleep(600)")
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
                               cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout.readline() == "mine\n"
    return process


def test_a_second_process_is_told_whose_the_folder_is_and_takes_it_over_from_the_dead(tmp_path):
    process = hold(tmp_path / "lock")
    try:
        with pytest.raises(FileError, match=rf"{tmp_path.name}/ is in use by .* on .*, "
                                            rf"process {process.pid}, for \d+ s: wait for it"):
            Lock(tmp_path / "lock").__enter__()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "lock").exists()                          # the dead left it
    with Lock(tmp_path / "lock"):
        assert json.loads((tmp_path / "lock").read_text())["since"] == pytest.approx(
            time.time(), abs=60)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["", "\0", "[]", '{"owner": 3}'])
def test_a_lock_whose_file_says_nothing_is_a_lock(tmp_path, text):
    with Lock(tmp_path / "lock"):
        (tmp_path / "lock").write_text(text)
        with pytest.raises(FileError, match="in use by another process"):
            Lock(tmp_path / "lock").__enter__()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_lock_that_is_no_file_is_named(tmp_path, make):
    make(tmp_path / "lock")
    with pytest.raises(FileError, match=r"lock is a (folder|pipe)"):
        Lock(tmp_path / "lock").__enter__()


def test_nothing_lies_below_a_file_and_it_is_said_what_is_needed(tmp_path):
    (tmp_path / "file").write_bytes(b"data")
    assert not is_there(tmp_path / "file" / "a.bin")
    with pytest.raises(FileError, match=r"file/a\.bin lies below a file, a folder is needed"):
        write_atomically(tmp_path / "file" / "a.bin", b"data")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[]", b"3", b"[" * 10**5])
def test_a_damaged_json_file_is_named(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(FileError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_a_file_is_renamed_over_no_other_and_over_no_broken_link(tmp_path):
    (tmp_path / "a-2.old").symlink_to(tmp_path / "nowhere")
    for text, name in (("1", "a.old"), ("2", "a-3.old")):
        (tmp_path / "a").write_text(text)
        assert rename_to_free(tmp_path / "a", "a.old") == name
        assert (tmp_path / name).read_text() == text
