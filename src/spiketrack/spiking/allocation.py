"""Allocation: keep the memory that large tensors free, instead of giving it back to the system each time.

glibc maps and unmaps every large block, so each step of a network may touch fresh pages, which costs more than using
them. Raising two thresholds of malloc keeps the pages. What it gains depends on the sizes: docs/journal.md.
"""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


def keep_freed_memory() -> bool:
    """Raise glibc's trim and mmap thresholds to their largest values for this process.

    Returns whether that worked; False on systems without glibc, where nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    largest = 2**31 - 1
    return bool(mallopt(_MMAP_THRESHOLD, 2**30)) and bool(mallopt(_TRIM_THRESHOLD, largest))
