"""Allocation: keep the memory that large tensors free, instead of giving it back to the system each time.

glibc maps and unmaps every large block, so each step of a network may touch fresh pages, which costs more than using
them: a LIF step of 34 MB took 52 ms of CPU with fresh pages and 17 ms without (docs/efficiency.md). Two ways:
`keep_freed_memory` raises two thresholds of malloc for the whole process, which commands do; `empty_strided` gives the
neurons tensors on pages of their own, reused whatever the process does, of 2 MB where the system has such.
"""

import ctypes
import math
import mmap
import platform
import threading
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
HUGE_PAGE = 1 << 21
LEAST_POOLED = 1 << 20  # bytes; smaller tensors are torch's own


def keep_freed_memory() -> bool:
    """Raise glibc's trim and mmap thresholds to their largest values for this process.

    Returns whether that worked; False on systems without glibc, where nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    largest = 2**31 - 1
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, largest))


class PagePool:
    """Regions of pages that outlive the tensors on them.

    A region goes back to the pool when the last tensor on it is gone. Regions are kept up to what tensors had in use at
    their peak; where sizes change, the oldest free ones go back to the system. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._in_use: dict[int, int] = {}  # id of a region: its bytes
        self._peak = 0
        self._lock = threading.RLock()  # a garbage collection inside may end a tensor, which enters again

    @property
    def bytes_free(self) -> int:
        """Bytes of the regions that no tensor lies on."""
        with self._lock:
            return sum(len(region) for region in self._free)

    @property
    def bytes_in_use(self) -> int:
        """Bytes of the regions that tensors lie on."""
        with self._lock:
            return sum(self._in_use.values())

    def buffer(self, size: int) -> ctypes.Array:
        """Writable bytes of undefined content, at least 64-byte aligned; the region comes back when they are gone."""
        whole = -(-size // HUGE_PAGE) * HUGE_PAGE
        with self._lock:
            region = self._take(whole)
            self._in_use[id(region)] = whole
            self._peak = max(self._peak, self.bytes_in_use)
        buffer = (ctypes.c_char * size).from_buffer(region)
        weakref.finalize(buffer, self._give_back, region).atexit = False
        return buffer

    def _take(self, size: int) -> mmap.mmap:
        for position in range(len(self._free) - 1, -1, -1):  # the youngest first: its pages may still lie in a cache
            if len(self._free[position]) == size:
                return self._free.pop(position)
        needed = self.bytes_in_use + size
        while self._free and self.bytes_free + needed > max(self._peak, needed):
            self._free.pop(0)
        region = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            region.madvise(mmap.MADV_HUGEPAGE)
        return region

    def _give_back(self, region: mmap.mmap) -> None:
        with self._lock:
            del self._in_use[id(region)]
            self._free.append(region)


_POOL = PagePool()


def empty_strided(shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A dense tensor of undefined content on the CPU, as torch.empty_strided; where it is large, on reused pages."""
    size = math.prod(shape) * dtype.itemsize
    if size < LEAST_POOLED:
        return torch.empty_strided(shape, stride, dtype=dtype)
    storage = torch.frombuffer(_POOL.buffer(size), dtype=torch.uint8).untyped_storage()
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape), tuple(stride))
