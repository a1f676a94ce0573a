"""The prior as a file format: a range coder driven by its predictions writes -log2 p bits per code, and reads them back.

Letters: B batch, T codes per image, K codes.
"""
import numpy as np
import torch
from torch import Tensor

from vqlib.evaluation import need

BATCH = 16  # images coded side by side, always: kernels may round another shape differently, and then nothing decodes


def models(logits: Tensor) -> list:                                  # (B, K)
    """One model per image. The coder rounds probabilities to multiples of 2^-24 and keeps all above 0: no code is impossible."""
    categorical = need("constriction").stream.model.Categorical
    return [categorical(p, perfect=False) for p in logits.double().cpu().softmax(-1).numpy()]


def groups(labels: Tensor):                                          # (n,)
    """Yield (slice, labels (BATCH,)): the last group is filled up with copies of its last label."""
    for i in range(0, len(labels), BATCH):
        some = labels[i : i + BATCH]
        yield slice(i, i + len(some)), torch.cat([some, some[-1:].expand(BATCH - len(some))])


def pack(words: np.ndarray) -> bytes:
    """Whole 32-bit words without the zeros at their end, which a decoder assumes anyway."""
    return words.astype(">u4").tobytes().rstrip(b"\0")


def unpack(blob: bytes) -> np.ndarray:
    return np.frombuffer(blob + bytes(-len(blob) % 4), dtype=">u4").astype(np.uint32)


def decoded(blob: bytes, models: list) -> list[int]:                 # one model per code
    decoder = need("constriction").stream.queue.RangeDecoder(unpack(blob))
    return [decoder.decode(model) for model in models]


def shortest(blob: bytes, models: list) -> bytes:
    """The fewest bytes that decode to the same codes: the coder ends in an interval, and names a number with digits to spare.

    A shorter number in that interval is the blob's own cut off, or the next above.
    """
    codes = decoded(blob, models)
    while blob:
        n, head = len(blob) - 1, int.from_bytes(blob[:-1], "big")
        shorter = (x.to_bytes(n, "big") for x in (head, head + 1) if x < 256**n)
        found = next((s for s in shorter if decoded(s, models) == codes), None)
        if found is None:
            break
        blob = found
    return blob


def compress(prior, codes: Tensor, labels: Tensor) -> list[bytes]:   # (n, T), (n,)
    """One blob per image, on average 0.3 bytes above its NLL. The label is not part of it; `n_classes` means any."""
    device, blobs = prior.head.weight.device, []
    for part, some in groups(labels):
        padded = torch.cat([codes[part], codes[part][-1:].expand(BATCH - len(codes[part]), -1)]).long().to(device)
        encoders = [need("constriction").stream.queue.RangeEncoder() for _ in codes[part]]
        loop, used = prior.steps(some.to(device)), []
        logits = next(loop)
        for t, column in enumerate(padded.T[prior.generation_order]):           # (BATCH,)
            used.append(models(logits[: len(encoders)]))
            for encoder, code, model in zip(encoders, column.tolist(), used[-1]):
                encoder.encode(code, model)
            if t + 1 < padded.shape[1]:
                logits = loop.send(column)
        blobs += [shortest(pack(encoder.get_compressed()), each) for encoder, each in zip(encoders, zip(*used))]
    return blobs


def decompress(prior, blobs: list[bytes], labels: Tensor) -> Tensor:  # (n,) -> (n, T)
    """The codes of `compress`, exactly, on the machine and with the number of threads that wrote the blobs, in their order.

    Another machine may round logits differently, and then an image turns into another one from some cell on.
    """
    device, out, T = prior.head.weight.device, [], prior.cfg.grid**2
    for part, some in groups(labels):
        decoders = [need("constriction").stream.queue.RangeDecoder(unpack(blob)) for blob in blobs[part]]
        loop, codes = prior.steps(some.to(device)), torch.zeros(BATCH, T, dtype=torch.long, device=device)
        logits = next(loop)
        for t, cell in enumerate(prior.generation_order.tolist()):
            read = [decoder.decode(model) for decoder, model in zip(decoders, models(logits[: len(decoders)]))]
            codes[:, cell] = torch.tensor(read + read[-1:] * (BATCH - len(read)))
            if t + 1 < T:
                logits = loop.send(codes[:, cell])
        out.append(codes[: len(decoders)].cpu())
    return torch.cat(out)
