"""Models compiled ahead of time: one StableHLO file with the parameters in it, and a JSON file that says what it is.

The file holds what `jax.export` makes of a model in evaluation mode. It runs without jaxseg's model code, on every
platform that it was written for, for batches of any size. JAX promises to read such files for six months.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
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
from jaxseg.segae.model import NO_EMBEDDINGS, SegAE

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
DEFAULT_PLATFORMS = ("cpu", "cuda", "tpu")
MIN_SIDE, MAX_SIDE = 8, 8192
SUFFIX = ".stablehlo"

_INPUTS = {  # architecture -> name and meaning of the first input
    "unet": ("image", "a normalised X-ray; jaxseg.images.preprocess makes it, as `preprocessing` names"),
    "dae": ("mask", "a mask of 0 and 1"),
    "segae": ("slice_and_mask", "a CT slice in [-2, 2] and its mask of -1 and 1; jaxseg.segae.crop makes them"),
    "cmvae": ("image", "an image as the data set stores it"),
    "prob_unet": ("image", "an image as the data set stores it"),
}
_OUTPUTS = {  # architecture -> name and meaning of the output
    "unet": ("logits", "a pixel belongs to every class where its logit is above 0"),
    "dae": ("probabilities", "a pixel belongs to the restored mask where this is above 0.5"),
    "segae": ("dice", "the mask's predicted Dice; NaN of an organ that the model has no text embedding of"),
    "cmvae": ("logits", "of the true segmentation; a pixel belongs to the class with the largest"),
    "prob_unet": ("logits", "at the prior's mean; a pixel belongs to every class where its logit is above 0"),
}


@dataclasses.dataclass(frozen=True)
class Inference:
    """A model's inference as a pure function of arrays; the parameters are part of it.

    Attributes:
      run: takes arrays as `inputs` describe them, and returns one array.
      inputs: in the order of the arguments.
    """

    run: Callable[..., jax.Array]
    inputs: tuple[Tensor, ...]

    def export(self, platforms: Sequence[str]) -> jax.export.Exported:
        """Returns the function lowered for these platforms and batches of any size; none of them need be here."""
        (batch,) = jax.export.symbolic_shape(BATCH)
        specs = [jax.ShapeDtypeStruct((batch, *one.shape[1:]), jnp.dtype(one.dtype)) for one in self.inputs]
        return jax.export.export(jax.jit(self.run), platforms=tuple(platforms))(*specs)


def check_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """Returns platforms to export for, each once.

    Raises:
      ValueError: one is unknown or named twice, or there is none.
    """
    found = (platforms,) if isinstance(platforms, str) else tuple(platforms)
    if not found or len(set(found)) != len(found) or not set(found) <= set(PLATFORMS):
        hint = "; of GPUs, cuda are NVIDIA's and rocm AMD's" if "gpu" in found else ""
        raise ValueError(f"platforms must be one or more of {', '.join(PLATFORMS)}, got {', '.join(found)!r}{hint}")
    return found


def inference(model: nnx.Module, *, image_size: tuple[int, int] | None = None) -> Inference:
    """Returns a model's inference: evaluation mode, batch norm folded.

    CPUs transform kernels for Winograd's algorithm at every call: the program is one for all platforms.

    A segae takes organs by their class numbers, with its text embeddings in the function; the others take one array.

    Args:
      model: from `jaxseg.load` or `jaxseg.create`.
      image_size: height and width; None: those of the model's card.

    Raises:
      ValueError: this is no such model, it takes no images of this size, or it is a segae without text embeddings.
    """
    card = getattr(model, "card", None)
    if card is None:
        raise ValueError(f"a model from jaxseg.load or jaxseg.create is needed, got {type(model).__name__}")
    size = _checked_size(model, image_size)
    view = nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
    graphdef, state = nnx.split(fold_batch_norm(view))
    name, meaning = _INPUTS[card.architecture]
    channels = 2 if isinstance(model, SegAE) else model.cfg.in_channels
    inputs = [Tensor(name, (BATCH, *size, channels), "float32", meaning)]
    if isinstance(model, SegAE):
        if not np.asarray(model.embeddings[...]).any():
            raise ValueError(f"the model has no text embeddings: {NO_EMBEDDINGS}")
        inputs.append(Tensor("organ", (BATCH,), "int32", "place of its name in class_names, from 0"))

    def run(*arrays: jax.Array) -> jax.Array:
        whole = nnx.merge(graphdef, state)
        return _dice(whole, *arrays) if isinstance(whole, SegAE) else whole(*arrays)

    return Inference(run, tuple(inputs))


def export_model(
    model: nnx.Module,
    path: str | Path,
    *,
    platforms: Sequence[str] = DEFAULT_PLATFORMS,
    image_size: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> Facts:
    """Writes a model as StableHLO, parameters included, and beside it `<path>.json`, which says what it is.

    Args:
      model: from `jaxseg.load` or `jaxseg.create`.
      path: the file, `.stablehlo`; its folder is made.
      platforms: of `PLATFORMS`, those on which it is to run; none of them need be here.
      image_size: height and width, where the network takes any; None: those of the model's card.
      overwrite: replace an exported model that stands there. Anything else is never replaced.

    Returns:
      What was written into the JSON file.

    Raises:
      ValueError: platform, size or path is impossible; the model is too large; or flatbuffers is not installed.
      FileExistsError: something stands there. OSError: it cannot be written.
    """
    path, platforms = Path(path).expanduser(), check_platforms(platforms)
    check_destination(path, overwrite=overwrite)
    need_flatbuffers()
    found = inference(model, image_size=image_size)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    if size > MAX_BYTES - 2**26:  # some of it is left for the program
        raise ValueError(f"the model has {size / 2**30:.1f} GiB of parameters; an exported file holds less than 2 GiB")
    exported = found.export(platforms)
    content = exported.serialize()
    facts = _facts(model, found, exported, content)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The JSON file takes its name first: a program without one would look like someone else's.
    with files.atomic_file(path) as program, files.atomic_file(beside(path)) as text:
        program.write_bytes(content)
        facts.write(text)
    return facts


def check_destination(path: Path, *, overwrite: bool = False) -> None:
    """Raises where an exported model may not be written.

    Raises:
      ValueError: the name does not end in `.stablehlo`.
      FileExistsError: something stands there that is no exported model, or may not be replaced.
    """
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} must end in {SUFFIX}")
    standing = [one for one in (path, beside(path)) if os.path.lexists(one)]
    if not standing:
        return
    if not overwrite:
        raise FileExistsError(f"{standing[0]} exists; name another file, or overwrite an exported model on purpose")
    try:
        facts = read_facts(path)
        ours = not os.path.lexists(path) or (path.is_file() and files.sha256(path) == facts.sha256)
    except ValueError:
        ours = False
    if not ours:
        raise FileExistsError(f"{standing[0]} is no exported model as jaxseg wrote it; name another file, or remove it")


def _checked_size(model: nnx.Module, size: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of the images that a model is exported for."""
    fixed = getattr(model.cfg, "image_size", None) if not isinstance(model, SegAE) else None
    if size is None:
        return tuple(fixed or model.card.input_size)
    size = tuple(size)
    if len(size) != 2 or not all(type(side) is int and MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise ValueError(f"image_size must be height and width from {MIN_SIDE} to {MAX_SIDE}, got {size}")
    if fixed and size != tuple(fixed):
        raise ValueError(f"the model takes images of {fixed[0]} x {fixed[1]} alone, not {size[0]} x {size[1]}")
    least = 2 ** (len(getattr(model.cfg, "filters", "1")) - 1)
    if min(size) < least:
        raise ValueError(f"the model needs images of {least} pixels a side, not {size[0]} x {size[1]}")
    return size


def _dice(model: SegAE, x: jax.Array, organ: jax.Array) -> jax.Array:
    """(B, H, W, 2), (B,) int32 -> predicted Dice, (B,) float32; NaN of an organ without a text embedding."""
    table = model.embeddings[...]
    row = table[jnp.clip(organ, 0, len(table) - 1)]
    known = (organ >= 0) & (organ < len(table)) & (row != 0).any(-1)
    return jnp.where(known, model(x, row), jnp.nan)


def _facts(model: nnx.Module, found: Inference, exported: jax.export.Exported, content: bytes) -> Facts:
    card = model.card
    name, meaning = _OUTPUTS[card.architecture]
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
