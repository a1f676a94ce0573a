"""What all explorers share: requests in, pictures out, and a newer request stops an older one.

An explorer is plain Python. A browser sends requests such as {"do": "draw", "seed": 3}, and gets
replies, both JSON. The same explorers run in a notebook (`widget`), as one page (`server`) and,
without Python, in a report (`static`).
"""
import base64
import threading
from dataclasses import dataclass, field

from torch import Tensor

from vqlib.pictures import to_jpeg, to_png

MISTAKES = (ValueError, TypeError, KeyError, OSError, ImportError)  # told in one line


class Explorer:
    """Base of the explorers: a method `do_NAME` answers the request NAME.

    It yields replies, the last of which is the answer, and None wherever it may be stopped.
    """

    name = ""         # of the view in assets/, and of the tab
    title = ""
    about = ""        # a sentence for readers, under the title

    def do_open(self):
        """Yield what is shown before the first move."""
        raise NotImplementedError

    def answer(self, request: dict):
        """Yield the replies to a request; one {"error": line} if it makes no sense."""
        request = dict(request)
        action = getattr(self, f"do_{request.pop('do', '')}", None)
        try:
            if action is None:
                raise ValueError("no such request")
            yield from action(**request)
        except MISTAKES as e:
            yield {"error": " ".join(str(e).split())[:300]}

    def opened(self) -> dict:
        """The last reply to `open`; raises ValueError if there is none."""
        last = {}
        for reply in self.answer({"do": "open"}):
            last = reply or last
        if "error" in last:
            raise ValueError(last["error"])
        return last

    def without_python(self) -> dict:
        """What a page without Python shows; raises ValueError if the explorer needs Python."""
        raise ValueError(f"the explorer {self.name} needs Python")

    def still(self, opened: dict) -> tuple[bytes, str]:
        """(JPEG, what it shows in words) for readers without a kernel."""
        raise NotImplementedError


@dataclass
class Job:
    """A request that is being answered."""

    request: dict
    stopped: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


class Session:
    """Answers the requests of one browser in a thread: it can be stopped while it draws.

    send: called with each reply, which carries the `id` of its request; the last says how it
    ended: {"done": True}, {"stopped": True} or {"error": line}.
    """

    def __init__(self, explorer: Explorer, send):
        self.explorer, self.send = explorer, send
        self.job, self.lock = None, threading.Lock()

    def receive(self, request: dict) -> None:
        """Stop what is being answered, then answer this; {"do": "stop"} only stops."""
        with self.lock:
            before = self.job
            if before:
                before.stopped.set()
            if request.get("do") == "stop":
                return
            job = self.job = Job(dict(request))
            job.thread = threading.Thread(target=self.work, args=(job, before), daemon=True)
            job.thread.start()

    def work(self, job: Job, before: Job | None) -> None:
        if before:
            before.thread.join()                                 # one at a time has both cores
        which = job.request.pop("id", 0)
        for reply in self.explorer.answer(job.request):
            if job.stopped.is_set():
                return self.send({"id": which, "stopped": True})
            if reply is not None:
                self.send({"id": which, **reply})
                if "error" in reply:
                    return None
        self.send({"id": which, "done": True})

    def wait(self) -> None:
        """Until the latest request is answered."""
        if self.job:
            self.job.thread.join()


def as_url(image: Tensor, exact=False) -> str:                   # (3, H, W) in [0, 1]
    """An image as text that a browser shows: a PNG if it has to be exact, else a small JPEG."""
    kind, data = ("png", to_png(image)) if exact else ("jpeg", to_jpeg(image))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def whole(name: str, value, least: int, most: int) -> int:
    """A whole number that came from a browser; raises ValueError that names it otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        shown = "is empty: it" if value is None else f"{value} is no such thing: it"
        raise ValueError(f"{name} {shown} has to be a whole number from {least} to {most}")
    return value


def number(name: str, value) -> float:
    """A number that came from a browser; raises ValueError that names it otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} {value} is no number")
    return float(value)


def one_of(name: str, value, known) -> str:
    if value not in known:
        raise ValueError(f"no {name} {value!r}; there are {', '.join(known)}")
    return value
