"""Distributed: several processes train one network, each on its share of every batch.

Station: of training. The processes ("ranks") are started by torchrun or by `launching`; here they find each other and
put together what each has a part of: sums, gradients, results. Every rank makes the same calls in the same order. A
run in one process is `ALONE`, for which all of this does nothing. How a run is split: docs/distributed.md.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from spiketrack.errors import SettingsError, TrainingError

log = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE = timedelta(hours=1)  # of a rank that waits for others, whose part of a validation may be longer
_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # what torchrun tells a process


@dataclass(frozen=True)
class Ranks:
    """The processes of a run, and which of them this one is: `rank` of `world`, `local_rank` of those on its machine.

    All methods are collective: each rank calls them, in the same order. TrainingError: another rank is gone.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and talks."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device of this rank: with `cuda` the GPU of its number on its machine."""
        if self.local_world > 1 and name.startswith("cuda:"):
            raise SettingsError(
                f"training.device {name}: {self.local_world} processes cannot share one GPU; "
                "take cuda, which gives each process its own"
            )
        return f"cuda:{self.local_rank}" if self.world > 1 and name == "cuda" else name

    def total(self, part: Tensor) -> Tensor:
        """The sum of all ranks' tensors of one shape, as a new tensor without gradient."""
        if self.world == 1:
            return part
        total = part.detach().clone()
        with _others_needed(self):
            dist.all_reduce(total)
        return total

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return flag if self.world == 1 else bool(self.total(torch.tensor(float(flag), device=_place())) > 0)

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> int:
        """Every gradient becomes the sum of all ranks' ones, in one exchange. Returns the bytes that a rank gave."""
        if self.world == 1:
            return 0
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = self.total(torch.cat([grad.flatten() for grad in grads]))
        for grad, total in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(total.view_as(grad))
        return flat.numel() * flat.element_size()

    def average_norms(self, model: nn.Module) -> int:
        """The running statistics of every norm become the mean of all ranks' ones. Returns the bytes given."""
        if self.world == 1:
            return 0
        buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if not buffers:
            return 0
        flat = self.total(torch.cat([buffer.flatten() for buffer in buffers])) / self.world
        for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))
        return flat.numel() * flat.element_size()

    def gather(self, part: T) -> list[T] | None:
        """What every rank has, in their order, on the first rank; None on the others."""
        if self.world == 1:
            return [part]
        parts: list[Any] | None = [None] * self.world if self.first else None
        with _others_needed(self):
            dist.gather_object(part, parts)
        return parts

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on all ranks. A SpiketrackError there is raised here by the loss of that rank."""
        if self.world == 1:
            return make()
        box = [make() if self.first else None]
        with _others_needed(self):
            dist.broadcast_object_list(box)
        return box[0]  # ty: ignore[invalid-explicit-return]: of the first rank


ALONE = Ranks()


@contextmanager
def joined(device: str = "cpu") -> Generator[Ranks]:
    """The ranks of this run, for as long as the block lasts; ALONE where nobody started several processes.

    device: what they train on, as in `training.device`; GPUs talk over NCCL, and over Gloo about what is not on them.
    """
    if not started_as_rank():
        yield ALONE
        return
    ranks = Ranks(*(int(os.environ[name]) for name in _NAMES))
    gpu = device.startswith("cuda")
    if gpu:
        own = ranks.device(device)
        if ranks.local_rank >= torch.cuda.device_count():
            raise SettingsError(
                f"{ranks.local_world} processes on a machine with {torch.cuda.device_count()} GPUs; "
                "start as many processes as there are GPUs"
            )
        torch.cuda.set_device(own)
    store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
    # torchrun keeps its store over restarts: without a name of their own, ranks would wait for addresses of dead ones
    store = dist.PrefixStore(f"attempt_{_restarts()}", store)
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def started_as_rank() -> bool:
    """Whether this process is one of several that torchrun or `launching` started."""
    return all(name in os.environ for name in (*_NAMES, "MASTER_ADDR")) and int(os.environ["WORLD_SIZE"]) > 1


def restarted() -> bool:
    """Whether this process takes the place of one that died; torchrun and `launching` count."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _place() -> str:
    """Where small tensors live that all ranks talk about: with NCCL alone on the GPU, else on the CPU."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


@contextmanager
def _others_needed(ranks: Ranks) -> Generator[None]:
    try:
        yield
    except RuntimeError as error:  # also dist.DistError; the connection of a dead process, or PATIENCE at its end
        reason = str(error).split("\n", maxsplit=1)[0]
        raise TrainingError(f"process {ranks.rank} of {ranks.world} has lost another one ({reason})") from error
