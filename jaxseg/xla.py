"""Settings of XLA and of the C library for computing on CPUs. They must be made before JAX starts its devices."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path

from jaxseg import cpu

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_TESTED = (0, 10, 2), (0, 13)  # first and end of the jaxlib versions that accept the flag; others might not start

# Constants of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = -1

HUGE_PAGES = "glibc.malloc.hugetlb=1"  # for the environment variable GLIBC_TUNABLES
_RESTARTED = "JAXSEG_RESTARTED"  # set in a program that was started again; glibc may delete its own variable
_HUGE_PAGES_FILE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_all_cores() -> bool:
    """Makes those convolutions that XLA computes use all cores of a CPU.

    By default, jaxlib passes convolutions to the library YNNPACK, which uses only one core for more than 16 channels,
    so that all others are idle. YNNPACK still computes matrix products and sums (`benchmarks/README.md`).

    The `jaxseg` commands call this function. In your own program, call it before JAX starts its devices. It adds a flag
    to the environment variable XLA_FLAGS of this process and of those that it starts, unless the flag is set already.

    Returns:
      Whether the flag was added. It is not added if it is set already or this version of jaxlib was not tested with it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if _FLAG in flags:
        return False
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", importlib.metadata.version("jaxlib"))
    if not found or not _TESTED[0] <= tuple(map(int, found.groups())) < _TESTED[1]:
        return False
    os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION".strip()
    return True


def keeping_barriers(platform: str) -> dict[str, str]:
    """Returns the options with which `jax.jit` compiles a training step, so that optimization barriers stay in it.

    On CPUs XLA removes them before it fuses operations. Each reader of a map then computes it again from the results of
    the convolutions before it, up to a dozen in a chain of residual blocks. The options are empty with
    versions of jaxlib that were not tested, and on other platforms.

    Args:
      platform: "cpu", "gpu" or "tpu".
    """
    tested = importlib.metadata.version("jaxlib") in cpu.TESTED
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" and tested else {}


def keep_freed_memory() -> bool:
    """Makes the C library keep freed memory in this process for its next use (glibc only).

    On CPUs, XLA allocates its buffers in every call, and glibc returns large ones to the operating system each time.
    When they are allocated again, each page causes a page fault and is filled with zeros. This takes time in every
    call. The disadvantages: the memory of the process never shrinks; glibc does not always find the block again that
    XLA has freed, so that the process can keep several times what a step needs; and threads share one heap, which
    makes small networks slower.

    Call it before JAX starts its devices; later it has little effect. The commands that segment, denoise and score call
    it, and `jaxseg train` does with `trainer.keep_memory: true`. For training see also `restart_with_huge_pages`.

    Returns:
      Whether the C library supports this.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _NEVER)])


def restart_with_huge_pages() -> None:
    """Starts this program again, with the same arguments, so that its memory comes in pages of 2 MB instead of 4 KB.

    The buffers of a training step are then mapped by far fewer page faults, and need no more memory
    (`benchmarks/README.md`). glibc reads this setting only when a program starts, from `GLIBC_TUNABLES`.

    Nothing happens if that variable already says something on huge pages, if the program was started again before, if
    it cannot be started in the same way (it came from standard input, or its arguments were changed), with another C
    library, or if the system gives huge pages to all programs or to none. Call it first: what a program does before
    is done twice.
    """
    before = os.environ.get("GLIBC_TUNABLES", "")
    again = HUGE_PAGES.split("=")[0] in before or _RESTARTED in os.environ
    if again or not _has_its_arguments() or not huge_pages_on_request():
        return
    variables = os.environ | {"GLIBC_TUNABLES": ":".join(filter(None, (before, HUGE_PAGES))), _RESTARTED: "1"}
    with contextlib.suppress(OSError):  # then this process continues, with pages of the usual size
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], variables)


def _has_its_arguments() -> bool:
    """Whether the arguments of Python end with those of the program, so that it can be started with them again."""
    arguments = sys.argv[1:]
    return sys.argv[0] not in ("", "-") and sys.orig_argv[len(sys.orig_argv) - len(arguments) :] == arguments


def huge_pages_on_request() -> bool:
    """Returns whether the system gives huge pages to the programs that ask for them, and only to these.

    That is so on Linux if `/sys/kernel/mm/transparent_hugepage/enabled` is `madvise`. The C library must be glibc 2.35
    or newer, which can ask.
    """
    if not sys.platform.startswith("linux"):
        return False
    name, version = platform.libc_ver()
    found = re.match(r"(\d+)\.(\d+)", version)
    if name != "glibc" or not found or tuple(map(int, found.groups())) < (2, 35):
        return False
    try:
        return "[madvise]" in _HUGE_PAGES_FILE.read_text()
    except OSError:
        return False
