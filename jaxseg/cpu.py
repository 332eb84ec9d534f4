"""What this computer's CPU can do, and whether oneDNN in jaxlib is used on it."""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from jaxseg.files import atomic_file, user_cache

VARIABLE = "JAXSEG_ONEDNN"
TESTED = ("0.10.2",)  # versions of jaxlib with which all tests passed
_SECONDS = 120  # that the trial may take


class Use(NamedTuple):
    """Whether something is used, and why, in words."""

    used: bool
    reason: str


@functools.cache
def onednn() -> Use:
    """Returns whether this process computes convolutions on CPUs by oneDNN.

    It is used with versions of jaxlib that were tested. With another version, a trial in a child process decides; its
    answer is kept in the user's cache folder for each version of jaxlib and each processor. The environment variable
    JAXSEG_ONEDNN overrules: 0 turns oneDNN off, 1 turns it on without a trial.
    """
    wish, version = os.environ.get(VARIABLE, ""), importlib.metadata.version("jaxlib")
    if wish in ("0", "1"):
        return Use(wish == "1", f"{VARIABLE}={wish}")
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return Use(False, f"jaxlib contains it for Linux on x86-64, not for {sys.platform} on {platform.machine()}")
    if version in TESTED:
        return Use(True, f"tested with jaxlib {version}")
    found = _tried(version)
    return Use(found, f"a trial with jaxlib {version} {'gave the right numbers' if found else 'failed'}")


def convolutions() -> Use:
    """Returns whether programs that JAX compiles now for CPUs contain oneDNN's convolutions.

    They do not while JAX's compilation cache is on: jaxlib 0.10.2 has no way to store such a program, and reads memory
    of other objects when it tries.
    """
    import jax

    if jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir:
        return Use(False, "compiled programs are kept, which jaxlib cannot do with oneDNN's")
    return onednn()


def _tried(version: str) -> bool:
    folder = user_cache()
    if folder is None:
        return bool(_trial())
    kept = folder / f"onednn-{version}-{signature()}.json"
    try:
        return json.loads(kept.read_bytes())["usable"] is True
    except (OSError, ValueError, TypeError, KeyError):  # not tried yet, or damaged
        pass
    found = _trial()
    if found is None:
        return False
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as file:
            file.write_text(json.dumps({"usable": found}))
    except OSError:
        pass  # it is tried again next time
    return found


def _trial() -> bool | None:
    """Returns whether the trial gave the right numbers; None if it was not finished, as on a busy machine."""
    command = [sys.executable, "-P", "-m", "jaxseg.nn.onednn"]  # -P: modules in the current folder are not imported
    environment = os.environ | {VARIABLE: "1", "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode == -signal.SIGKILL else done.returncode == 0  # Linux kills if memory is short


@functools.cache
def computes_bfloat16() -> bool:
    """Returns whether oneDNN computes bfloat16 with the processor's own instructions.

    Without AVX-512 or AMX instructions for bfloat16, oneDNN is slow or ends the process.
    """
    limited = any(name in os.environ for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"))
    return not limited and bool({"avx512_bf16", "amx_bf16"} & set(_described().get("flags", "").split()))


def signature() -> str:
    """Returns 16 characters that differ between kinds of processors."""
    described = _described()
    names = ("vendor_id", "cpu family", "model", "flags")  # on x86
    names += ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")  # on ARM
    text = "\n".join([platform.machine(), *(described.get(name, "") for name in names)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _described() -> dict[str, str]:
    """Returns what Linux says about the first core; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
