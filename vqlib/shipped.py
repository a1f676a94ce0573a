"""Weights that ship are finished runs, for the preset and the data that they learnt from.

What they learnt from decides, whatever their files are called. No model is taken without the VQ-VAE
that it learnt from, and nothing that is there is replaced.
"""
from dataclasses import asdict, replace
from pathlib import Path

from vqlib.backend.files import FileError, is_there, write_atomically
from vqlib.checkpoint import load_model, save_model
from vqlib.data.dataset import Dataset, statistics
from vqlib.identity import known_records, plain, weights_digest
from vqlib.presets import Preset

RUNS = {"vqvae": "vqvae", "baseline": "vqvae", "prior": "prior", "windowed": "windowed",
        "flow-decoder": "flow_decoder"}  # name of a run -> of its settings in a preset
SAME_DATA = 0.99  # share of a model's training images that must be in the data's training split


def adopt(shipped: Path, folder: Path, preset: Preset, dataset: Dataset) -> tuple[list, list]:
    """Copy weights and logs from `shipped` to `folder`, as runs of this preset and data.

    Returns the names of files that are there now, and why others of the same preset are not.
    """
    found, taken, left = [], [], []
    for path in sorted(shipped.glob("*.safetensors")):
        try:
            found.append((path, *load_model(path)))
        except FileError as e:
            left.append(str(e))
    found.sort(key=lambda file: file[2]["kind"] != "vqvae")      # the others need theirs
    for path, model, metadata in found:
        if metadata.get("preset") == preset.name:
            try:
                if take(path, model, metadata, folder, preset, dataset):
                    taken.append(path.stem)
            except FileError as e:
                left.append(str(e))
    return taken, left


def take(path: Path, model, metadata: dict, folder: Path, preset: Preset, dataset) -> bool:
    """Copy a model and its log to where its run ends; False if something else is there.

    Raises FileError for a model of other settings, data or codes.
    """
    name = run_of(path.name, model, metadata, preset, dataset)
    target = folder / f"{name}.safetensors"
    if is_there(folder / name / "state.pt"):
        return False
    if is_there(target):
        return weights_digest(load_model(target)[0]) == weights_digest(model)
    assert_vqvae_there(path.name, metadata["identity"], folder)
    if metadata["identity"].get("data") == dataset.fingerprint:
        write_atomically(target, path.read_bytes())
    else:
        of_these = for_same_pictures(path.name, metadata, preset, name, dataset)
        save_model(target, model, **of_these)
    if is_there(log := path.with_suffix(".jsonl")):
        write_atomically(folder / name / "log.jsonl", log.read_bytes())
    return True


def run_of(file: str, model, metadata: dict, preset: Preset, dataset: Dataset) -> str:
    """Which run of the preset a model is the end of; FileError if of none."""
    if not {"identity", "pictures"} <= metadata.keys():
        raise FileError(f"{file} does not say what it learnt from (an older file)")
    if metadata.get("classes") != dataset.classes:
        raise FileError(f"{file} knows the classes {metadata.get('classes')}, the data has "
                        f"{dataset.classes}")
    said = settings_in(metadata["identity"])
    for name, part in RUNS.items():
        of = preset.baseline if name == "baseline" else preset
        config, training = getattr(of, part), getattr(of, f"{part}_training")
        if part == "prior" and config:
            config = replace(config, n_classes=len(dataset.classes))
        wanted = {"training": plain(asdict(training)) if training else None,
                  "augmentation": plain(asdict(of.augment)), "divided": of.divide_by_pixel_variance,
                  "augmentations": [*of.prior_augmentations]}
        if model.cfg == config and said.items() <= wanted.items():
            return name
    raise FileError(f"{file} was trained with other settings than preset {preset.name} has")


def settings_in(identity: dict) -> dict:
    """What an identity says of the settings that a preset has."""
    said = {name: identity[name] for name in ("training", "augmentation") if name in identity}
    if "variance" in identity:
        said["divided"] = identity["variance"] != 1
    if isinstance(identity.get("codes"), dict):
        said["augmentations"] = identity["codes"]["augmentations"]
    return said


def assert_vqvae_there(file: str, identity: dict, folder: Path) -> None:
    """Raises FileError if a model learnt from another VQ-VAE than the folder's."""
    needs, vqvae = identity.get("vqvae"), folder / "vqvae.safetensors"
    if needs and not (is_there(vqvae) and weights_digest(load_model(vqvae)[0]) == needs):
        raise FileError(f"{file} learnt from another VQ-VAE than {folder.name}/ has")


def for_same_pictures(file: str, metadata: dict, preset, name: str, dataset) -> dict:
    """Metadata for the same pictures in another size: the identity that a run on them has.

    Raises FileError for other pictures.
    """
    share = known_records(metadata["pictures"], dataset, dataset.splits["train"])
    if not share >= SAME_DATA:
        raise FileError(f"{file} learnt from other data: {share:.0%} of its training images are in "
                        "this training split")
    of = preset.baseline if name == "baseline" else preset
    identity = {**metadata["identity"], "data": dataset.fingerprint}
    if "variance" in identity and of.divide_by_pixel_variance:
        identity["variance"] = float(f"{statistics(dataset)['variance']:.9g}")
    return {**metadata, "identity": identity,
            "adopted": f"trained on data {metadata['identity'].get('data')}, {share:.0%} of it in "
                       f"the training split of {dataset.fingerprint}"}
