"""python -m vqlib encode, decode: pictures -> codes as a NumPy file -> pictures."""
import hashlib
import io
from pathlib import Path

import numpy as np
import torch

from vqlib.backend.files import read_regular, write_atomically
from vqlib.cli.options import add_command, add_decoder, add_weights, open_pipeline, path_name
from vqlib.cli.reconstruct import open_pictures, usable
from vqlib.data.records import DataError, printable
from vqlib.pictures import to_png, unique
from vqlib.pipeline import LEAST_SQUARES

LONGEST = 60  # characters of a name: a file system takes 255 bytes, some characters are four


def add(commands) -> None:
    p = add_command(commands, "encode", encode, "pictures -> codes, one .npz file",
                    "python -m vqlib encode --out codes.npz")
    p.add_argument("pictures", nargs="*", type=path_name, metavar="PICTURE",
                   help="files and folders; default: six lesions that the program paints")
    p.add_argument("--out", type=path_name, default=Path("codes.npz"), metavar="FILE",
                   help="`codes` (pictures, rows, columns) uint16 and `names`; default: codes.npz")
    p.set_defaults(decoder=LEAST_SQUARES)                      # none is asked to decode
    add_weights(p, prior=False)

    p = add_command(commands, "decode", decode, "codes of .npz or .npy -> pictures",
                    "python -m vqlib encode && python -m vqlib decode codes.npz")
    p.add_argument("codes", type=path_name, metavar="FILE",
                   help="what encode wrote, or an array (n, rows, columns) of whole numbers")
    p.add_argument("--out", type=path_name, default=Path("decoded"), metavar="FOLDER",
                   help="gets NAME.decoded.png; default: decoded")
    add_decoder(p)
    add_weights(p, prior=False)


def encode(args) -> None:
    if args.out.suffix != ".npz" or args.out.is_dir():
        raise ValueError(f"--out {args.out} is no file name that ends in .npz")
    pipeline, codes, names = open_pipeline(args), [], []
    for picture in usable(open_pictures(args.pictures, pipeline)):
        codes.append(pipeline.encode(picture.image[None])[0].numpy().astype(np.uint16))
        names.append(picture.name)
        print(f"{picture.name}: {picture.note}", flush=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, codes=np.stack(codes), names=np.array(names),
                        codebook=np.array(codebook_id(pipeline.vqvae)))
    write_atomically(args.out, buffer.getvalue())
    print(f"wrote {args.out}: codes {np.stack(codes).shape} of {pipeline.vqvae.cfg.n_codes}")


def decode(args) -> None:
    pipeline = open_pipeline(args)
    codes, names = read_codes(args.codes, pipeline.vqvae)        # (n, h, w)
    for name, own in zip(names, codes):                          # NAME.png may be the original
        image = pipeline.decode(own[None], args.decoder)[0]
        write_atomically(args.out / f"{name}.decoded.png", to_png(image))
    print(f"wrote {args.out}/: {len(names)} pictures, "
          f"{args.decoder or pipeline.decoders[0]} decoder")


def codebook_id(vqvae) -> str:
    """16 hex digits: codes mean something with their own codebook only."""
    vectors = vqvae.quantizer.codebook.cpu().numpy()
    return hashlib.sha256(vectors.tobytes()).hexdigest()[:16]


def read_codes(path: Path, vqvae) -> tuple[torch.Tensor, list[str]]:
    """Codes (n, h, w) and their names.

    Raises DataError for what is no such file, for codes outside 0..K-1 and for codes of another
    codebook.
    """
    content = io.BytesIO(read_regular(path))
    try:
        found = np.load(content, allow_pickle=False)
        named = found if isinstance(found, np.lib.npyio.NpzFile) else {"codes": found}
        codes, names = named["codes"], np.atleast_1d(named.get("names", ()))
        made_with = str(named.get("codebook", codebook_id(vqvae)))
    except Exception as e:      # NumPy, zipfile and zlib raise what they like; memory for a bomb
        raise DataError(f"{path.name} holds no codes: give what encode wrote, or a .npy of whole "
                        "numbers") from e
    K = vqvae.cfg.n_codes
    if codes.dtype.kind not in "iu" or codes.ndim not in (2, 3) or not codes.size:
        raise DataError(f"{path.name} holds {codes.dtype} {codes.shape}, whole numbers "
                        "(n, rows, columns) are needed")
    if codes.min() < 0 or codes.max() >= K:
        raise DataError(f"{path.name} has codes {codes.min()}..{codes.max()}, the VQ-VAE knows "
                        f"0..{K - 1}")
    if made_with != codebook_id(vqvae):
        raise DataError(f"{path.name} was encoded with another VQ-VAE: give that one (--weights "
                        "or --vqvae)")
    codes = torch.from_numpy(codes.astype(np.int64)).view(-1, *codes.shape[-2:])
    if len(names) != len(codes):
        names = [f"{path.stem}-{i + 1}" for i in range(len(codes))]
    taken = set()                                                # two pictures, two files
    return codes, [unique(safe_name(str(name)), taken) for name in names]


def safe_name(name: str) -> str:
    """A name from a file as a plain, printable file name that leads to no other folder."""
    name = printable(name[:LONGEST]).replace("/", "_").replace("\\", "_")
    return name.lstrip(".") or "unnamed"
