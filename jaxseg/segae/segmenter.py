"""A small U-Net that segments slices of CTs, kept at several stages of its training: a source of realistic bad masks.

SegAE's original takes its masks from several epochs of a STU-Net. This network is much smaller and is trained on the
given CTs only, so that its masks of training cases become better than those of new patients; cases for validation are
not among its training cases. Volumes are (D, H, W); slices are resized to squares. Source: Ronneberger et al. 2015,
arXiv:1505.04597; Schuture/Quality-Sentinel.
"""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image

from jaxseg.files import atomic_file, parse_json
from jaxseg.nn.layers import Conv, GroupNorm
from jaxseg.nn.resize import bilinear, halve
from jaxseg.training.optim import scale_by_adam
from jaxseg.vocabulary import organs
from jaxseg.weights.safetensors import map_arrays, read_metadata, write_arrays

WINDOWS = ((-1000.0, 1000.0), (-160.0, 240.0))  # ranges in HU of the two input channels
LEVELS = 5
MOST_SLICES = 20_000  # in memory: 1 GB at 128 pixels
CASE_SLICES = 64  # largest number of slices of a case
BATCH = 8
_KEY = "jaxseg_segmenter"


@dataclasses.dataclass(frozen=True)
class SegmenterSettings:
    """How the network is trained.

    Attributes:
      stages: number of stages that are kept, at steps with equal ratios from 5 % of the steps to all.
      steps: number of optimisation steps, at least 50.
      size: side of the slices in pixels.
      width: number of channels of the first level, a multiple of 4; each level has twice as many as the one above.
      learning_rate: that of Adam.
      seed: random seed of the parameters and of the order of the slices.

    Raises:
      ValueError: a value is out of range.
    """

    stages: int = 8
    steps: int = 1000
    size: int = 128
    width: int = 16
    learning_rate: float = 2e-3
    seed: int = 0

    def __post_init__(self):
        if self.stages < 2 or self.steps < 50 or self.size < 2**LEVELS or self.width < 4 or self.width % 4:
            raise ValueError(
                f"a segmenter needs 2 or more stages, 50 or more steps, {2**LEVELS} or more pixels and a width that "
                f"is a multiple of 4; got {self.stages}, {self.steps}, {self.size} and {self.width}"
            )

    @property
    def kept(self) -> tuple[int, ...]:
        """The steps after which a stage is kept, ascending.

        Example:
          >>> SegmenterSettings(stages=4, steps=1000).kept
          (50, 136, 368, 1000)
        """
        steps = np.geomspace(self.steps // 20, self.steps, self.stages)
        return tuple(np.unique(np.rint(steps).astype(int)).tolist())


class Block(nnx.Module):
    """Two 3x3 convolutions, each with group normalisation and ReLU."""

    def __init__(self, num_in: int, num_out: int, *, rngs: nnx.Rngs):
        self.first = Conv(num_in, num_out, 3, use_bias=False, rngs=rngs)
        self.first_norm = GroupNorm(num_out, 4)
        self.second = Conv(num_out, num_out, 3, use_bias=False, rngs=rngs)
        self.second_norm = GroupNorm(num_out, 4)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.first_norm(self.first(x)))
        return nnx.relu(self.second_norm(self.second(x)))


