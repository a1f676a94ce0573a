"""Processes that train as one: torchrun starts them, gloo (CPUs) or nccl (GPUs) adds what they find. Alone, nothing changes.

Each rank takes its part of the same batch; gradients, codebook sums and losses are added, so all ranks hold the same model.
"""
import hashlib
import os
import socket
import sys
import time
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """0 writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum over the ranks, the same on all of them to the last bit."""
    if world_size() > 1:
        dist.all_reduce(x := x.clone())
    return x


def meeting() -> dist.Store:
    """Where the ranks of this attempt find each other. torchrun's own store outlives it, with the addresses of dead ranks."""
    kept, me, n = next(dist.rendezvous("env://"))
    if os.environ["TORCHELASTIC_USE_AGENT_STORE"] != "True":          # then rank 0 has just opened it
        return kept
    host, name = os.environ["MASTER_ADDR"], "vqlib/port"
    if me == 0:
        store = dist.TCPStore(host, 0, n, is_master=True, wait_for_workers=False)
        kept.set(name, str(store.port))
        return store
    for _ in range(1200):                                             # two minutes
        with suppress(OSError):                                       # nobody there: it is the port of a rank 0 that died
            socket.create_connection((host, port := int(kept.get(name))), 1).close()
            return dist.TCPStore(host, port, n)
        time.sleep(0.1)
    raise ConnectionError(f"rank {me} cannot reach rank 0 on {host}")


@contextmanager
def joined():
    """Join what torchrun started, on all its machines, if it did; raises ConnectionError when a rank is lost."""
    if not dist.is_torchelastic_launched():
        return (yield)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", store=meeting(),
                            rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if rank() else sys.stdout):
            yield
    except RuntimeError as e:
        if not isinstance(e, dist.DistError) and "gloo" not in str(e):
            raise
        raise ConnectionError(f"rank {rank()} of {world_size()} lost another, whose own message says why. The last checkpoint is "
                              "kept: start the same command again, or let torchrun --max-restarts do it") from e
    dist.destroy_process_group()


def agree(what: str) -> None:
    """Raises ValueError unless all ranks say the same: they would wait for each other for ever, or train different things."""
    mine = int(hashlib.sha256(what.encode()).hexdigest()[:8], 16)
    if int(all_reduce_sum(torch.tensor(mine))) != world_size() * mine:
        raise ValueError("the ranks differ in settings, data or checkpoint: start all with one command, on a shared folder")


def replicated(model, loss):
    """loss(model, ...) whose gradients are means over the ranks. The model stays as it is and keeps its names."""
    if world_size() == 1:
        return partial(loss, model)
    objective = nn.Module()                                           # DDP watches the forward pass of what it wraps
    objective.weights, objective.forward = nn.ParameterList(model.parameters()), partial(loss, model)
    return nn.parallel.DistributedDataParallel(objective)             # no buffers: the quantizer adds up its own
