"""Exports models: one StableHLO file that contains the parameters, and a JSON file that describes it.

The StableHLO file is the result of `jax.export` for a model in evaluation mode. It runs without jaxseg's model code, on
every platform that it was written for, and for batches of any size. JAX guarantees to read such files for six months.
"""

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx

from jaxseg import __version__, files
from jaxseg.export.exported import (
    BATCH,
    MAX_BYTES,
    Facts,
    Tensor,
    beside,
    need_flatbuffers,
    read_facts,
    shape_of,
)
from jaxseg.nn.inference import fold_batch_norm
from jaxseg.weights.model import Model

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")
MIN_SIDE, MAX_SIDE = 8, 8192
SUFFIX = ".stablehlo"


@dataclasses.dataclass(frozen=True)
class Inference:
    """The inference of a model as a pure function of arrays; the function contains the parameters.

    Attributes:
      run: takes arrays as `inputs` describes them, and returns one array.
      inputs: the arguments of `run`, in their order.
    """

    run: Callable[..., jax.Array]
    inputs: tuple[Tensor, ...]

    def export(self, platforms: Sequence[str]) -> jax.export.Exported:
        """Returns the function lowered for these platforms and any batch size; the platforms need not be present."""
        (batch,) = jax.export.symbolic_shape(BATCH)
        specs = [jax.ShapeDtypeStruct((batch, *one.shape[1:]), jnp.dtype(one.dtype)) for one in self.inputs]
        return jax.export.export(jax.jit(self.run), platforms=tuple(platforms))(*specs)


def check_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """Returns the platforms to export for as a tuple.

    >>> check_platforms("tpu")
    ('tpu',)

    Raises:
      ValueError: a platform is unknown or given twice, or none is given.
    """
    found = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    if not found or len(set(found)) != len(found) or not set(found) <= set(PLATFORMS):
        hint = "; for GPUs name cuda (NVIDIA) or rocm (AMD)" if "gpu" in found else ""
        raise ValueError(f"platforms must be one or more of {', '.join(PLATFORMS)}, got {', '.join(found)!r}{hint}")
    return found


def inference(model: Model, *, image_size: tuple[int, int] | None = None) -> Inference:
    """Returns the inference of a model in evaluation mode, with batch norm folded into the convolutions.

    The function takes the arrays that `model.inputs` describes and returns `model.predict` of them. It is one program
    for all platforms, so a CPU transforms the kernels for Winograd's algorithm at every call.

    Args:
      model: a model from `jaxseg.load` or `jaxseg.create`.
      image_size: height and width; None: those of the model's card.

    Raises:
      ValueError: `model` is not such a model, it does not accept images of this size, or it lacks something that
        inference needs, such as text embeddings.
    """
    if not isinstance(model, Model) or not hasattr(model, "card"):
        raise ValueError(f"a model from jaxseg.load or jaxseg.create is needed, got {type(model).__name__}")
    size = _checked_size(model, image_size)
    model.check_ready()
    view = nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
    graphdef, state = nnx.split(fold_batch_norm(view))
    inputs = tuple(Tensor(one.name, (BATCH, *one.shape), one.dtype, one.meaning) for one in model.inputs(size))

    def run(*arrays: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, state).predict(*arrays)

    return Inference(run, inputs)


def export_model(
    model: Model,
    path: str | Path,
    *,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
    image_size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> Facts:
    """Writes a model with its parameters as a StableHLO file, and beside it `<path>.json`, which describes it.

    Args:
      model: a model from `jaxseg.load` or `jaxseg.create`.
      path: the new file, `.stablehlo`; its folder is created.
      platforms: names from `PLATFORMS`; the exported model runs on these. They need not be present here.
      image_size: height and width, if the network accepts any; None: those of the model's card.
      overwrite: replace an exported model at `path`. Other files are never replaced.

    Returns:
      The content of the JSON file.

    Raises:
      ValueError: a platform, the size or the path is not allowed, the model is too large, or flatbuffers is not
        installed.
      FileExistsError: `path` exists and may not be replaced.
      OSError: the files cannot be written.
    """
    path, platforms = Path(path).expanduser(), check_platforms(platforms)
    check_destination(path, overwrite=overwrite)
    need_flatbuffers()
    found = inference(model, image_size=image_size)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    if size > MAX_BYTES - 2**26:  # leaves room for the program
        raise ValueError(f"the model has {size / 2**30:.1f} GiB of parameters; an exported file holds less than 2 GiB")
    with _without_places():
        exported = found.export(platforms)
        content = exported.serialize()
    facts = _facts(model, found, exported, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The JSON file is renamed first: a program without one would look like a file that jaxseg did not write.
    with files.atomic_file(path) as program, files.atomic_file(beside(path)) as text:
        program.write_bytes(content)
        facts.write(text)
    return facts


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Keeps the paths of source files of this machine out of the programs that are made in the body."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def check_destination(path: Path, *, overwrite: bool = False) -> None:
    """Checks that an exported model may be written to `path`.

    Raises:
      ValueError: the name does not end in `.stablehlo`.
      FileExistsError: the file exists and may not be replaced.
    """
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}")
    existing = [one for one in (path, beside(path)) if os.path.lexists(one)]
    if not existing:
        return
    if not overwrite:
        advice = "name another file, or replace the exported model with --overwrite (Python: overwrite=True)"
        raise FileExistsError(f"{existing[0]} exists; {advice}")
    try:
        facts = read_facts(path)
        ours = not os.path.lexists(path) or (path.is_file() and files.sha256(path) == facts.sha256)
    except ValueError:
        ours = False
    if not ours:
        raise FileExistsError(
            f"{existing[0]} is not an exported model as jaxseg wrote it; name another file, or remove it"
        )


def _checked_size(model: Model, size: tuple[int, int] | None) -> tuple[int, int]:
    """Returns the height and width of the images that a model is exported for."""
    if size is None:
        return model.fixed_size or model.card.input_size
    size = tuple(size)
    if len(size) != 2 or not all(type(side) is int and MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise ValueError(f"image_size must be height and width from {MIN_SIDE} to {MAX_SIDE}, got {size}")
    fixed = model.fixed_size
    if fixed and size != fixed:
        raise ValueError(f"the model accepts only images of {fixed[0]} x {fixed[1]}, not {size[0]} x {size[1]}")
    if min(size) < model.smallest_side:
        least = model.smallest_side
        raise ValueError(f"the model needs images of at least {least} x {least} pixels, not {size[0]} x {size[1]}")
    return size


def _facts(model: Model, found: Inference, exported: jax.export.Exported, content: bytes) -> Facts:
    card = model.card
    name, meaning = model.OUTPUT
    of_card = {field.name for field in dataclasses.fields(card)} & {field.name for field in dataclasses.fields(Facts)}
    return Facts(
        **{field: getattr(card, field) for field in of_card - {"jaxseg"}},
        inputs=found.inputs,
        outputs=tuple(Tensor(name, *shape_of(aval), meaning) for aval in exported.out_avals),
        platforms=exported.platforms,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        calling_convention_version=exported.calling_convention_version,
        jax=jax.__version__,
        jaxseg=__version__,
    )
