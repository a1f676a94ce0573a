"""Ctrl-C, SIGTERM and a closed terminal wait for the end of an update, and come after a save."""
import signal
import sys
import threading
from collections.abc import Callable
from typing import ClassVar

from vqlib.backend.distributed import rank

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """Somebody stopped the training, and it was saved; the message says where it stopped."""

    def _render_traceback_(self):
        """What a notebook shows: one line instead of the library's frames."""
        return [f"Interrupted: {self}"]


class Guard:
    """Within `with guard:` a signal that comes while `guard.busy` waits for `guard.update_done()`.

    Then, or at once if nothing is busy, all guards `save()`, which says in a line what was saved,
    and the signal does what it would have done. A second signal does not wait.
    """

    live: ClassVar[list["Guard"]] = []
    before: ClassVar[dict] = {}      # handlers that were there before the first guard

    def __init__(self, save: Callable[[], str]):
        self.save, self.busy, self.pending_signal = save, False, None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # others cannot have handlers
            if not Guard.live:                                   # what is ignored stays so: nohup
                Guard.before = {number: signal.signal(number, Guard.handle) for number in SIGNALS
                                if signal.getsignal(number) is not signal.SIG_IGN}
            Guard.live.append(self)
        return self

    def __exit__(self, *_):
        if self in Guard.live:
            Guard.live.remove(self)
            if not Guard.live:
                Guard.restore()

    def update_done(self) -> None:
        """An update is complete: what it left can be saved."""
        self.busy = False
        if self.pending_signal:
            Guard.save_and_raise(self.pending_signal)

    @staticmethod
    def restore() -> None:
        for number, handler in Guard.before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    @staticmethod
    def handle(number, frame) -> None:
        busy = [guard for guard in Guard.live if guard.busy]
        if busy and not any(guard.pending_signal for guard in busy):
            for guard in busy:
                guard.pending_signal = number
        elif busy:                                               # asked twice: unsaved, at once
            Guard.restore()
            signal.raise_signal(number)
        else:
            Guard.save_and_raise(number)

    @staticmethod
    def save_and_raise(number: int) -> None:
        said = "; ".join(guard.save() for guard in Guard.live if not guard.busy)
        Guard.live.clear()
        Guard.restore()
        if Guard.before[number] is signal.default_int_handler:
            raise Interrupted(said)
        if rank() == 0:
            print(f"vqlib: {said}", file=sys.stderr, flush=True)
        signal.raise_signal(number)
