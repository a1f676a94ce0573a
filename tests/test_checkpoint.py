"""Laws of files: whole or not at all, and never trusted when a byte differs."""
import dataclasses
import hashlib
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import loud

import vqlib.checkpoint
from vqlib.checkpoint import (
    MAGIC,
    FileError,
    load_model,
    load_state,
    save_model,
    save_state,
    write_atomically,
)
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig, StochasticDecoder
from vqlib.metrics import assert_fits


@pytest.fixture
def saved(tmp_path, gpt):
    save_model(tmp_path / "prior.safetensors", gpt, classes=["nv", "mel"], note="é")
    return tmp_path / "prior.safetensors"


def failing(*args, **kwargs):
    raise OSError(28, "No space left on device")


def refused(load, path):
    """Whether loading ends in a FileError that names the file; other exceptions pass."""
    try:
        load(path)
    except FileError as e:
        return path.name in str(e)
    return False


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_part(tmp_path, monkeypatch, call):
    path = tmp_path / "a.bin"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_the_bytes_are_on_the_disk_before_they_get_their_name(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: calls.append("fsync") or fsync(f))
    monkeypatch.setattr(os, "replace", lambda a, b: calls.append("replace") or replace(a, b))
    write_atomically(tmp_path / "new" / "folder" / "a.bin", b"data")
    assert calls == ["fsync", "replace"]
    assert (tmp_path / "new" / "folder" / "a.bin").read_bytes() == b"data"


@pytest.fixture
def windowed_gpt(windowed):
    return windowed


