"""The C library's allocator, told to keep the memory that it is given back."""

import ctypes
import sys

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1


def keep_freed_memory() -> bool:
    """Keeps freed memory in this process for its next use, and returns whether the C library can do so (glibc only).

    XLA on CPUs asks for its buffers anew at every call, and glibc gives large ones back to the system each time: the
    pages come back one fault at a time, filled with zeros. That is a tenth of the time of a large network's inference
    and a third of its training step (`benchmarks/README.md`). Call it before JAX starts its devices; later it does
    little. The price: the process never shrinks, and its threads share one heap, which makes small networks up to half
    as slow again. `trainer.keep_memory: true` calls it in `jaxseg train`.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _NEVER)])
