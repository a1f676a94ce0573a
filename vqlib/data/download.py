"""Fetches published data sets (catalogue.py): resumed, checked, unpacked, whole or not at all.

requests carries the bytes, tqdm shows them, filelock keeps two processes apart. What is written
here is what neither these nor pooch do: pooch begins a cut file of 1.4 GB anew, knows one URL for
a file, deletes one with a wrong digest, and unpacks whatever an archive says.
"""
import json
import os
import shutil
import stat
import sys
import time
import zipfile
import zlib
from itertools import chain
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests
from filelock import FileLock, Timeout
from tqdm import tqdm

from vqlib.backend.files import rename_to_free, write_atomically
from vqlib.backend.paths import home
from vqlib.data.catalogue import CATALOGUE, File, Published, digest_of
from vqlib.data.records import DataError
from vqlib.data.sources import open_source

HEADERS = {"User-Agent": "vqlib (dataset download)",               # Dataverse refuses urllib's own
           "Accept-Encoding": "identity"}                          # lengths are those of the file
TRIES = 5            # in a row that bring less than WORTH, before the next source is asked
WORTH = 2**20        # bytes, or 1 % of a smaller file
WAIT = 1.0           # seconds before the second try, doubled for each further one
LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
TIMEOUT = (15, 60)   # seconds for a connection, and without a byte
CHUNK = 2**14        # bytes: what is lost when a connection is cut
RATIO = 100          # of the sizes of a member unpacked and packed: photographs have about 1
MARK = "download.json"
NOBODY = ("NewConnectionError", "NameResolutionError")            # urllib3's: no server at all
LATER = (408, 425, 429, 500, 502, 503, 504)                        # HTTP: ask again


class DownloadError(DataError):
    """A source cannot give the file; another one may."""


class TryAgain(DownloadError):
    """The same source may give it in a moment: after `seconds`, if it said so."""

    def __init__(self, message: str, seconds: float | None = None):
        super().__init__(message)
        self.seconds = seconds


def download(name: str, folder: Path | None = None) -> Path:
    """Fetch and unpack a data set into `folder` (default: data/<name>), which is returned.

    Does nothing if it is there. Raises DataError that says how to fetch a file by hand.
    """
    entry, folder = CATALOGUE[name], folder or home() / "data" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))     # an empty folder would be data
    try:
        held = lock.acquire(timeout=0)
    except Timeout:
        print(f"another process fetches {name}: waiting for it", flush=True)
        held = lock.acquire()
    with held:
        if state(entry, folder) == "present":
            return folder
        files = fetch_one_way(entry, folder)
        archives = [file for file in files if file.suffix == ".zip"]
        for file in archives:
            unpack(file, folder / file.stem)
        mark = {"name": name, "files": {file.name: digest_of(file, "sha256:") for file in files}}
        write_atomically(folder / MARK, json.dumps(mark, indent=1).encode())
        for file in archives:
            file.unlink()
    return folder


def state(entry: Published, folder: Path) -> str:
    """What lies in the folder of a data set: "present", "... of ... fetched", or "-"."""
    if (folder / MARK).exists():
        return "present"
    have = sum(path.stat().st_size for path in folder.glob("[!.]*") if path.is_file())
    try:                                                           # put there by hand?
        if not entry.is_archive and len(open_source(folder).records) >= entry.images:
            return "present"
    except DataError:
        pass
    return f"{readable(have)} of {readable(entry.size)}" if have else "-"


def fetch_one_way(entry: Published, folder: Path) -> list[Path]:
    """The files of the first way that can be fetched whole; else what to fetch by hand."""
    errors = []
    for files in entry.ways:
        try:
            return [fetch(file, folder) for file in files]
        except DownloadError as e:
            errors.append(str(e))
    missing = []
    for file in entry.ways[0]:
        if not (folder / file.name).exists():
            size = f"{file.size:,} bytes" if file.exact else readable(file.size)
            digest = file.digest or "no digest is published"
            missing.append(f"{file.name} from {file.urls[0]} ({size}, {digest})")
    raise DownloadError(f"{'; '.join(errors)}. Try again later, or fetch by hand "
                        f"{', '.join(missing)}, put it into {folder}/ and run the command again")


def fetch(file: File, folder: Path) -> Path:
    """One file, checked; raises DownloadError with the cause of each source."""
    target, part, causes = folder / file.name, folder / f"{file.name}.part", []
    if target.exists():
        if not (wrong := mismatch(target, file)):
            return target
        causes.append(f"what lay there {wrong}: set aside as {set_aside(target, target)}")
    for url in file.urls:
        try:
            transfer(url, part, file)
            if wrong := mismatch(part, file):
                raise DownloadError(f"what came {wrong}: set aside as {set_aside(part, target)}")
            os.replace(part, target)
            sync(folder)
            return target
        except (DownloadError, requests.RequestException) as e:
            causes.append(f"{urlsplit(url).netloc}: {cause_of(e)}")
    raise DownloadError(f"{file.name} cannot be fetched ({'; '.join(causes)})")