class SliceUNet(nnx.Module):
    """Maps (B, H, W, 2) slices in [-1, 1] to (B, H, W, K) logits of exclusive classes; any H and W work."""

    def __init__(self, num_classes: int, width: int, *, rngs: nnx.Rngs):
        widths = [width * 2**level for level in range(LEVELS)]
        inputs = [len(WINDOWS), *widths[:-1]]
        self.down = nnx.List([Block(n, m, rngs=rngs) for n, m in zip(inputs, widths, strict=True)])
        below = zip(widths[-2::-1], widths[:0:-1], strict=True)
        self.up = nnx.List([Block(here + deeper, here, rngs=rngs) for here, deeper in below])
        self.last = Conv(width, num_classes, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        maps: list[jax.Array] = []
        for block in self.down:
            x = block(halve(x) if maps else x)
            maps.append(x)
        for block, skip in zip(self.up, maps[-2::-1], strict=True):
            x = block(jnp.concatenate([bilinear(x, skip.shape[1:3]), skip], axis=-1))
        return self.last(x)


@dataclasses.dataclass(frozen=True)
class Segmenter:
    """The network at the stages of its training.

    Attributes:
      classes: (K,) uint8, the class of the DAP-Atlas of each output; the first is 0, the background.
      stages: name -> parameters, a pure dictionary of the network's state; in the order of the training.
      settings: how it was trained.
      cases: names of the cases that it has learned from.
    """

    classes: np.ndarray
    stages: dict[str, Any]
    settings: SegmenterSettings
    cases: tuple[str, ...] = ()

    def segment(self, ct: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the name of each stage and its classes of a CT, (D, H, W) uint8.

        Args:
          ct: (D, H, W) Hounsfield units.
        """
        slices = np.stack([slice_input(plane, self.settings.size) for plane in ct])
        for name, params in self.stages.items():
            parts = (slices[k : k + BATCH] for k in range(0, len(ct), BATCH))
            yield name, np.concatenate([self._segmented(params, part, ct.shape[1:]) for part in parts])

    def _segmented(self, params: Any, slices: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        padded = np.concatenate([slices, np.zeros((BATCH - len(slices), *slices.shape[1:]), np.uint8)])
        probs = np.asarray(self._probabilities(params, padded))[: len(slices)]
        return np.stack([self.classes[enlarged(plane, shape)] for plane in probs])

    @functools.cached_property
    def _probabilities(self) -> Any:
        graphdef, _ = _network(len(self.classes), self.settings)

        @jax.jit
        def run(params: Any, slices: jax.Array) -> jax.Array:
            return jax.nn.softmax(nnx.merge(graphdef, params)(_scaled(slices)), axis=-1)

        return run

    def write(self, path: Path) -> None:
        """Writes all stages into one safetensors file."""
        arrays = {
            f"{name}/{k:03}": np.asarray(leaf)
            for name, params in self.stages.items()
            for k, leaf in enumerate(jax.tree.leaves(params))
        }
        content = {"classes": self.classes.tolist(), "stages": list(self.stages)}
        content |= {"settings": dataclasses.asdict(self.settings), "cases": list(self.cases)}
        with atomic_file(path) as temporary:
            write_arrays(temporary, arrays, {_KEY: json.dumps(content)})


def read_segmenter(path: Path, settings: SegmenterSettings) -> Segmenter:
    """Reads the file that `Segmenter.write` wrote.

    Args:
      path: a file that may come from somebody else.
      settings: how the network must have been trained; a file with other settings or stages is refused.

    Raises:
      ValueError: the file is damaged, was not written by `Segmenter.write`, or has other settings.
      OSError: the file cannot be read.
    """
    try:
        content = parse_json(read_metadata(path)[_KEY].encode())
        if content["settings"] != dataclasses.asdict(settings):
            raise ValueError("it was trained with other settings")
        names = [_name_of(step) for step in settings.kept]
        if content["stages"] != names:
            raise ValueError("it has other stages")
        classes, cases = content["classes"], content["cases"]
        numbers = type(classes) is list and all(type(number) is int for number in classes)
        if not numbers or classes[:1] != [0] or classes != sorted({*classes} & {*range(len(organs.NAMES))}):
            raise ValueError("it has other classes")
        if type(cases) is not list or not all(type(case) is str for case in cases):
            raise ValueError("it does not name its cases")
        shapes = jax.eval_shape(lambda: _network(len(classes), settings)[1])
        leaves, tree = jax.tree.flatten(shapes)
        arrays = map_arrays(path)
        stages = {name: jax.tree.unflatten(tree, _leaves(arrays, name, leaves)) for name in names}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove it, and the network is trained again") from None
    return Segmenter(np.array(classes, np.uint8), stages, settings, tuple(cases))


def _leaves(arrays: Mapping[str, np.ndarray], stage: str, shapes: Sequence[jax.ShapeDtypeStruct]) -> list[np.ndarray]:
    """Returns copies of the arrays of a stage."""
    found = [arrays[f"{stage}/{k:03}"] for k in range(len(shapes))]
    if [(leaf.shape, leaf.dtype) for leaf in found] != [(leaf.shape, leaf.dtype) for leaf in shapes]:
        raise ValueError(f"the arrays of {stage} have other shapes")
    return [np.array(leaf) for leaf in found]


def _name_of(step: int) -> str:
    """Returns the name of a stage, which becomes that of files of masks."""
    return f"network_{step:05}"


def train_segmenter(
    scans: Iterable[tuple[str, np.ndarray, np.ndarray]], count: int, settings: SegmenterSettings | None = None
) -> Segmenter:
    """Trains the network by cross-entropy and the soft Dice of the organs in a batch.

    In the cross-entropy, a class weighs by the inverse square root of its frequency.

    Args:
      scans: (name, CT, classes) of each training case; (D, H, W) Hounsfield units and uint8 of the DAP-Atlas.
      count: number of training cases, at least 1; each gives at most `MOST_SLICES / count` slices.
      settings: how it is trained; None: the defaults.

    Raises:
      ValueError: there is no case.
    """
    settings = settings or SegmenterSettings()
    most = max(4, min(CASE_SLICES, MOST_SLICES // count))
    inputs: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    cases: list[str] = []
    for case, ct, classes in scans:
        cases.append(case)
        chosen = np.unique(np.linspace(0, len(ct) - 1, most).round().astype(int))
        inputs += [slice_input(ct[z], settings.size) for z in chosen]
        targets += [_resized(classes[z], settings.size, Image.Resampling.NEAREST) for z in chosen]
    if not inputs:
        raise ValueError("none of the training cases could be read, so no segmenter can be trained")
    counts = sum((np.bincount(target.ravel(), minlength=256) for target in targets), np.zeros(256, int))
    known = np.union1d([0], np.flatnonzero(counts))
    places = np.zeros(256, np.uint8)
    places[known] = np.arange(len(known))
    stages = _trained(np.stack(inputs), places[np.stack(targets)], counts[known], settings)
    return Segmenter(known.astype(np.uint8), stages, settings, tuple(cases))


def _trained(
    inputs: np.ndarray, targets: np.ndarray, counts: np.ndarray, settings: SegmenterSettings
) -> dict[str, Any]:
    """Returns the parameters after each of the steps that are kept.

    Args:
      inputs: (N, S, S, 2) uint8.
      targets: (N, S, S) uint8, the output to which each pixel belongs.
      counts: (K,) number of pixels of each output.
      settings: how the network is trained.
    """
    num_classes = len(counts)
    graphdef, params = _network(num_classes, settings)
    transform = optax.chain(scale_by_adam(0.9, 0.999, 1e-8), optax.scale(-settings.learning_rate))
    rarity = 1 / np.sqrt(counts + 1.0)
    weights = jnp.asarray(rarity / rarity.sum(), jnp.float32)
    foreground = jnp.asarray(np.arange(num_classes) > 0, jnp.float32)  # all classes except the background

    def loss(params: Any, slices: jax.Array, target: jax.Array) -> jax.Array:
        target = target.astype(jnp.int32)
        logs = jax.nn.log_softmax(nnx.merge(graphdef, params)(_scaled(slices)), axis=-1)
        truth = jax.nn.one_hot(target, num_classes, dtype=logs.dtype)
        entropy = -(logs * truth).sum(-1)
        weight = weights[target]
        pixels = truth.sum((0, 1, 2))
        overlap = 2 * (jnp.exp(logs) * truth).sum((0, 1, 2)) / (jnp.exp(logs).sum((0, 1, 2)) + pixels + 1)
        present = (pixels > 0).astype(logs.dtype) * foreground
        dice = (present * overlap).sum() / jnp.maximum(present.sum(), 1)
        return (weight * entropy).sum() / weight.sum() + 1 - dice

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, optimizer: Any, slices: jax.Array, target: jax.Array) -> tuple[Any, Any]:
        updates, optimizer = transform.update(jax.grad(loss)(params, slices, target), optimizer, params)
        return optax.apply_updates(params, updates), optimizer

    rng, optimizer, stages = np.random.default_rng(settings.seed), transform.init(params), {}
    for number in range(1, settings.steps + 1):
        chosen = rng.integers(len(inputs), size=BATCH)
        params, optimizer = step(params, optimizer, inputs[chosen], targets[chosen])
        if number in settings.kept:
            stages[_name_of(number)] = jax.tree.map(np.array, params)  # copies: the buffers are used again
    return stages


def _network(num_classes: int, settings: SegmenterSettings) -> tuple[nnx.GraphDef, Any]:
    """Returns the graphdef and the initial parameters as a pure dictionary."""
    graphdef, state = nnx.split(SliceUNet(num_classes, settings.width, rngs=nnx.Rngs(settings.seed)))
    return graphdef, nnx.to_pure_dict(state)


def _scaled(slices: jax.Array) -> jax.Array:
    return slices.astype(jnp.float32) / 127.5 - 1


def slice_input(plane: np.ndarray, size: int) -> np.ndarray:
    """Returns the network's input for a slice, (size, size, 2) uint8: its grey values in both windows.

    Args:
      plane: (H, W) Hounsfield units.
      size: side in pixels.
    """
    grey = [(np.clip(plane, low, high) - low) / (high - low) * 255 for low, high in WINDOWS]
    return np.stack([_resized(values.astype(np.uint8), size, Image.Resampling.BILINEAR) for values in grey], -1)


def _resized(plane: np.ndarray, size: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(plane).resize((size, size), how))


def enlarged(probs: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns the most probable class of each pixel of a slice of another size.

    Probabilities are resized bilinearly, so that outlines are smooth.

    Args:
      probs: (h, w, K) probabilities; the first class is the background.
      shape: (H, W) of the result.

    Returns:
      (H, W) int64, in 0..K - 1. Only classes that are the most probable ones of a given pixel, and 0, occur.

    Example:
      >>> probs = np.zeros((2, 2, 3), np.float32)
      >>> probs[:, 0, 2] = probs[:, 1, 0] = 1
      >>> enlarged(probs, (2, 4)).tolist()
      [[2, 2, 0, 0], [2, 2, 0, 0]]
    """
    present = np.union1d([0], probs.argmax(-1))
    if len(present) == 1:
        return np.zeros(shape, np.int64)
    size, how = shape[::-1], Image.Resampling.BILINEAR
    maps = [np.asarray(Image.fromarray(np.ascontiguousarray(probs[..., k])).resize(size, how)) for k in present]
    return present[np.argmax(maps, axis=0)]
