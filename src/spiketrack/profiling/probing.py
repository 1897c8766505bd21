"""Probing: what the network would cost in another way, tried on one batch: more samples, fewer bits, other threads.

Station: after a measured run, on its network. The variants take turns and each counts by its fastest turn, so that
another program disturbs them alike. t(B) = a + b B: what does not shrink with the batch is the price of asking.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn

_TURNS = 4  # the first is a rehearsal
_HOPELESS = 4.0  # times the time of the network as it is: not tried again


@dataclass(frozen=True)
class Probes:
    """Seconds of one pass of the network (with its backward pass in training).

    base: as it runs now. doubled: on twice as many samples. bfloat16: in that precision, None where it runs in it
    already. threads: by the number of threads of torch. fused: with norms folded in, of inference. side_by_side: of as
    many networks at once as `copies`, one thread each; None where not tried.
    """

    base: float
    doubled: float
    bfloat16: float | None
    threads: dict[int, float]
    fused: float | None = None
    copies: int = 1
    side_by_side: float | None = None

    @property
    def overhead(self) -> float:
        """Share that does not depend on the number of samples."""
        return min(1.0, max(0.0, 2 - self.doubled / self.base))


def probe(
    model: nn.Module,
    events: Tensor,
    precision: torch.dtype,
    *,
    train: bool,
    fused: nn.Module | None = None,
    threads: tuple[int, ...] = (),
    copies: int = 1,
) -> Probes:
    """events: (T, B, C, H, W) as the network gets them. threads: numbers of them to try beside the present one. copies:
    of the network, to run side by side where they are more than one.

    Statistics of norms and gradients of the network change.
    """
    now = torch.get_num_threads()
    twice = torch.cat([events, events], dim=1)
    variants: dict[str, Callable[[], None]] = {
        "base": lambda: _pass(model, events, precision, train),
        "doubled": lambda: _pass(model, twice, precision, train),
    }
    if precision == torch.float32:
        variants["bfloat16"] = lambda: _pass(model, events, torch.bfloat16, train)
    if fused is not None:
        variants["fused"] = lambda: _pass(fused, events, precision, train)
    for count in threads:
        variants[f"threads {count}"] = lambda count=count: _on_threads(
            count, lambda: _pass(model, events, precision, train)
        )
    if copies > 1:
        models = [model, *(copy.deepcopy(model) for _ in range(copies - 1))]
        variants["side by side"] = lambda: _side_by_side(models, lambda each: _pass(each, events, precision, train))
    best = _fastest(variants, events.device)
    by_threads = {now: best["base"], **{count: best[f"threads {count}"] for count in threads}}
    return Probes(
        best["base"],
        best["doubled"],
        best.get("bfloat16"),
        by_threads,
        best.get("fused"),
        copies,
        best.get("side by side"),
    )


def free_processors(others: float) -> int:
    """Processors that other programs leave, which use `others` of them; one at least."""
    return max(1, round((psutil.cpu_count() or 1) - others))


def thread_counts(others: float) -> tuple[int, ...]:
    """Numbers of threads worth trying: one, half of the processors and all, none that other programs use up.

    others: processors that they use. Threads that have to wait for one another's processor are ten times slower.
    """
    cores, free = psutil.cpu_count() or 1, free_processors(others)
    return tuple(sorted({count for count in (1, cores // 2, cores) if 1 <= count <= free} - {torch.get_num_threads()}))


@contextmanager
def threads_of_torch(count: int | None) -> Generator[None]:
    """So many threads for a while; None leaves them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _on_threads(count: int, run: Callable[[], None]) -> None:
    with threads_of_torch(count):
        run()


def _side_by_side(models: list[nn.Module], run: Callable[[nn.Module], None]) -> None:
    """Each in a thread of its own on which torch has one thread: what they share is memory, caches and Python."""
    with ThreadPoolExecutor(len(models), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(run, models))


def _fastest(variants: dict[str, Callable[[], None]], device: torch.device) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(_TURNS):
        for name, run in variants.items():
            if turn and min(seconds[name]) > _HOPELESS * min(seconds["base"]):
                continue
            _settle(device)
            started = time.perf_counter()
            run()
            _settle(device)
            seconds[name].append(time.perf_counter() - started)
    return {name: min(times) for name, times in seconds.items()}


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _pass(model: nn.Module, events: Tensor, precision: torch.dtype, train: bool) -> None:
    """Forward and, to train, backward from all outputs, whatever they mean."""
    model.train(train)
    with (
        torch.autocast(events.device.type, precision, enabled=precision != torch.float32),
        torch.set_grad_enabled(train),
    ):
        predictions, _ = model(events, None)
    if train:
        outputs = [tensor for tensor in _tensors(predictions) if tensor.requires_grad]
        torch.autograd.backward(outputs, [torch.full_like(tensor, 1e-6) for tensor in outputs])
        model.zero_grad(set_to_none=True)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
