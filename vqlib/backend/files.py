"""Files that can be trusted: read if regular, replaced whole or not at all, locked by one process.

Whatever the project keeps (models, states, logs, results) is read and written here.
"""
import fcntl
import getpass
import glob
import json
import os
import secrets
import socket
import stat
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

from vqlib.backend.distributed import rank

KINDS = {"a folder": stat.S_ISDIR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK,
         "a device": lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode)}


class FileError(ValueError):
    """A file that cannot be trusted; the message names it and says what to do."""


def is_there(path: Path) -> bool:
    """Whether there is a regular file, or a link to one; False if there is nothing.

    Raises FileError for anything else: a pipe would keep a reader waiting, and a device that is
    replaced by a file harms the machine.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):              # nothing lies in a file
        return False
    if not stat.S_ISREG(mode):
        kind = next((kind for kind, is_kind in KINDS.items() if is_kind(mode)), "no file")
        raise FileError(f"{Path(path).name or path} is {kind}, a regular file is needed: name "
                        "another")
    return True


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file. Raises FileError if it is missing or something else."""
    if not is_there(path):
        raise FileError(f"{Path(path).name} is missing in {Path(path).parent}")
    return Path(path).read_bytes()


def read_json(path: Path) -> dict:
    """The object of a JSON file. Raises FileError by name if there is none."""
    try:
        found = json.loads(read_regular(path))
        if isinstance(found, dict):
            return found
        problem = "no object"
    except FileError:
        raise
    except (ValueError, RecursionError) as e:                    # cut, no UTF-8, nested without end
        problem = e
    raise FileError(f"{Path(path).name} is damaged ({problem}): delete it, and make it again")


def write_atomically(path: Path, data: bytes) -> None:
    """A reader finds the old file or the new one, never a part, also after a power cut.

    A link stays, and the file that it names is replaced. Of several ranks the first writes. Raises
    OSError that names the file if the disk is full or read-only; then the old file is whole.
    """
    if rank():
        return
    path = Path(os.path.realpath(path))
    is_there(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as e:
        raise FileError(f"{path} lies below a file, a folder is needed: name another place") from e
    remove_leftovers(path)
    part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")  # containers share PIDs
    try:
        with part.open("xb") as f:
            try_lock(f)
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
            os.replace(part, path)
    except OSError as e:
        raise OSError(e.errno, e.strerror, path.name) from e
    finally:
        with suppress(OSError):                                  # it has its name, or never was
            part.unlink()


def try_lock(file, unknown=True) -> bool:
    """Lock a writable file for this process while it is open; False if another process has it.

    The kernel forgets the lock when the process dies, however it dies. unknown: the answer where
    the file system has no locks. NFS has them for files that are open for writing only.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return unknown
    return True


def remove_leftovers(path: Path) -> None:
    """Remove what dead processes left of their attempts to write `path`.

    Where nobody can know whether the writer is dead, or the part cannot be opened, it stays.
    """
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with suppress(OSError), part.open("r+b") as f:
            if try_lock(f, unknown=False):                       # its writer is no more
                part.unlink()


class Lock:
    """One process at a time: `with Lock(path):` Raises FileError that says whose it is.

    The file says so to people; what counts is the kernel's lock on it, so a dead process's file is
    taken over.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def __enter__(self):
        is_there(self.path)                                      # raises for a folder, a pipe ...
        while True:
            self.file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
            if not try_lock(self.file):
                with self.file as f:
                    raise FileError(f"{self.path.parent.name}/ is in use by {owner(f.read())}: "
                                    "wait for it, stop it, or take another folder")
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self.file.fileno()), os.stat(self.path)):
                    break
            self.file.close()                                    # its owner has just removed it
        who = f"{user()} on {socket.gethostname()}, process {os.getpid()}"
        self.file.truncate()
        self.file.write(json.dumps({"owner": who, "since": time.time()}))
        self.file.flush()
        return self

    def __exit__(self, *_):
        self.path.unlink(missing_ok=True)                        # before others can have it
        self.file.close()


def user() -> str:
    with suppress(OSError, KeyError):                            # a container may have no names
        return getpass.getuser()
    return f"user {os.getuid()}"


def owner(text: str) -> str:
    """Who has a lock, and for how long, from what its file says."""
    try:
        found = json.loads(text)
        return f"{found['owner']}, for {max(0, time.time() - found['since']):.0f} s"
    except (ValueError, KeyError, TypeError):
        return "another process"


def rename_to_free(path: Path, name: str) -> str:
    """Rename a file to `name` beside it, or a-2.bad and so on if a.bad is there; the new name."""
    stem, suffix = os.path.splitext(name)
    names = (f"{stem}-{n}{suffix}" if n > 1 else name for n in count(1))
    free = next(name for name in names if not os.path.lexists(path.with_name(name)))
    os.replace(path, path.with_name(free))
    return free
