"""XLA's settings for CPUs. They are read once, when JAX starts its devices."""

import importlib.metadata
import os
import re

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_TRIED = (0, 10, 2), (0, 13)  # jaxlib's versions that know the flag, from and before; others might refuse to start


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
