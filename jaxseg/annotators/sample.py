"""Samples of the masks that disagreeing annotators might draw on an image, from a trained model of them."""

import dataclasses
import math
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.annotators.cmvae import DEPENDS
from jaxseg.annotators.images import NORMALISE, checked_image, read_image, resized_image, resized_labels
from jaxseg.annotators.losses import sample_noise
from jaxseg.card import Card
from jaxseg.images.picture import ImageError
from jaxseg.nn.inference import Runner, fetched
from jaxseg.weights.load import as_predictor
from jaxseg.weights.model import Model

MAX_BYTES = 2**32  # of the results for one image
_WORKING_BYTES = 2**28  # of masks on one device; further samples are computed in further calls of the network
_BLOCK_BYTES = 2**21  # of the numbers of samples that a CPU computes together: they stay in its cache


@dataclasses.dataclass(frozen=True)
class Samples:
    """Masks that annotators might draw on one image. K is the number of the model's classes, background included.

    Attributes:
      clean: (H, W) uint8 classes, the model's own segmentation; for a probabilistic U-Net that at its prior's mean.
      masks: (n, H, W) uint8 classes, the samples.
      agreement: (H, W) float32 in [1 / K, 1], the share of samples that have the most frequent class.
      entropy: (H, W) float32 in [0, log2 K], bits: -sum p log2 p, where p is the share of samples with each class. It
        is computed from the masks: the network's probabilities for one sample say nothing about annotators.
      confusion: (K, K, H, W) float32, the mean of the samples' confusion matrices, annotated class first: [a, t] is how
        often true class t is annotated as a. None if the model has none.
      classes: K.
    """

    clean: np.ndarray
    masks: np.ndarray
    agreement: np.ndarray
    entropy: np.ndarray
    confusion: np.ndarray | None
    classes: int


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An image, (H, W, C) float32, and the network's input made from it, (h, w, C)."""

    image: np.ndarray
    network: np.ndarray


