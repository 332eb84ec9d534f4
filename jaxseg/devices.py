"""Selection of devices, the sharding of a batch over them, and a description of the environment."""

import importlib.metadata
import importlib.util
import os
import platform

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxseg

KINDS = ("cpu", "gpu", "tpu")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "pydicom")


def select_devices(spec: str = "auto") -> list[jax.Device]:
    """Returns the devices that a specification names.

    Args:
      spec: "auto" (the first accelerator, otherwise the CPU), "cpu", "gpu" or "tpu" (the first of that kind), or
        indices into `jax.devices()` such as "0" or "0,1".

    Raises:
      ValueError: the specification is not one of these, or the device does not exist; the message lists the devices
        that JAX sees.
    """
    spec = spec.strip().lower()
    if spec == "cpu":
        jax.config.update("jax_platforms", "cpu")  # so that no memory of an accelerator is reserved
    if spec in KINDS:
        try:
            return jax.devices(spec)[:1]
        except RuntimeError:
            extra = {"gpu": "; pip install 'jaxseg[cuda12]'", "tpu": "; pip install 'jaxseg[tpu]'"}.get(spec, "")
            raise ValueError(f"no {spec} found; {_seen()}{extra}") from None
    if spec == "auto":
        return jax.devices()[:1]
    if not all(part.strip().isdecimal() for part in spec.split(",")):
        raise ValueError(f"unknown devices {spec!r}; allowed: auto, {', '.join(KINDS)}, or indices such as 0 or 0,1")
    indices = [int(part) for part in spec.split(",")]
    devices = jax.devices()
    if max(indices) >= len(devices) or len(set(indices)) != len(indices):
        raise ValueError(f"no device {spec}; {_seen()}; give each index once")
    return [devices[i] for i in indices]


def only_cpus(spec: str) -> bool:
    """Returns whether only CPUs will be used for a specification, without starting JAX's devices.

    If a plugin for accelerators is installed and the specification does not exclude it, the answer is False.
    """
    platforms = jax.config.jax_platforms or ""
    if spec.strip().lower() == "cpu" or platforms == "cpu":
        return True
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    modules = [name for name in ("jax_plugins", "libtpu") if importlib.util.find_spec(name)]
    return not platforms and not plugins and not modules


def data_mesh(devices: list[jax.Device]) -> Mesh:
    """Returns a mesh over the devices with one axis, "data"."""
    return Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))


def shardings(devices: list[jax.Device]) -> tuple[NamedSharding, NamedSharding]:
    """Returns the shardings (replicated, split along the first axis) over the devices."""
    mesh = data_mesh(devices)
    return NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))


def environment() -> dict:
    """Returns a description of the environment, for reports and benchmarks, as values that JSON can hold.

    The keys are jaxseg (its version), python, versions (of `PACKAGES`), system, cpus (their number) and devices. JAX
    starts its devices if they are not started yet.
    """
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "jaxseg": jaxseg.__version__,
        "python": platform.python_version(),
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
    }


def _seen() -> str:
    return "JAX sees " + ", ".join(f"{i}: {device.device_kind}" for i, device in enumerate(jax.devices()))
