"""What a person sees of a training: one line that moves in a notebook, lines in a terminal."""
import sys
import time

WIDTH = 20  # characters of a bar


def bar(done: int, total: int) -> str:
    """How far something is: `[#####               ]  25 %`."""
    filled = WIDTH * done // total
    return f"[{'#' * filled:{WIDTH}s}] {100 * done // total:3d} %"


def duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this; a terminal need not load IPython to tell."""
    module = sys.modules.get("IPython")
    return bool(module) and hasattr(module.get_ipython(), "kernel")


class Line:
    """A line of text that is replaced: in place in a notebook, by a further line elsewhere.

    In an executed notebook the last text stays.
    """

    def __init__(self):
        self.handle, self.in_place = None, in_notebook()

    def show(self, text: str) -> None:
        content = {"text/plain": text}
        if not self.in_place:
            print(text, flush=True)
        elif self.handle:
            self.handle.update(content, raw=True)
        else:
            from IPython.display import display
            self.handle = display(content, raw=True, display_id=True)


def watch(loop, steps: int, every: float | None = None):
    """Pass a training loop on, and show after which update it is, its values and the time left.

    every: seconds between two lines; None: 1 where the line is replaced, else 10. The last update
    is always shown, that of an early stop, too.
    """
    line, start, shown, text = Line(), time.time(), time.time(), None
    every = every or (1 if line.in_place else 10)
    for n, (step, losses) in enumerate(loop, 1):
        yield step, losses
        now, text = time.time(), None
        rate = n / max(now - start, 1e-9)
        if now - shown >= every or step == steps:
            shown = now
            line.show(described(step, steps, losses, rate))
        else:
            text = step, losses, rate                            # not shown yet
    if text:
        line.show(described(text[0], steps, *text[1:]))


def described(step: int, steps: int, losses: dict, rate: float) -> str:
    values = "  ".join(f"{name} {float(value):.3f}" for name, value in losses.items())
    left = duration((steps - step) / rate)
    return f"{step:6d}/{steps} {bar(step, steps)}  {values}  {rate:.1f} updates/s, {left} left"
