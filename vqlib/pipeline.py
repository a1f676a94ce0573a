"""The models that work together, the weights that ship with them, and the settings that go along.

Letters: B images, H W pixels, h w grid cells, T = h*w codes per image.
"""
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vqlib.backend.device import default_device
from vqlib.backend.files import FileError, is_there
from vqlib.backend.paths import pretrained
from vqlib.checkpoint import load_model
from vqlib.data.decode import Geometry
from vqlib.flow_decoder import FlowDecoder, StochasticDecoder, assert_decodes
from vqlib.gpt import GPT
from vqlib.identity import origin_of
from vqlib.metrics import assert_fits
from vqlib.vqvae import VQVAE

LEAST_SQUARES, FLOW = "least-squares", "flow"
# chosen on validation images (data/pretrained/README.md); gpt.SAMPLING are the neutral ones
DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "first_top_p": 0.95}
GUIDANCE = 2.0                       # for a diagnosis on demand; 1 (off) for any class
MAX_SEED = 2**53 - 1                 # the largest whole number that a browser can hold exactly


@dataclass
class Pipeline:
    """A VQ-VAE, and the prior and the flow decoder for its codes where they are there."""

    vqvae: VQVAE
    geometry: Geometry                                   # how pictures were cropped in training
    gpt: GPT | None = None
    classes: list[str] = field(default_factory=list)     # of the prior, without "any"
    flow_decoder: FlowDecoder | None = None
    notes: list[str] = field(default_factory=list)       # what a user should know of the weights

    @property
    def labels(self) -> list[str]:
        """Names of the prior's labels in their order, the last of which is `any`."""
        return [*self.classes, "any"]

    @property
    def decoders(self) -> list[str]:
        """Names of the decoders that are there, the best-looking first."""
        return [FLOW, LEAST_SQUARES] if self.flow_decoder else [LEAST_SQUARES]

    def decoder(self, name: str | None = None, seed=0):
        """What decodes: the VQ-VAE or a StochasticDecoder; without a name the first there is.

        Raises ValueError for the flow decoder if it is not there, and for unknown names.
        """
        name = name or self.decoders[0]
        if name not in (FLOW, LEAST_SQUARES):
            raise ValueError(f"no decoder {name!r}; there are {FLOW} and {LEAST_SQUARES}")
        if name == LEAST_SQUARES:
            return self.vqvae
        if not self.flow_decoder:
            raise ValueError("there is no flow decoder: give its file (--flow-decoder FILE), or "
                             f"take the {LEAST_SQUARES} decoder")
        return StochasticDecoder(self.vqvae, self.flow_decoder, seed)

    def decode(self, codes: Tensor, name=None, seed=0, batch=8) -> Tensor:
        """Images (B, 3, H, W) on the CPU of codes (B, h, w), or (B, T) of a square grid.

        An image depends on its own codes and the seed only, not on the batch. Raises ValueError
        for what are no codes of this VQ-VAE.
        """
        K, shape = self.vqvae.cfg.n_codes, tuple(codes.shape)
        whole = not (codes.is_floating_point() or codes.is_complex())
        if codes.dim() == 2 and math.isqrt(shape[1]) ** 2 == shape[1]:
            codes = codes.view(-1, math.isqrt(shape[1]), math.isqrt(shape[1]))
        if not whole or codes.dim() != 3 or not codes.numel():
            raise ValueError(f"codes are whole numbers (B, h, w), or (B, T) of a square grid, got "
                             f"{codes.dtype} {shape}")
        if codes.min() < 0 or codes.max() >= K:
            raise ValueError(f"the VQ-VAE knows codes 0..{K - 1}, got {int(codes.min())}.."
                             f"{int(codes.max())}")
        decoder, codes = self.decoder(name, seed), codes.long().to(self.vqvae.mean.device)
        return torch.cat([decoder.decode(some).cpu() for some in codes.split(batch)])

    def encode(self, images: Tensor) -> Tensor:          # (B, 3, H, W) in [0, 1] -> (B, h, w)
        """The nearest codes, on the CPU. Raises ValueError for what are no such images."""
        if not images.is_floating_point() or images.dim() != 4 or images.shape[1] != 3 or not (
                images.isfinite().all()):
            raise ValueError("images are (B, 3, H, W), finite numbers in [0, 1], got "
                             f"{images.dtype} {tuple(images.shape)}")
        return self.vqvae.encode(images.to(self.vqvae.mean.device)).cpu()

    def label(self, name: str) -> int:
        """The number of a class; raises ValueError that lists the known ones."""
        if name not in self.labels:
            raise ValueError(f"no class {name!r}; this prior knows {', '.join(self.labels)}")
        return self.labels.index(name)


