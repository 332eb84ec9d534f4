"""Selection of devices, the sharding of a batch over them, and a description of the environment."""

import importlib.metadata
import importlib.util
import os
import platform

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxseg
from jaxseg import cpu

KINDS = ("cpu", "gpu", "tpu")
_KIND_OF = {"cuda": "gpu", "rocm": "gpu"}  # name of a platform in JAX_PLATFORMS -> kind
_EXTRAS = {"gpu": "cuda12", "tpu": "tpu"}  # kind -> extra that brings it
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "pydicom")


def all_devices(kind: str | None = None) -> list[jax.Device]:
    """Returns the devices that JAX uses, or those of a kind; JAX starts them if they are not started yet.

    Args:
      kind: "cpu", "gpu" or "tpu"; None: those that JAX prefers.

    Raises:
      ValueError: there is none of this kind, or none of the platforms that JAX_PLATFORMS names; the message says which
        package is missing.
    """
    try:
        return jax.devices(kind)
    except (RuntimeError, AssertionError):  # JAX asserts if JAX_PLATFORMS names a platform whose plugin is missing
        pass
    platforms = jax.config.jax_platforms
    try:
        seen = ", ".join(f"{i}: {device.device_kind}" for i, device in enumerate(jax.devices()))
        start = f"no {kind} found; JAX sees {seen}"
    except (RuntimeError, AssertionError):
        kind = _KIND_OF.get(str(platforms).split(",")[0], str(platforms))
        start = f"no {kind} found, but JAX_PLATFORMS={platforms} selects it; unset JAX_PLATFORMS"
    extra = _EXTRAS.get(kind)
    raise ValueError(start + (f"; pip install 'jaxseg[{extra}]'" if extra else ""))


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
        return all_devices(spec)[:1]
    if spec == "auto":
        return all_devices()[:1]
    if not all(part.strip().isdecimal() for part in spec.split(",")):
        raise ValueError(f"unknown devices {spec!r}; allowed: auto, {', '.join(KINDS)}, or indices such as 0 or 0,1")
    indices = [int(part) for part in spec.split(",")]
    devices = all_devices()
    if max(indices) >= len(devices) or len(set(indices)) != len(indices):
        seen = ", ".join(f"{i}: {device.device_kind}" for i, device in enumerate(devices))
        raise ValueError(f"no device {spec}; JAX sees {seen}; give each index once")
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

    The keys are jaxseg (its version), python, versions (of `PACKAGES`), system, cpus (their number), devices, and what
    computes convolutions on CPUs. JAX starts its devices if they are not started yet.
    """
    used, reason = cpu.convolutions()
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "jaxseg": jaxseg.__version__,
        "python": platform.python_version(),
        "versions": versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "devices": [f"{device.platform}: {device.device_kind}" for device in all_devices()],
        "convolutions_on_cpus": f"{'oneDNN' if used else 'XLA'} ({reason})",
    }
