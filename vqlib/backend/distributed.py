"""Processes that train as one: torchrun starts them, gloo (CPUs) or nccl (GPUs) connects them.

Each rank takes its part of the same batch. Gradients, codebook sums and losses are added up, so
that all ranks hold the same model. In a process alone nothing changes.
"""
import hashlib
import os
import socket
import time
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """This process's number; 0 writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def my_part(x):
    """This rank's part of a batch (a tensor, or anything that slices); all parts are equal."""
    n = len(x) // world_size()
    return x[rank() * n : (rank() + 1) * n]


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum over the ranks, the same on all of them to the last bit."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def all_reduce_mean(x: Tensor) -> Tensor:
    return all_reduce_sum(x) / world_size()


def wait_for_all() -> None:
    """Return when all ranks have come here: what rank 0 wrote before is there for all."""
    if world_size() > 1:
        dist.barrier()


def rendezvous_store() -> dist.Store:
    """Where the ranks of this attempt find each other.

    torchrun's own store outlives an attempt and keeps the addresses of dead ranks, so rank 0 opens
    a store per attempt and leaves its port there. Raises ConnectionError after two minutes.
    """
    kept, me, n = next(dist.rendezvous("env://"))
    if os.environ["TORCHELASTIC_USE_AGENT_STORE"] != "True":     # then rank 0 has just opened it
        return kept
    host, name = os.environ["MASTER_ADDR"], "vqlib/port"
    if me == 0:
        store = dist.TCPStore(host, 0, n, is_master=True, wait_for_workers=False)
        kept.set(name, str(store.port))
        return store
    for _ in range(1200):
        with suppress(OSError):                                  # the port may be a dead rank 0's
            port = int(kept.get(name))
            socket.create_connection((host, port), 1).close()
            return dist.TCPStore(host, port, n)
        time.sleep(0.1)
    raise ConnectionError(f"rank {me} cannot reach rank 0 on {host}")


@contextmanager
def joined():
    """Join what torchrun started, on all its machines, if it did.

    Raises ConnectionError when another rank is lost.
    """
    if not dist.is_torchelastic_launched():
        return (yield)
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", store=rendezvous_store(),
                            rank=int(os.environ["RANK"]),
                            world_size=int(os.environ["WORLD_SIZE"]))
    try:
        with open(os.devnull, "w") as nowhere:
            with redirect_stdout(nowhere) if rank() else nullcontext():
                yield
    except RuntimeError as e:
        if not isinstance(e, dist.DistError) and "gloo" not in str(e):
            raise
        raise ConnectionError(
            f"rank {rank()} of {world_size()} lost another, whose own message says why. The last "
            "checkpoint is kept: start the same command again, or let torchrun --max-restarts "
            "do it") from e
    dist.destroy_process_group()


def agree(settings: str) -> None:
    """Raises ValueError unless all ranks give the same text.

    Otherwise they would wait for each other for ever, or train different things.
    """
    mine = int(hashlib.sha256(settings.encode()).hexdigest()[:8], 16)
    if int(all_reduce_sum(torch.tensor(mine))) != world_size() * mine:
        raise ValueError("the ranks differ in settings, data or checkpoint: start all with one "
                         "command, on a shared folder")


def replicated(model: nn.Module, loss):
    """loss(model, ...) whose gradients are means over the ranks; the model keeps its names."""
    return partial(loss, model) if world_size() == 1 else in_ddp(model, loss)


def in_ddp(model: nn.Module, loss) -> nn.Module:
    """`replicated` on any number of ranks."""
    objective = nn.Module()                                      # DDP watches a forward pass
    objective.weights = nn.ParameterList(model.parameters())
    objective.forward = partial(loss, model)
    return nn.parallel.DistributedDataParallel(objective)        # the quantizer adds up its own