def sampling_for(label: str, **settings) -> dict:
    """Settings of `GPT.generate` for a class: those given (None: not given), else the shipped."""
    guidance = 1.0 if label == "any" else GUIDANCE
    given = {name: value for name, value in settings.items() if value is not None}
    return {**DEFAULTS, "guidance": guidance, **given}


def find_weights(folder: Path, model: str) -> Path:
    """NAME.safetensors in a run's folder, NAME-f8.safetensors among those that ship.

    Raises FileError that names every way to get the file.
    """
    paths = [folder / f"{model}.safetensors", folder / f"{model}-f8.safetensors"]
    for path in paths:
        if is_there(path):
            return path
    here = folder.resolve() == pretrained().resolve()
    other = "git checkout data/pretrained brings back" if here else "without --weights you use"
    notebook = "04" if model in ("prior", "windowed") else "02"
    raise FileError(
        f"{paths[0].name} is missing in {folder}. Ways on: {other} the weights that ship; "
        f"python -m vqlib train all, notebook {notebook} or make notebooks trains your own")


def models_of(workspace):
    """(folder with the models of a workspace, the data they learnt from).

    Where the workspace has none, those that ship for its preset, and None: they learnt from data
    that is not here, which its figures then name.
    """
    if is_there(workspace.folder / "vqvae.safetensors") or workspace.preset.name != "flagship":
        return workspace.folder, workspace.dataset
    workspace.shows = "weights that ship, of HAM10000 (CC BY-NC 4.0)"
    return pretrained(), None


def load_pipeline(folder=None, vqvae=None, prior=None, flow_decoder=None, needs=()) -> Pipeline:
    """Models of a folder, of files given one by one, or, without any, those that ship.

    folder: default data/pretrained. vqvae: with it nothing is looked for in the folder, whose
        other models know other codes. needs: what else must be there, of prior and flow-decoder;
        a flow decoder is taken if it is there.
    Raises FileError for missing, damaged and foreign files, ValueError for models that do not fit.
    """
    folder, device = Path(folder or pretrained()), default_device()
    path = vqvae or find_weights(folder, "vqvae")
    model, metadata = load_model(path, "vqvae")
    side = model.cfg.image_size
    geometry = Geometry(**metadata.get("geometry", {"crop": side, "resize": side}))
    made = Pipeline(model.to(device), geometry)
    if "prior" in needs:
        if vqvae and not prior:
            raise FileError(f"{Path(path).name} needs the prior that learnt its codes: "
                            "--prior FILE")
        path = prior or find_weights(folder, "prior")
        made.gpt, made.classes = load_prior(path, made.vqvae)
    if flow_decoder:
        made.flow_decoder = load_flow_decoder(flow_decoder, made.vqvae)
    elif "flow-decoder" in needs:
        made.flow_decoder = load_flow_decoder(find_weights(folder, "flow-decoder"), made.vqvae)
    elif not vqvae:
        adopt_flow_decoder(made, folder)
    made.notes += notes_on(made.gpt, made.flow_decoder)
    return made


def load_prior(path, vqvae, kinds=("gpt",)):
    """(the prior of a file, its classes); FileError if it is no prior, or for other codes."""
    path = Path(path)
    prior, metadata = load_model(path)
    if metadata["kind"] not in kinds:
        raise FileError(f"{path.name} holds a {metadata['kind']}, a {' or '.join(kinds)} is needed")
    classes = metadata.get("classes")
    if not classes or len(classes) != getattr(prior.cfg, "n_classes", len(classes)):
        raise FileError(f"{path.name} does not say which classes it knows: save it with "
                        "**workspace.metadata")
    with naming(path):
        assert_fits(prior, vqvae)
    return prior.to(vqvae.mean.device), classes


def load_flow_decoder(path, vqvae) -> FlowDecoder:
    """The flow decoder of a file; raises FileError if it is for other code vectors or cells."""
    flow_decoder, _ = load_model(path, "flow_decoder")
    with naming(path):
        assert_decodes(flow_decoder, vqvae)
    return flow_decoder.to(vqvae.mean.device)


@contextmanager
def naming(path):
    """A ValueError within comes out as a FileError that names the file."""
    try:
        yield
    except ValueError as e:
        raise FileError(f"{Path(path).name}: {e}") from e


def notes_on(*models) -> list[str]:
    """What is not known of models that were loaded together, for a reader of the results."""
    return [f"the {type(model).__name__} does not say which VQ-VAE it learnt from (an older file): "
            "only its sizes were checked"
            for model in models if model is not None and "identity" not in origin_of(model)]


def adopt_flow_decoder(made: Pipeline, folder: Path) -> None:
    """Take the folder's flow decoder if it has one that works; else a note says why not."""
    try:
        path = find_weights(folder, "flow-decoder")
    except FileError:
        return
    try:
        made.flow_decoder = load_flow_decoder(path, made.vqvae)
    except FileError as e:
        made.notes.append(f"{e}. Until then the {LEAST_SQUARES} decoder is used.")
