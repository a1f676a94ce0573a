"""Laws of a run's folder: what is in it is checked where it is read, and set aside when asked."""
import json
import os

import pytest
import torch

from vqlib.backend.files import FileError, Lock
from vqlib.runs import Run, folder_of, model_file_of, read_log, set_aside

LINES = [{"step": 10, "lr": 0.001, "loss": 2.5}, {"step": 20, "lr": 0.0005, "loss": 1.25}]


def log(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "log.jsonl").write_text(text)
    return folder


def written(*lines):
    return "".join(json.dumps(line) + "\n" for line in lines)


def run_in(folder, **identity):
    return Run(folder, identity, lambda: None)


def state(step=0):
    return {"step": step, "weights": {"w": torch.arange(3.0)}, "optimizer": {}, "extra": {}}


def test_lines_come_back_as_they_were(tmp_path):
    with run_in(tmp_path / "run") as run:
        for line in LINES:
            run.append(line)
    assert read_log(tmp_path / "run") == LINES


@pytest.mark.parametrize("rest", ["", "{", '{"step": 30, "lr": 0.00', '{"step": 30}'])
def test_a_last_line_without_an_end_does_not_count(tmp_path, rest):
    assert read_log(log(tmp_path, written(*LINES) + rest)) == LINES


@pytest.mark.parametrize("line", [
    "", "{", "[]", "3", '"text"', '{"lr": 1}', '{"step": "x"}', '{"step": -3}', '{"step": 1, "lr": '
    "NaN}", '{"step": 1, "lr": Infinity}', '{"step": 1, "lr": "fast"}', "\0\0\0", "[" * 10**5])
def test_a_damaged_line_is_named(tmp_path, line):
    folder = log(tmp_path / "vqvae", written(LINES[0]) + line + "\n" + written(LINES[1]))
    with pytest.raises(FileError, match=r"vqvae/log\.jsonl, line 2 is damaged"):
        read_log(folder)


def test_a_missing_log_is_named(tmp_path):
    with pytest.raises(FileError, match=r"log\.jsonl is missing"):
        read_log(tmp_path)


def test_updates_after_the_checkpoint_are_cut_off_the_log(tmp_path):
    with run_in(log(tmp_path / "run", written(*LINES) + '{"step": 3')) as run:
        run.cut_log(15)
    assert (tmp_path / "run" / "log.jsonl").read_text() == written(LINES[0])


def test_a_state_of_the_same_run_comes_back_and_one_of_another_is_refused(tmp_path):
    with run_in(tmp_path / "run", data="a", seed=1) as run:
        run.cut_log(0)
        run.save(state(step=7))
    with run_in(tmp_path / "run", data="a", seed=1) as run:
        assert run.state()["step"] == 7
    with run_in(tmp_path / "run", data="b", seed=1) as run, pytest.raises(
            FileError, match=r"run/state\.pt is of another run: data was a, now b; take another"):
        run.state()


def test_no_folder_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with run_in(None) as run:
        run.append(LINES[0])
        run.save(state())
        run.cut_log(3)
        assert run.state() is run.load_finished() is None
    assert os.listdir(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"can be written, with --out FILE or \$VQLIB_HOME: 'run/'"):
        run_in(tmp_path / "file" / "run").__enter__()


def test_two_loops_of_one_process_follow_each_other(tmp_path):
    released = []
    first = Run(tmp_path, {}, lambda: released.append(first) or first.__exit__())
    with first, run_in(tmp_path) as second:
        assert released == [first]
        assert Run.opened[tmp_path.resolve()] is second
    assert Run.opened == {}


def test_what_is_set_aside_is_renamed_and_the_rest_left_alone(tmp_path):
    folder = log(tmp_path / "v1.2", written(*LINES))
    (folder / "state.pt").write_bytes(b"state")
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "v1.2.safetensors").write_bytes(b"model")
    set_aside(folder)
    assert sorted(os.listdir(folder)) == ["log.jsonl.old", "notes.txt", "state.pt.old"]
    assert (tmp_path / "v1.2.safetensors.old").read_bytes() == b"model"
    set_aside(folder)                                            # there is nothing more
    set_aside(tmp_path / "never")
    assert sorted(os.listdir(tmp_path)) == ["v1.2", "v1.2.safetensors.old"]


def test_a_run_that_is_going_on_is_not_set_aside(tmp_path):
    log(tmp_path / "run", written(*LINES))
    with Lock(tmp_path / "run" / "lock"), pytest.raises(FileError, match="run/ is in use"):
        set_aside(tmp_path / "run")
    assert read_log(tmp_path / "run") == LINES


def test_folder_and_model_are_named_after_each_other_dots_and_all(tmp_path):
    for name in ("vqvae", "v1.2", "a.safetensors"):
        assert model_file_of(tmp_path / name).name == f"{name}.safetensors"
        assert folder_of(model_file_of(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize(("lines", "said"), [
    ([LINES[0], LINES[0]], "line 2 is damaged: update 10 comes after 10"),
    ([*LINES, LINES[0]], "line 3 is damaged: update 10 comes after 20"),
    ([{"step": 10.5, "lr": 1}], "line 1 is damaged")], ids=["doubled", "pasted", "between"])
def test_lines_of_updates_that_do_not_follow_each_other_are_named(tmp_path, lines, said):
    with pytest.raises(FileError, match=rf"run/log\.jsonl, {said}.*once the log is deleted"):
        read_log(log(tmp_path / "run", written(*lines)))


def test_what_was_set_aside_before_is_kept(tmp_path):
    for text in (b"first", b"second", b"third"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "state.pt").write_bytes(text)
        (tmp_path / "run.safetensors").write_bytes(text)
        set_aside(tmp_path / "run")
    for folder, name in ((tmp_path / "run", "state.pt"), (tmp_path, "run.safetensors")):
        kept = [folder / f"{name}{n}.old" for n in ("", "-2", "-3")]
        assert [path.read_bytes() for path in kept] == [b"first", b"second", b"third"]


def test_a_model_that_cannot_be_read_is_renamed_and_it_is_said(tmp_path):
    (tmp_path / "run.safetensors").write_bytes(b"cut")
    (tmp_path / "run.safetensors.old").write_bytes(b"kept")
    with run_in(tmp_path / "run") as run, pytest.warns(
            UserWarning, match=r"run\.safetensors is no .* renamed to run\.safetensors-2\.old"):
        assert run.load_finished() is None
    assert (tmp_path / "run.safetensors.old").read_bytes() == b"kept"
    assert (tmp_path / "run.safetensors-2.old").read_bytes() == b"cut"


def test_a_full_disk_names_the_log(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with run_in(tmp_path / "run") as run:
        monkeypatch.setattr("vqlib.runs.json.dumps", full)       # a write does not say its file
        with pytest.raises(OSError, match=r"No space left on device: 'run/log\.jsonl'"):
            run.append(LINES[0])