class Sampler:
    """Samples masks for many images with one model. It can be pickled as a `jaxseg.Segmenter` can.

    Args:
      model: a trained cmvae or prob_unet, from `jaxseg.load` or `jaxseg.create`.
      source: where the latent vectors of a cmvae trained with `model.source: latent` come from, "prior" or "image",
        see `jaxseg.annotators.cmvae.sample`. Samples of a cmvae trained with `model.source: image` and of a prob_unet
        depend on the image anyway: they have only "prior".
      normalise: "none" if images are as the model was trained on, or "zscore".
      resize: resize images of other sizes bilinearly to the network's size, and the results back (each pixel takes the
        value at its centre). A prob_unet takes any size; its own is the one that it was trained on.
      devices: JAX devices to spread the samples over; None: the first.

    Raises:
      ValueError: this is not such a model, or an option is out of range.
    """

    def __init__(
        self,
        model: Any,
        *,
        source: str = "prior",
        normalise: str = "none",
        resize: bool = False,
        devices: Sequence[jax.Device] | None = None,
    ):
        self.card = _checked_card(model, source, normalise, resize=resize)
        self.confusing = model.has_confusion
        self.channels, self.source, self.normalise, self.resize = model.cfg.in_channels, source, normalise, resize
        self.classes, self.smallest = model.num_mask_classes, model.smallest_side
        self.size = model.fixed_size or (tuple(self.card.input_size) if resize else None)
        self._pixel_bytes, self._latent = 4 * model.numbers_per_pixel, model.cfg.latent
        self._start = Runner(model, _Start(source), devices=devices and devices[:1])
        self._finish = Runner(model, _Finish(1), devices=devices)

    @property
    def settings(self) -> dict:
        """Everything that the samples depend on, except their number and seed, as JSON can hold it."""
        card = self.card
        found = {"model": card.title, "weights_sha256": card.params_sha256 or card.source_sha256}
        found |= {name: getattr(self, name) for name in ("source", "normalise", "resize")}
        return found | {"cm_normalisation": dict(card.config).get("cm_normalisation")}

    def prepare(self, image: np.ndarray) -> Prepared:
        """Returns an image with the network's input made from it; see `sample`."""
        found = checked_image(image, self.channels, normalise=self.normalise)
        size = found.shape[:2]
        if self.size is None or size == self.size:
            if min(size) < self.smallest:
                raise ImageError(f"the image is {size[0]} x {size[1]}; the model needs {self.smallest} pixels a side")
            return Prepared(found, found)
        if not self.resize:
            height, width = self.size
            raise ImageError(
                f"the image is {size[0]} x {size[1]}, the model takes {height} x {width}: crop it, or use resize"
            )
        return Prepared(found, resized_image(found, self.size))

    def draw(self, prepared: Prepared, n: int, key: jax.Array | int) -> Samples:
        """Returns n samples for an image that `prepare` returned."""
        n, size = _count(n), prepared.network.shape[:2]
        pixels = max(size[0] * size[1], prepared.image[..., 0].size)
        if pixels * (n + 4 * self.classes**2) > MAX_BYTES:
            raise ValueError(f"{n:,} masks of this image need more than {MAX_BYTES:,} bytes; draw fewer at once")
        noise = np.asarray(sample_noise(_key(key), n, self._latent))
        started, clean, finite = self._start.start(prepared.network[None])
        blocks, share = self._shares(n, size[0] * size[1])
        masks, confusion = np.empty((n, *size), np.uint8), None
        for first in range(0, n, share):
            part = noise[first : first + share]
            real = np.ones(len(part), np.float32)  # the Runner fills it up with zeros
            answer = self._finish.start(part, real, shared=(started,), batch_size=share, function=_Finish(blocks))
            found, matrices, fine = fetched(answer, len(part))
            if not (finite and fine):
                raise ImageError("the network's output is not finite; are the image's values too large?")
            masks[first : first + len(part)] = found
            if matrices is not None:
                confusion = matrices[0].astype(np.float64) + (0.0 if confusion is None else confusion)
        if confusion is not None:
            confusion = (confusion / n).astype(np.float32)
        return _summarised(np.asarray(clean), masks, confusion, self.classes, prepared.image.shape[:2])

    def _shares(self, n: int, pixels: int) -> tuple[int, int]:
        """Returns the number of blocks and of samples in one call of the network, the same in every call."""
        devices = len(self._finish.devices)
        calls = math.ceil(n * pixels / (_WORKING_BYTES * devices))
        block = _BLOCK_BYTES if self._finish.devices[0].platform == "cpu" else _WORKING_BYTES
        most = devices * max(1, block // (self._pixel_bytes * pixels))
        blocks = math.ceil(n / (calls * most))
        return blocks, blocks * self._finish.round_up(math.ceil(n / (calls * blocks)))


def sample(
    image: np.ndarray | str | Path,
    model: nnx.Module | Sampler | str | Path,
    n: int = 16,
    key: int | jax.Array = 0,
    **options: Any,
) -> Samples:
    """Samples n masks that annotators might draw on an image.

    Args:
      image: (H, W) or (H, W, C) numbers like those that the model was trained on (LIDC: z-scored; MNIST: three channels
        in [0, 1]), or a file of them, see `jaxseg.annotators.images.read_image`. For a model of one channel also
        (1, H, W).
      model: a training run, a model directory, a file of weights or a model; or a `Sampler`, which saves the
        preparation if there are many images.
      n: any number. 1,000 are computed in one call of the network, or in several if memory is short.
      key: a seed from 0 to 2**32 - 1, or a JAX key. The same key gives the same samples; a larger n only adds samples;
        and sample i of a cmvae whose matrices do not depend on the image (`model.source: latent`, source "prior") has
        the same latent vector for every image.
      **options: of `Sampler`: source, normalise, resize, devices.

    Returns:
      Samples.

    Raises:
      ValueError: the image, the model, n, the key or an option is not valid. OSError: a file cannot be read.

    Example:
      >>> import jaxseg, numpy as np
      >>> model = jaxseg.create("cmvae", image_size=(16, 16), width=4, depth=2, latent=4)
      >>> samples = jaxseg.sample(np.zeros((16, 16)), model, n=5, key=0)
      >>> samples.masks.shape, samples.agreement.shape, samples.confusion.shape
      ((5, 16, 16), (16, 16), (2, 2, 16, 16))
    """
    n, key = _count(n), _key(key)
    array = read_image(image) if isinstance(image, (str, Path)) else image
    sampler = as_predictor(model, Sampler, options)
    return sampler.draw(sampler.prepare(array), n, key)


def _checked_card(model: Any, source: str, normalise: str, *, resize: bool) -> Card:
    """The model's card, if samples can be drawn from the model and the options suit it."""
    card = getattr(model, "card", None)
    if card is None or not (isinstance(model, Model) and model.SOURCES):
        given = type(model).__name__ if card is None else f"model {card.model!r}"
        raise ValueError(f"a model of annotators is needed, a trained cmvae or prob_unet; got {given}")
    known = {"source": (source, ("prior", "image")), "normalise": (normalise, NORMALISE)}
    for name, (value, allowed) in known.items():
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; known: {', '.join(allowed)}")
    if source not in model.SOURCES:
        raise ValueError(f"source {source!r} is for a cmvae; the prior of a {card.model} knows the image")
    if source == "image" and getattr(model.cfg, "matrices", "latent") != "latent":
        raise ValueError("source 'image' is for matrices of a latent vector; this model has those of named annotators")
    if source == "image" and getattr(model.cfg, "source", "latent") == "image":
        raise ValueError(DEPENDS)
    if model.fixed_size is None and resize and card.source:
        raise ValueError(f"{card.source} does not state the size it was trained on: resize the images yourself")
    return card


def _summarised(
    clean: np.ndarray, masks: np.ndarray, confusion: np.ndarray | None, classes: int, size: tuple[int, int]
) -> Samples:
    """The samples with the maps of their agreement, at the size of the image."""
    shares = np.stack([_counts(masks == k) for k in range(classes)]) / len(masks)
    bits = -np.sum(shares * np.log2(np.where(shares > 0, shares, 1)), axis=0)
    maps = [clean, masks, shares.max(0).astype(np.float32), np.abs(bits).astype(np.float32)]  # no -0.0
    if clean.shape != size:
        maps = [resized_labels(values, size) for values in maps]
        confusion = None if confusion is None else resized_labels(confusion, size)
    clean, masks, agreement, entropy = maps
    return Samples(clean, masks, agreement, entropy, confusion, classes)


def _counts(members: np.ndarray) -> np.ndarray:
    """Returns how often each pixel of (n, H, W) bool masks is set. Bytes are added faster than whole numbers."""
    total = np.zeros(members.shape[1:], np.int64)
    for first in range(0, len(members), 255):
        total += np.add.reduce(members[first : first + 255].view(np.uint8), axis=0, dtype=np.uint8)
    return total


def _count(n: int) -> int:
    try:
        count = 0 if isinstance(n, bool) else operator.index(n)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"n must be a whole number of at least 1, got {n!r}")
    return count


