"""The folder in which the tests keep compiled programs between sessions."""

import importlib.metadata
import os
import platform
import re
import zlib
from pathlib import Path


def compilation_cache() -> Path:
    """Returns the folder of compiled programs: one for each version of JAX and each kind of processor."""
    versions = "-".join(importlib.metadata.version(name) for name in ("jax", "jaxlib"))
    cpuinfo = Path("/proc/cpuinfo")
    features = set(re.findall(r"^(?:flags|Features)\s*: (.*)$", cpuinfo.read_text(), re.M)) if cpuinfo.exists() else ()
    processor = zlib.crc32(repr([platform.machine(), *sorted(features)]).encode())
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "jaxseg-tests" / f"{versions}-{processor:08x}"