def transfer(url: str, part: Path, file: File) -> None:
    """Bring `part` to its full length; raises after TRIES tries in a row that bring nothing."""
    tries, start, best = 0, length(part), length(part)
    while not (file.exact and length(part) == file.size):
        try:
            return receive(url, part, file)
        except (TryAgain, requests.ConnectionError, requests.Timeout,
                requests.exceptions.ChunkedEncodingError) as e:
            gained, best = length(part) - best, max(best, length(part))
            tries = 0 if gained > min(WORTH, file.size // 100) else tries + 1
            offline = type(reason_of(e)).__name__ in NOBODY and best == start
            if tries == TRIES or offline:                          # waiting does not help
                raise
            asked = getattr(e, "seconds", None)
            time.sleep(min(WAIT * 2**tries if asked is None else asked, LONGEST_WAIT))


def receive(url: str, part: Path, file: File) -> None:
    """One request: append to `part`, or begin it anew if the server does not go on."""
    have = length(part)
    headers = HEADERS | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        span = answer.headers.get("Content-Range", "")
        if answer.status_code == 416 and span == f"bytes */{have}":
            return                                                 # it is whole already
        begins = span.startswith(f"bytes {have}-")
        if answer.status_code == 416 or (answer.status_code == 206 and not begins):
            part.unlink(missing_ok=True)
            raise TryAgain("it does not go on where the part ends")
        if answer.status_code in LATER:
            asked = answer.headers.get("Retry-After", "")
            raise TryAgain(http(answer), float(asked) if asked.isdecimal() else None)
        if answer.status_code not in (200, 206):
            raise DownloadError(http(answer))
        have = have if answer.status_code == 206 else 0
        announced = answer.headers.get("Content-Length", "")
        total = have + int(announced) if announced.isdecimal() else 0
        chunks = answer.iter_content(CHUNK)
        first = next(chunks, b"")
        if not have and first.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
            raise DownloadError("it sends an HTML page (of a login, or an error), not the file")
        if not first:
            raise TryAgain("it sends nothing")
        if file.exact and total not in (0, file.size):
            raise DownloadError(f"it offers {total:,} bytes, not the {file.size:,} of the file")
        part.parent.mkdir(exist_ok=True)
        require_room(part, (total or file.size) - have, file.name.endswith(".zip"))
        append(part, have, total or file.size, chain([first], chunks))
    if length(part) < (total or file.exact * file.size):
        raise TryAgain(f"it ended after {length(part):,} of {total or file.size:,} bytes")


def append(part: Path, have: int, total: int, chunks) -> None:
    """Write chunks behind the first `have` bytes of `part`, with rate and time left on stderr."""
    seconds = 0.5 if sys.stderr.isatty() else 30                   # between two lines of a log
    with part.open("ab" if have else "wb") as out, tqdm(
        total=total or None, initial=have, unit="B", unit_scale=True, desc=part.stem, delay=2,
        mininterval=seconds, dynamic_ncols=True,
    ) as bar:
        for chunk in chunks:
            out.write(chunk)
            bar.update(len(chunk))
        out.flush()
        os.fsync(out.fileno())


def http(answer) -> str:
    return f"HTTP {answer.status_code} {answer.reason or ''}".strip()


def cause_of(error: Exception) -> str:
    """Why a transfer failed, without the addresses of Python's objects."""
    if isinstance(error, DownloadError):
        return str(error)
    if isinstance(error, requests.TooManyRedirects):
        return "it redirects without end"
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"no byte within {TIMEOUT[1]} s"
    return f"the connection failed ({type(reason_of(error)).__name__})"


def reason_of(error: Exception) -> Exception:
    """What urllib3 says below an error of requests."""
    inner = error.args[0] if error.args else error
    return getattr(inner, "reason", inner)


def length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def mismatch(path: Path, file: File) -> str:
    """What is wrong with a file, "" if it is the one that was published."""
    if file.exact and length(path) != file.size:
        return f"has {length(path):,} bytes, not {file.size:,}"
    if file.digest and (found := digest_of(path, file.digest)) != file.digest:
        return f"has the digest {found}, not {file.digest}"
    return ""


def set_aside(path: Path, target: Path) -> str:
    """Keep a wrong file, and those before it, under names that nothing takes for the right one."""
    return rename_to_free(path, f"{target.name}.bad")


def sync(folder: Path) -> None:
    """A rename is safe from a power cut when its folder is on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def require_room(path: Path, more: int, doubled: bool = False) -> None:
    """Raises DataError if the disk has no room for so many bytes, twice if they are unpacked."""
    free, more = shutil.disk_usage(path.parent).free, more * (1 + doubled)
    if free < more:
        raise DataError(f"{path.parent}/ has {readable(free)} free, {path.stem} needs "
                        f"{readable(more)}{', unpacked beside the archive' * doubled}")


def readable(size: int) -> str:
    """3_000_000 -> 3.0 MB; 0 -> unknown size."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} bytes" if size else "unknown size"


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .zip into `folder`, all of it or nothing; files of other names there stay.

    Raises DataError that names a member which leaves the folder, is a link, stands there twice or
    is a bomb; a damaged archive is set aside.
    """
    scratch = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            members = packed.infolist()
            refuse_members(members, archive.name)
            require_room(archive, sum(member.file_size for member in members))
            packed.extractall(scratch)
        for path in sorted(scratch.rglob("*")):
            target = folder / path.relative_to(scratch)
            if path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as e:
        raise DataError(f"{archive.name} cannot be unpacked ({e}): set aside as "
                        f"{set_aside(archive, archive)}; run the command again") from e
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_members(members: list[zipfile.ZipInfo], archive: str) -> None:
    seen = set()
    for member in members:
        name = member.filename.replace("\\", "/")
        parts, kind = PurePosixPath(name).parts, stat.S_IFMT(member.external_attr >> 16)
        why = None
        if name.startswith("/") or ".." in parts or ":" in name.split("/")[0]:
            why = "leaves the folder"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            why = "is a link, or no regular file"
        elif name.casefold() in seen:
            why = "stands in it twice"
        elif member.file_size > RATIO * member.compress_size + 2**20:
            why = f"unpacks from {member.compress_size:,} to {member.file_size:,} bytes"
        if why:
            raise DataError(f"{archive}: {name!r} {why}: nothing was unpacked, do not trust it")
        seen.add(name.casefold())
