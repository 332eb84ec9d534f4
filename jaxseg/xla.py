"""Settings of XLA and of the C library for CPUs. They are read once, when JAX starts its devices."""

import ctypes
import importlib.metadata
import os
import re
import sys

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_TRIED = (0, 10, 2), (0, 13)  # jaxlib's versions that know the flag, from and before; others might refuse to start

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1


def use_all_cores() -> bool:
    """Has XLA compute convolutions on all cores of a CPU, and returns whether it will.

    jaxlib gives them to the library YNNPACK, which takes one core for them where there are more than 16 channels:
    SegAE's inference took 1.3 times as long on two cores, and all but one of many cores would idle. Products of
    matrices and sums stay with it (`benchmarks/README.md`). The commands of `jaxseg` call this; call it in a program of
    your own before JAX starts its devices. It adds to the variable XLA_FLAGS of this process and those that it starts,
    unless the flag is there.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _FLAG in flags:
        return False
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", importlib.metadata.version("jaxlib"))
    if not found or not _TRIED[0] <= tuple(map(int, found.groups())) < _TRIED[1]:
        return False
    os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION".strip()
    return True


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
