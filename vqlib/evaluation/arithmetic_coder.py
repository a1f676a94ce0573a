"""The prior as a file format: an arithmetic coder that its predictions drive.

The coder (a range coder: Martin 1979) writes -log2 p bits per code. Letters: B batch, n images, T
codes per image, K codes.
"""
import math

import numpy as np
import torch
from torch import Tensor

from vqlib.evaluation import need
from vqlib.gpt import Sampler

# Images coded side by side, always: a kernel may round a batch of another size differently, and a
# decoder whose probabilities differ in the last digit reads other codes.
BATCH = 16


def categorical_models(logits: Tensor) -> list:                      # (B, K)
    """One model per image for the coder, which rounds probabilities to multiples of 2^-24.

    It keeps all of them above 0: no code is impossible.
    """
    categorical = need("constriction").stream.model.Categorical
    return [categorical(p, perfect=False) for p in logits.double().cpu().softmax(-1).numpy()]


def filled(x: Tensor) -> Tensor:                                     # (n, ...) -> (BATCH, ...)
    """At most BATCH rows, filled up with copies of the last."""
    return x[torch.arange(BATCH).clamp(max=len(x) - 1)]


def to_bytes(words: np.ndarray) -> bytes:                            # uint32
    """The coder's words without the zeros at their end, which a decoder assumes anyway."""
    return words.astype(">u4").tobytes().rstrip(b"\0")


def to_words(blob: bytes) -> np.ndarray:                             # uint32
    return np.frombuffer(blob + bytes(-len(blob) % 4), dtype=">u4").astype(np.uint32)


def compress(prior, codes: Tensor, labels: Tensor) -> list[bytes]:   # (n, T), (n,)
    """One blob per image: what constriction's range coder writes, a few bytes more than the NLL.

    The label is not part of the blob; label `n_classes` means any class.
    """
    blobs = []
    for some_codes, some_labels in zip(codes.split(BATCH), labels.split(BATCH)):
        blobs += compress_batch(prior, some_codes, some_labels)
    return blobs


def compress_batch(prior, codes: Tensor, labels: Tensor) -> list[bytes]:  # (n, T), (n,), n <= BATCH
    device, n = prior.head.weight.device, len(codes)
    codes, labels = filled(codes).long().to(device), filled(labels).to(device)
    encoders = [need("constriction").stream.queue.RangeEncoder() for _ in range(n)]
    sampler, chosen = Sampler(prior, labels), None               # chosen: at the cell before
    for cell in prior.generation_order.tolist():
        predicted = categorical_models(sampler.step(chosen)[:n])
        chosen = codes[:, cell]
        for i, code in enumerate(chosen[:n].tolist()):
            encoders[i].encode(code, predicted[i])
    return [to_bytes(encoder.get_compressed()) for encoder in encoders]


def coded_bytes(prior, codes: Tensor, labels: Tensor, nats: Tensor) -> dict:  # (n, T), (n,), (n, T)
    """Mean bytes that the coder writes, the NLL in bytes, and the difference in bits per image."""
    written = float(np.mean([len(blob) for blob in compress(prior, codes, labels)]))
    ideal = float(nats.double().sum(1).mean()) / math.log(2) / 8
    return {"bytes": written, "nll_bytes": ideal, "overhead_bits": 8 * (written - ideal)}
