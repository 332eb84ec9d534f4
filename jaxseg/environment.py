"""What ran where: versions and devices, for reports and benchmarks."""

import importlib.metadata
import os
import platform

import jax

import jaxseg

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "pydicom")


def environment() -> dict:
    """Returns versions, processor count and devices as plain values."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "jaxseg": jaxseg.__version__,
        "python": platform.python_version(),
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
    }