def _key(key: int | jax.Array) -> jax.Array:
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return key
    if isinstance(key, jax.Array) and key.dtype == jnp.uint32 and key.shape == (2,):
        return jax.random.wrap_key_data(key, impl="threefry2x32")
    if not isinstance(key, (int, np.integer)) or isinstance(key, bool) or not 0 <= key < 2**32:
        raise ValueError(f"key must be a seed from 0 to {2**32 - 1} or a key of jax.random, got {key!r}")
    return jax.random.key(np.uint32(key))


@dataclasses.dataclass(frozen=True)
class _Start:
    """Images (1, h, w, C) -> what all samples share; the clean classes (h, w) uint8; whether all numbers are finite."""

    source: str

    def __call__(self, model: Any, images: jax.Array) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        started = model.start_samples(images[0], source=self.source)
        finite = jnp.stack([jnp.isfinite(array).all() for array in jax.tree.leaves(started)]).all()
        return started, model.clean_mask(started), finite


@dataclasses.dataclass(frozen=True)
class _Finish:
    """Noise (S, Z) -> classes (S, h, w) uint8, sum of the `real` samples' matrices (1, K, K, h, w), whether all finite.

    The matrices are None if the model has none. S is a multiple of the number of blocks, which are computed one after
    the other. A block takes every n-th sample, so that devices that share the samples share every block.
    """

    blocks: int

    def __call__(self, model: Any, started: dict[str, jax.Array], noise: jax.Array, real: jax.Array) -> tuple:
        def block(given: tuple[jax.Array, jax.Array]) -> tuple:
            noise, real = given
            found = model.finish_samples(started, noise)
            matrices = None
            if "matrices" in found:
                matrices = jnp.einsum("s,sathw->athw", real, found["matrices"], precision="highest")
            return found["masks"], matrices, jnp.isfinite(found["logits"]).all()

        def add(total: jax.Array | None, given: tuple[jax.Array, jax.Array]) -> tuple:
            masks, matrices, finite = block(given)
            return None if matrices is None else total + matrices, (masks, finite)

        parts = self._split(noise), self._split(real)
        shape = jax.eval_shape(block, jax.tree.map(lambda part: part[0], parts))[1]
        zero = None if shape is None else jnp.zeros(shape.shape, shape.dtype)
        found: Any = jax.lax.scan(add, zero, parts)  # the sum, so that one block's matrices are kept
        matrices, (masks, finite) = found
        masks = masks.swapaxes(0, 1).reshape(len(noise), *masks.shape[2:])
        return masks, None if matrices is None else matrices[None], finite.all()[None]

    def _split(self, array: jax.Array) -> jax.Array:
        return array.reshape(-1, self.blocks, *array.shape[1:]).swapaxes(0, 1)
