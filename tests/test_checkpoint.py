"""Laws of files: whole or not at all, and never trusted when a byte differs."""
import dataclasses
import hashlib
import json
import math
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import loud

import vqlib.checkpoint
from vqlib.backend.files import FileError
from vqlib.checkpoint import (
    KINDS,
    MAGIC,
    Shapes,
    load_model,
    load_state,
    save_model,
    save_state,
)
from vqlib.flow_decoder import FlowDecoder, FlowDecoderConfig, StochasticDecoder
from vqlib.gpt import GPTConfig
from vqlib.identity import digest
from vqlib.metrics import assert_fits
from vqlib.vqvae import VQVAEConfig
from vqlib.windowed_gpt import WindowedGPTConfig


@pytest.fixture
def saved(tmp_path, gpt):
    save_model(tmp_path / "prior.safetensors", gpt, classes=["nv", "mel"], note="é")
    return tmp_path / "prior.safetensors"


def refused(load, path):
    """Whether loading ends in a FileError that names the file; other exceptions pass."""
    try:
        load(path)
    except FileError as e:
        return path.name in str(e)
    return False


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


@pytest.mark.parametrize(("model", "config"), KINDS.values(), ids=KINDS)
def test_shapes_are_those_of_the_model_and_take_no_memory(model, config):
    with Shapes():
        shapes = model(config())
    assert all(parameter.is_meta for parameter in shapes.parameters())
    held = [buffer for buffer in shapes.buffers() if not buffer.is_meta]
    assert sum(buffer.nbytes for buffer in held) < 40_000        # a prior's order of the grid
    assert [(name, w.shape, w.dtype) for name, w in shapes.state_dict().items()] == [
        (name, w.shape, w.dtype) for name, w in model(config()).state_dict().items()]