@pytest.fixture
def flow_decoder():
    model = loud(FlowDecoder(FlowDecoderConfig(code_dim=4, width=8, layers=1, patch=2, steps=3)))
    model.fit_units(torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    return model


@pytest.mark.parametrize("kind", ["vqvae", "gpt", "windowed_gpt", "flow_decoder"])
def test_a_loaded_model_answers_as_the_saved_one(tmp_path, request, kind, vqvae, dataset, codes):
    model = request.getfixturevalue(kind)
    save_model(tmp_path / "m.safetensors", model, classes=["nv"])
    loaded, metadata = load_model(tmp_path / "m.safetensors", kind)
    assert metadata["kind"] == kind
    assert metadata["classes"] == ["nv"]
    assert type(loaded) is type(model)
    assert loaded.cfg == model.cfg
    assert not loaded.training
    x, labels = codes
    grids = x.view(-1, 4, 4)
    if kind == "vqvae":
        assert torch.equal(loaded.encode(dataset[[0, 1]]), model.encode(dataset[[0, 1]]))
        assert torch.equal(loaded.decode(grids), model.decode(grids))
        assert loaded.quantizer.steps == model.quantizer.steps == 1
    elif kind == "flow_decoder":
        decoded, expected = (StochasticDecoder(vqvae, m).decode(grids) for m in (loaded, model))
        assert torch.equal(decoded, expected)
    else:
        assert torch.equal(loaded.nats(x, labels), model.nats(x, labels))


def test_no_flipped_bit_goes_unnoticed(saved):
    data, accepted = saved.read_bytes(), []
    in_header, in_weights = range(0, 900, 7), range(900, len(data), len(data) // 60)
    for at in [*in_header, *in_weights]:
        saved.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        if not refused(load_model, saved):
            accepted.append(at)
    assert accepted == []


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_cut_file_is_refused_by_name(saved, share):
    saved.write_bytes(saved.read_bytes()[: int(share * saved.stat().st_size)])
    with pytest.raises(FileError, match=r"prior\.safetensors"):
        load_model(saved)


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def save_tensor(path, metadata=None):
    safetensors.torch.save_file({"w": torch.zeros(3)}, path, metadata)


FOREIGN = {
    "text": lambda p: p.write_text("<html>404</html>"),
    "folder": lambda p: p.mkdir(),
    "torch file": lambda p: torch.save({"weights": torch.zeros(3)}, p),
    "safetensors of another program": save_tensor,
    "safetensors with other metadata": lambda p: save_tensor(p, {"metadata": "{}"}),
    "safetensors with an older header": lambda p: save_tensor(p, {"vqlib": '{"card": "{}"}'}),
    "pickle bomb": lambda p: p.write_bytes(pickle.dumps(Bomb(p.with_name("exploded")))),
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_by_name_and_never_run(tmp_path, write):
    path = tmp_path / "m.safetensors"
    write(path)
    with pytest.raises(FileError, match=r"m\.safetensors"):
        load_model(path)
    assert not (tmp_path / "exploded").exists()


def test_a_missing_file_says_what_makes_it(tmp_path):
    with pytest.raises(FileError, match=r"vqvae\.safetensors is missing: notebook 02 makes it"):
        load_model(tmp_path / "vqvae.safetensors", "vqvae", "notebook 02")
    with pytest.raises(FileError, match=rf"x\.safetensors is missing in {tmp_path}"):
        load_model(tmp_path / "x.safetensors")


def test_a_model_of_another_kind_is_refused(saved):
    with pytest.raises(FileError, match=r"prior\.safetensors holds a gpt, a vqvae is needed"):
        load_model(saved, "vqvae")


@pytest.mark.parametrize("change", ["a tensor is missing", "a setting is unknown"])
def test_a_model_of_another_version_is_refused_by_name(tmp_path, vqvae, monkeypatch, change):
    def all_but_the_first(self):
        return dict(list(torch.nn.Module.state_dict(self).items())[1:])

    def one_more(cfg):
        return {**dataclasses.asdict(cfg), "depth": 3}

    with monkeypatch.context() as patch:
        if change == "a tensor is missing":
            patch.setattr(type(vqvae), "state_dict", all_but_the_first)
        else:
            patch.setattr(vqlib.checkpoint, "asdict", one_more)
        save_model(tmp_path / "old.safetensors", vqvae)
    with pytest.raises(FileError, match=r"old.safetensors holds a vqvae of another version"):
        load_model(tmp_path / "old.safetensors")


def test_a_model_of_a_kind_that_is_not_known_is_refused_by_name(tmp_path, vqvae, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(vqlib.checkpoint.KINDS, "codec", (type(vqvae), type(vqvae.cfg)))
        patch.delitem(vqlib.checkpoint.KINDS, "vqvae")
        save_model(tmp_path / "m.safetensors", vqvae)
    with pytest.raises(FileError, match=r"m\.safetensors holds a codec"):
        load_model(tmp_path / "m.safetensors")


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {"step": 7, "weights": {"w": torch.arange(5.0)},
             "extra": {"best": {"held_out": float("inf"), "step": 0}}}
    save_state(tmp_path / "state.pt", state)
    loaded = load_state(tmp_path / "state.pt")
    assert torch.equal(loaded["weights"].pop("w"), state["weights"].pop("w"))
    assert loaded == state


def test_no_flipped_bit_of_a_state_goes_unnoticed(tmp_path):
    path, accepted = tmp_path / "state.pt", []
    save_state(path, {"w": torch.arange(50.0)})
    data = path.read_bytes()
    for at in range(0, len(data), 5):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        if not refused(load_state, path):
            accepted.append(at)
    assert accepted == []


@pytest.mark.parametrize("data", [b"", b"\n", MAGIC, b"PK\3\4 something else\n", b"\xff\xfe\n\0"])
def test_a_state_that_is_none_is_refused_by_name(tmp_path, data):
    (tmp_path / "state.pt").write_bytes(data)
    with pytest.raises(FileError, match=r"state\.pt"):
        load_state(tmp_path / "state.pt")


def test_a_state_with_a_forged_digest_still_cannot_run_code(tmp_path):
    data = pickle.dumps(Bomb(tmp_path / "exploded"), protocol=2)
    digest = hashlib.sha256(data).hexdigest().encode()
    (tmp_path / "state.pt").write_bytes(MAGIC + digest + b"\n" + data)
    with pytest.raises((FileError, pickle.UnpicklingError)):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "exploded").exists()


def test_the_same_model_is_the_same_file(tmp_path, vqvae):
    for name in "abcd":
        save_model(tmp_path / name, vqvae, data="x", split="train", seed=1)
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


def test_shipped_weights_are_those_of_the_list_and_fit_what_their_metadata_says():
    folder = Path(__file__).parent.parent / "data" / "pretrained"
    listed = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert listed.keys() == {p.name for p in folder.iterdir()} - {"SHA256SUMS", "README.md"}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 20e6
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    vqvae, _ = load_model(folder / "vqvae-f8.safetensors", "vqvae")
    kinds = set()
    for name in (n for n in listed if n.endswith(".safetensors")):
        model, metadata = load_model(folder / name)
        kinds.add(metadata["kind"])
        if metadata["kind"] == "vqvae":
            assert metadata["geometry"]["crop"] == model.cfg.image_size
        elif metadata["kind"] == "flow_decoder":
            assert model.cfg.code_dim == vqvae.cfg.code_dim
        else:
            assert_fits(model, vqvae)
        assert metadata["classes"] == ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]
    assert kinds == {"vqvae", "gpt", "windowed_gpt", "flow_decoder"}
