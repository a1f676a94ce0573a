"""Long evaluations in parts: each result is kept in a file as soon as it is there.

An evaluation that was stopped, or that failed in its last part, goes on where it was.
"""
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vqlib.backend.files import is_there, read_json, write_atomically


class Parts:
    """Runs the parts of an evaluation, keeps their results in `path`, and says what is left.

    identity: all that results depend on, ready for JSON. A file of another identity, or one that
    is damaged, is not used and will be replaced.
    path: None keeps nothing; show: prints to stderr; every: seconds between lines.
    """

    def __init__(self, path: Path | None = None, identity: dict | None = None, show=False,
                 every=10.0):
        self.path, self.show, self.every = path, show, every
        self.identity = json.loads(json.dumps(identity))         # as it comes back from a file
        self.kept: dict[str, dict] = {}
        self.name, self.done, self.total, self.seconds = "", 0, 0, 0.0
        self.before = self.shown = time.monotonic()
        if path and is_there(path):
            self.kept = self.found()

    def found(self) -> dict:
        """What the file keeps, nothing if it is of another evaluation."""
        try:
            file = read_json(self.path)
            identity, parts = file["identity"], dict(file["parts"])
        except (ValueError, KeyError, TypeError) as error:
            self.say(f"{self.path.name} is damaged ({error}): starting afresh")
            return {}
        if identity != self.identity:
            self.say(f"{self.path.name} is of another evaluation: starting afresh")
            return {}
        return parts

    def plan(self, images: dict[str, int]) -> None:
        """How many images each part to come will look at; those that are kept need none."""
        self.total += sum(n for name, n in images.items() if name not in self.kept)

    def run(self, name: str, function: Callable[[], dict]) -> dict:
        """`function()`, or what it gave before it was interrupted."""
        if name in self.kept:
            self.say(f"{name}: done before")
            return self.kept[name]
        self.say(f"{name} ...")
        self.name, self.before = name, time.monotonic()
        self.kept[name] = json.loads(json.dumps(function()))
        if self.path:
            text = json.dumps({"identity": self.identity, "parts": self.kept})
            write_atomically(self.path, text.encode())
        return self.kept[name]

    def looked_at(self, images: int) -> None:
        """So many images of a model more: says now and then how long the others will take."""
        now = time.monotonic()
        self.seconds, self.before = self.seconds + now - self.before, now
        self.done += images
        left = self.seconds / self.done * max(0, self.total - self.done)
        self.say(f"  {self.name}: {self.done:,} of {self.total:,} images in all, "
                 f"about {left:.0f} s left", seldom=True)

    def photographs(self, done: int, n: int) -> None:
        """Features of so many of n photographs are there; they are computed once for a data set."""
        self.before = time.monotonic()                           # the time that is left is without
        self.say(f"  {done:,} of {n:,} photographs, once for this data set", seldom=done < n)

    def say(self, text: str, seldom=False) -> None:
        now = time.monotonic()
        if self.show and not (seldom and now - self.shown < self.every):
            self.shown = now
            print(text, file=sys.stderr, flush=True)

    def finish(self) -> None:
        """The whole result is safe: the file of parts has done its work."""
        if self.path:
            self.path.unlink(missing_ok=True)