def test_loading_does_not_import_what_compiles(tmp_path):
    """That takes seconds in each process."""
    code = """if True:
        import sys
        from pathlib import Path
        from vqlib.checkpoint import KINDS, load_model, save_model
        for kind, (model, config) in KINDS.items():
            save_model(Path(sys.argv[1]), model(config()))
            load_model(Path(sys.argv[1]), kind)
        assert "torch._dynamo" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code, tmp_path / "m.safetensors"], check=True,
                   cwd=Path(__file__).parent.parent)


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
    path, missing = tmp_path / "x.safetensors", rf"^x\.safetensors is missing in {tmp_path}"
    with pytest.raises(FileError, match=rf"{missing}: notebook 02 makes it.* that ship are taken$"):
        load_model(path, "vqvae", "notebook 02")
    with pytest.raises(FileError, match=rf"{missing}: train vqvae makes it, run that first$"):
        load_model(path, "vqvae", "train vqvae")
    with pytest.raises(FileError, match=rf"{missing}$"):
        load_model(path)


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


STATE = {"identity": {"data": "x"}, "step": 7, "weights": {"w": torch.arange(50.0)},
         "optimizer": {}, "extra": {"best": {"held_out": float("inf"), "step": 0}}}


def test_a_state_comes_back_as_it_was(tmp_path):
    save_state(tmp_path / "state.pt", STATE)
    loaded = load_state(tmp_path / "state.pt")
    assert torch.equal(loaded.pop("weights")["w"], STATE["weights"]["w"])
    assert loaded == {name: STATE[name] for name in ("identity", "step", "optimizer", "extra")}


def test_no_flipped_bit_of_a_state_goes_unnoticed(tmp_path):
    path, accepted = tmp_path / "state.pt", []
    save_state(path, STATE)
    data = path.read_bytes()
    for at in range(0, len(data), 5):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
        if not refused(load_state, path):
            accepted.append(at)
    assert accepted == []


@pytest.mark.parametrize("data", [b"", b"\n", MAGIC, b"PK\3\4 something else\n", b"\xff\xfe\n\0",
                                  b"vqlib state 2 " + 64 * b"0" + b"\n"])
def test_a_state_that_is_none_is_refused_by_name(tmp_path, data):
    (tmp_path / "state.pt").write_bytes(data)
    with pytest.raises(FileError, match=r"state\.pt"):
        load_state(tmp_path / "state.pt")


def sealed(data):
    """The bytes of a state file with a digest that is right, whatever the data."""
    return MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def test_a_state_with_a_forged_digest_still_cannot_run_code(tmp_path):
    (tmp_path / "state.pt").write_bytes(sealed(pickle.dumps(Bomb(tmp_path / "exploded"), 2)))
    with pytest.raises(FileError, match=r"state\.pt"):
        load_state(tmp_path / "state.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("change", [{"step": -1}, {"step": "7"}, {"identity": None},
                                    {"weights": [1]}], ids=str)
def test_a_state_without_its_parts_is_refused_by_name(tmp_path, change):
    save_state(tmp_path / "state.pt", STATE | change)
    with pytest.raises(FileError, match=r"state\.pt is no training state"):
        load_state(tmp_path / "state.pt")


# files that were made to harm ---------------------------------------------------------------------

def forge(path, change=None, weights=None):
    """Rewrite a model file with other metadata or tensors and a digest that is right."""
    with safetensors.safe_open(path, "pt") as f:
        metadata = json.loads(json.loads(f.metadata()["vqlib"])["metadata"])
        tensors = {name: f.get_tensor(name) for name in f.keys()}
    tensors = weights(tensors) if weights else tensors
    change = change or {}
    metadata |= {name: metadata[name] | value if name == "config" else value
                 for name, value in change.items()}
    text = json.dumps(metadata)
    readable = {name: w.float() if w.dtype == torch.bfloat16 else w for name, w in tensors.items()}
    header = {"metadata": text, "sha256": digest(readable, text)}
    path.write_bytes(safetensors.torch.save(tensors, {"vqlib": json.dumps(header)}))


@pytest.mark.parametrize("change", [
    {"kind": None}, {"kind": ["gpt"]}, {"config": {"heads": 0}}, {"config": {"layers": 10**9}},
    {"config": {"grid": 10**6}}, {"config": {"width": 2**40}}, {"config": {"dropout": "much"}},
    {"config": {"dropout": math.nan}}, {"config": {"n_codes": True}}, {"config": {"depth": 3}},
    {"format": 99}, {"classes": [1, 2]}, {"classes": "nv"}, {"geometry": {"crop": 10**9}},
    {"geometry": {"crop": "all", "resize": None}}, {"preset": 3}, {"identity": []},
    {"pictures": {"records": 3}}, {"pictures": {"records": "!", "contents": "AAAA"}},
    {"identity": {"vqvae": 5}}, {"identity": {"codes": 3}},
    {"classes": ["nv", "nv"]}, {"config": {"class_dropout": 5.0}},
    {"geometry": {"crop": 32, "resize": 8}}], ids=str)
def test_metadata_that_cannot_be_is_refused_by_name_before_memory_is_taken(
        saved, change, monkeypatch):
    forge(saved, change)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)  # no model is built
    with pytest.raises(FileError, match=r"prior\.safetensors"):
        load_model(saved)


def no_number(tensors):
    name = next(iter(tensors))
    return tensors | {name: torch.full_like(tensors[name], math.nan)}


WEIGHTS = {
    "NaN": no_number,
    "bfloat16": lambda tensors: {name: w.bfloat16() for name, w in tensors.items()},
    "another shape": lambda tensors: {name: w[..., None] for name, w in tensors.items()},
    "none": lambda tensors: {},
    "one more": lambda tensors: tensors | {"more": torch.zeros(3)},
}


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_cannot_be_are_refused_by_name(saved, weights):
    forge(saved, weights=weights)
    with pytest.raises(FileError, match=r"prior\.safetensors"):
        load_model(saved)


def test_weights_of_16_bits_are_read(saved, gpt):
    forge(saved, weights=lambda tensors: {name: w.half() for name, w in tensors.items()})
    loaded = load_model(saved)[0].state_dict()
    assert all(torch.equal(loaded[name], w.half().float()) for name, w in gpt.state_dict().items())


@pytest.mark.parametrize("load", [load_model, load_state])
def test_a_pipe_is_refused_and_keeps_nobody_waiting(tmp_path, load):
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(FileError, match=r"m\.safetensors is a pipe"):
        load(tmp_path / "m.safetensors")


@pytest.mark.slow
def test_whatever_is_done_to_a_file_it_loads_as_it_was_or_is_refused_by_name(tmp_path, saved):
    """VQLIB_FUZZ_SECONDS (an hour) of files cut, flipped, filled and pasted at random."""
    rng, expected = random.Random(0), load_model(saved)[0].state_dict()
    save_state(tmp_path / "state.pt", STATE)
    files = {saved: load_model, tmp_path / "state.pt": load_state}
    whole = {path: path.read_bytes() for path in files}
    end = time.monotonic() + float(os.environ.get("VQLIB_FUZZ_SECONDS", 3600))
    while time.monotonic() < end:
        path, load = rng.choice([*files.items()])
        path.write_bytes(damaged(whole[path], rng))
        if path.read_bytes() != whole[path]:
            assert refused(load, path)
        path.write_bytes(whole[path])
    assert all(torch.equal(w, expected[name])
               for name, w in load_model(saved)[0].state_dict().items())


def damaged(data, rng):
    at, n = rng.randrange(len(data)), rng.choice([1, 2, 16, 512, len(data)])
    part = data[at : at + n]
    return rng.choice([
        data[:at], data[at:], data[:at] + data[at + n :], data + part,
        data[:at] + bytes(len(part)) + data[at + n :],
        data[:at] + rng.randbytes(len(part)) + data[at + n :],
        data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]])


def test_the_same_model_is_the_same_file(tmp_path, vqvae):
    for name in "abcd":
        save_model(tmp_path / name, vqvae, data="x", split="train", seed=1)
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


def test_shipped_weights_are_those_of_the_list_and_fit_what_their_metadata_says():
    folder = Path(__file__).parent.parent / "data" / "pretrained"
    listed = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert listed.keys() == {p.name for p in folder.iterdir()} - {"SHA256SUMS", "README.md"}
    assert sum(p.stat().st_size for p in folder.iterdir()) < 20e6
    for name, listed_digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == listed_digest
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


@pytest.mark.parametrize("geometry", [{"crop": 8, "resize": 8}, {"crop": 16, "resize": 8}], ids=str)
def test_a_vqvae_of_other_crops_than_its_images_is_refused_by_name(tmp_path, vqvae, geometry):
    save_model(tmp_path / "v.safetensors", vqvae, geometry=geometry)
    with pytest.raises(FileError, match=r"v\.safetensors"):
        load_model(tmp_path / "v.safetensors")


@pytest.mark.parametrize(("cls", "setting", "value"), [
    (VQVAEConfig, "n_codes", 0), (VQVAEConfig, "decay", 2.0), (VQVAEConfig, "beta", math.nan),
    (VQVAEConfig, "hidden", 2.5), (GPTConfig, "heads", 0), (GPTConfig, "class_dropout", 1.5),
    (GPTConfig, "grid", 10**6), (WindowedGPTConfig, "layers", -1),
    (FlowDecoderConfig, "steps", 1e3), (FlowDecoderConfig, "width", "a"),
    (VQVAEConfig, "n_down", "2"), (GPTConfig, "width", None)
], ids=str)
def test_a_setting_that_no_model_can_have_is_named(cls, setting, value):
    with pytest.raises(ValueError, match=f"{cls.__name__}: {setting} {value!r} must be .*"):
        cls(**{setting: value})


@pytest.mark.parametrize(("cls", "setting", "value", "rule"), [
    (VQVAEConfig, "data_init", 0, "True or False"), (VQVAEConfig, "data_init", 3, "True or False"),
    (VQVAEConfig, "n_down", 0, r"a whole number in 1\.\.8"),
    (VQVAEConfig, "hidden", 1, r"a whole number in 2\.\.8192"),
    (VQVAEConfig, "decoder_hidden", 0, r"a whole number in 2\.\.8192, or None"),
    (VQVAEConfig, "decay", 2.0, r"a number in 0\.\.1"),
    (VQVAEConfig, "beta", math.inf, "a finite number, at least 0")], ids=str)
def test_the_message_says_what_a_setting_must_be(tmp_path, vqvae, cls, setting, value, rule):
    with pytest.raises(ValueError, match=rf"{setting} {value} must be {rule}$"):
        cls(**{setting: value})
    save_model(tmp_path / "v.safetensors", vqvae)
    forge(tmp_path / "v.safetensors", {"config": {setting: value}})
    with pytest.raises(FileError, match=rf"v\.safetensors: no vqvae has {setting} {value}, it must "
                                        rf"be {rule}; fetch or train it again"):
        load_model(tmp_path / "v.safetensors")
