"""The folder of a run: its lock, its checkpoint and its log, and the model file beside it.

NAME/state.pt, NAME/log.jsonl and NAME/lock belong to the run whose model is NAME.safetensors.
"""
import json
import math
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

from vqlib.backend.distributed import rank, wait_for_all
from vqlib.backend.files import (
    FileError,
    Lock,
    is_there,
    read_regular,
    remove_leftovers,
    rename_to_free,
    write_atomically,
)
from vqlib.checkpoint import load_model, load_state, save_state
from vqlib.identity import difference, sizes_of

HOW_TO_RESTART = "take another folder, or start afresh: --fresh, or delete it"
WITHOUT_LOG = "the run goes on once the log is deleted"


class Run:
    """A run's files. Inside `with run:` no other process can train in the folder.

    folder None: nothing is written.
    identity: all that decides the result, as JSON gives it back. release: called when another loop
    of this process opens the same folder, as a cell does that is run again.
    """

    opened: ClassVar[dict[Path, "Run"]] = {}  # in this process, by folder

    def __init__(self, folder, identity: dict, release: Callable[[], None]):
        self.folder = folder and Path(folder).resolve()
        self.identity, self.release = identity, release
        if self.folder:
            self.state_file, self.log_file = self.folder / "state.pt", self.folder / "log.jsonl"
            self.model_file = model_file_of(self.folder)

    def __enter__(self):
        with ExitStack() as stack:
            if self.folder:
                if self.folder in Run.opened:
                    Run.opened[self.folder].release()
                try:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    if rank() == 0:
                        stack.enter_context(Lock(self.folder / "lock"))
                except OSError as e:
                    raise OSError(e.errno, f"{e.strerror}: name a place that can be written, with "
                                  "--out FILE or $VQLIB_HOME", f"{self.name}/") from e
                if rank() == 0:
                    for path in (self.state_file, self.log_file, self.model_file):
                        remove_leftovers(path)
                Run.opened[self.folder] = self
                stack.callback(Run.opened.pop, self.folder)
                wait_for_all()                                   # until the first has the folder
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    @property
    def name(self) -> str:
        return self.folder.name if self.folder else "the training"

    def state(self) -> dict | None:
        """The checkpoint; None if there is none. Raises FileError if it is another run's."""
        if not self.folder or not is_there(self.state_file):
            return None
        state = load_state(self.state_file)
        self.assert_mine(f"{self.name}/state.pt", state["identity"])
        if is_there(self.model_file):
            # raises if it is another run's: the end of this run would replace it
            self.load_finished()
        return state

    def load_finished(self):
        """The model beside the folder, such as one that ships; None if there is none.

        One that cannot be read is renamed to *.old, with a warning. Raises FileError if it was not
        trained as this run is.
        """
        if not self.folder or not is_there(self.model_file):
            return None
        try:
            model, metadata = load_model(self.model_file)
        except FileError as e:
            if rank() == 0:
                warnings.warn(f"{e}; it is renamed to {put_away(self.model_file)}", stacklevel=2)
            return None
        if "identity" not in metadata:
            raise FileError(f"{self.model_file.name} is there and does not say what it learnt "
                            f"from (an older file): {HOW_TO_RESTART}")
        # a file that is older than a setting was made with that setting's default
        self.assert_mine(self.model_file.name, metadata["identity"] | {"model": sizes_of(model)})
        return model

    def assert_mine(self, name: str, identity: dict) -> None:
        if differs := difference(identity, self.identity):
            raise FileError(f"{name} is of another run: {differs}; {HOW_TO_RESTART}")

    def save(self, state: dict) -> None:
        """Replace the checkpoint; the log is on the disk before."""
        if self.folder:
            if rank() == 0:
                with self.log() as f:
                    os.fsync(f.fileno())
            save_state(self.state_file, {"identity": self.identity, **state})

    def append(self, line: dict) -> None:
        """Add a line to the log."""
        if self.folder and rank() == 0:
            with self.log() as f:
                f.write(json.dumps(line) + "\n")

    @contextmanager
    def log(self):
        """The log, opened for appending.

        An OSError gets the log's name, which the one for a full disk lacks.
        """
        try:
            with self.log_file.open("a") as f:
                yield f
        except OSError as e:
            raise OSError(e.errno, e.strerror, f"{self.name}/log.jsonl") from e

    def cut_log(self, step: int) -> None:
        """Forget lines of updates after `step`, which are made again, and one cut in two."""
        if self.folder:
            lines = read_log(self.folder) if is_there(self.log_file) else []
            kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= step]
            write_atomically(self.log_file, "".join(kept).encode())


def model_file_of(folder: Path) -> Path:
    """NAME -> NAME.safetensors, where names may have dots."""
    return Path(folder).with_name(f"{Path(folder).name}.safetensors")


def folder_of(model_file: Path) -> Path:
    """NAME.safetensors -> NAME."""
    return Path(model_file).with_name(Path(model_file).name.removesuffix(".safetensors"))


def set_aside(folder: Path) -> None:
    """Rename a run's checkpoint, log and model to *.old, so that it starts afresh."""
    folder = Path(folder)
    if rank() == 0 and folder.exists():
        with Lock(folder / "lock"):
            for path in (folder / "state.pt", folder / "log.jsonl"):
                put_away(path)
    if rank() == 0:
        put_away(model_file_of(folder))
    wait_for_all()


def put_away(path: Path) -> str | None:
    """Rename a file to *.old, or *.old-2 and so on if that is there: its new name, if it was."""
    return rename_to_free(path, f"{path.name}.old") if is_there(path) else None


def read_log(folder: Path) -> list[dict]:
    """The lines of a run's log, oldest first; one that was cut in two at the end does not count.

    Raises FileError that names the line if one is none of a log.
    """
    *texts, _ = read_regular(Path(folder) / "log.jsonl").decode(errors="replace").split("\n")
    name = f"{Path(folder).name}/log.jsonl"
    lines = [log_line(text, f"{name}, line {i}") for i, text in enumerate(texts, 1)]
    for i, (before, line) in enumerate(pairwise(lines), 2):      # pasted, doubled or of two runs
        if line["step"] <= before["step"]:
            raise FileError(f"{name}, line {i} is damaged: update {line['step']} comes after "
                            f"{before['step']}; {WITHOUT_LOG}")
    return lines


def log_line(text: str, name: str) -> dict:
    try:
        line = json.loads(text)
        finite = all(math.isfinite(value) for value in line.values())
        if finite and type(line["step"]) is int and line["step"] > 0:
            return line
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise FileError(f"{name} is damaged: {text[:40]!r}; {WITHOUT_LOG}")
