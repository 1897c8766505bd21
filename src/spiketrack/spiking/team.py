"""Team: the threads that kernels of ours work with.

Station: between tensors and compiled kernels that let go of the interpreter. In comes work over a range of items, out
go its results, piece by piece, from threads of Python's or, with SPIKETRACK_THREADS=torch in the environment, from the
pool that torch uses, by the call that compilers make of `#pragma omp parallel`. Torch's threads wait busily for their
next work. Where nothing else runs they are there sooner than a thread can be started, and a thread beside them finds no
processor free; where another program keeps a processor, each piece of work waits for one, and a training step takes
five times as long (docs/efficiency.md). Where torch has no such pool, and after a fork, which OpenMP's threads do not
survive, the threads are Python's.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch

Piece = TypeVar("Piece")
Region = Callable[[Callable[..., None], int], None]
"""Calls a function once on each of so many threads, this one among them; returns when all have returned."""

PIECES_PER_THREAD = 2  # a thread that is held up leaves its second to the others

_forked = False


def shared(count: int, most: int, work: Callable[[int, int], Piece]) -> list[Piece]:
    """work(start, stop) over `count` items, in at most `most` pieces, on no more threads than torch may use.

    Returns the results in the order of the items. An error of any piece is raised here, when all have ended.
    """
    team = torch.get_num_threads()
    pieces = max(1, min(count, most, team * PIECES_PER_THREAD))
    if pieces == 1 or team == 1:
        return [work(0, count)]
    edges = list(pairwise(count * i // pieces for i in range(pieces + 1)))
    of_torch = os.environ.get("SPIKETRACK_THREADS", "python") == "torch" and not _forked
    region = openmp_region() if of_torch else None
    if region is None:
        return in_region(python_region, min(team, pieces), edges, work)
    # OpenMP ends the threads that a smaller team leaves out, so it is asked for all whatever the number of pieces
    return in_region(region, team, edges, work)


def in_region(
    region: Region, team: int, edges: list[tuple[int, int]], work: Callable[[int, int], Piece]
) -> list[Piece]:
    """work(start, stop) of all edges on a region's threads, each of which takes the next piece until none is left.

    Inside another region OpenMP gives one thread, which then does it all.
    """
    taken: itertools.count[int] = itertools.count()
    done: dict[int, Piece] = {}
    errors: list[BaseException] = []

    def body(*_: object) -> None:
        try:
            while not errors and (number := next(taken)) < len(edges):
                done[number] = work(*edges[number])
        except BaseException as error:  # an interrupt, too: nothing may pass through the C code that called
            errors.append(error)

    region(body, team)
    if errors:
        raise errors[0]
    if len(done) < len(edges):
        raise KeyboardInterrupt("stopped between two pieces of work")
    return [done[number] for number in range(len(edges))]


def python_region(body: Callable[..., None], threads: int) -> None:
    """A region on threads that are started for it."""
    others = [threading.Thread(target=body, name="spiking") for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    body()
    for thread in others:
        thread.join()


@cache
def openmp_region() -> Region | None:
    """A region on the threads of the very library that torch calls; None where it has none with `GOMP_parallel`."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not torch.backends.openmp.is_available() or not library.exists():
        return None
    body_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    try:
        parallel: Any = ctypes.CDLL(str(library)).GOMP_parallel  # looked up in the libraries that it was linked with
    except (OSError, AttributeError):
        return None
    parallel.argtypes, parallel.restype = (body_type, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return lambda body, threads: parallel(body_type(body), None, threads, 0)


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
