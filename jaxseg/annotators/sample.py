"""What annotators who disagree might draw on an image: masks sampled from a trained model of them."""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.annotators.cmvae import SOURCES, drawn
from jaxseg.annotators.images import NORMALISE, checked_image, read_image, resized_image, resized_labels
from jaxseg.annotators.losses import sample_noise
from jaxseg.card import Card
from jaxseg.devices import shardings
from jaxseg.images.checks import ImageError
from jaxseg.weights.load import load

MODELS = ("cmvae", "prob_unet")
MAX_BYTES = 2**32  # of the results of an image
_WORKING_BYTES = 2**28  # on a device; more samples are drawn in turns


@dataclasses.dataclass(frozen=True)
class Samples:
    """Masks that annotators might draw on one image. K are the model's classes, background included.

    Attributes:
      clean: (H, W) uint8 classes, the model's own segmentation; of a probabilistic U-Net at the mean of its prior.
      masks: (n, H, W) uint8 classes, the samples.
      agreement: (H, W) float32 in [1 / K, 1], the share of the samples with the class that most of them have.
      entropy: (H, W) float32 in [0, log2 K], bits: -sum p log2 p, where p is the share of the samples with each class.
        It is of the masks, not of the networks' probabilities, as those of a single sample say nothing of annotators.
      confusion: (K, K, H, W) float32, the mean of the samples' confusion matrices, the annotated class before the true
        one; [a, t] is how often true class t is annotated as a. None where the model has none.
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
    """An image, (H, W, C) float32, and what the network is shown of it, (h, w, C)."""

    image: np.ndarray
    network: np.ndarray


class Sampler:
    """Draws masks on many images with one model.

    Args:
      model: a trained cmvae or prob_unet, from `jaxseg.load` or `jaxseg.create`.
      source: of a cmvae's latent vectors, "prior" or "image", see `jaxseg.annotators.cmvae.sample`. A prob_unet's prior
        knows the image, so that it has "prior" alone.
      normalise: "none" where images are as the model was trained on, or "zscore".
      resize: images of other sizes are brought to the network's, bilinearly, and the results back, by their pixels'
        centres. A prob_unet takes any size; its own is the one that it was trained on.
      devices: JAX devices to spread the samples over; None: the first.

    Raises:
      ValueError: this is no such model, or an option is impossible.
    """

    def __init__(
        self,
        model: nnx.Module,
        *,
        source: str = "prior",
        normalise: str = "none",
        resize: bool = False,
        devices: Sequence[jax.Device] | None = None,
    ):
        card = _checked_card(model, source, normalise, resize=resize)
        cfg, self.confusing = model.cfg, card.architecture == "cmvae"
        self.card, self.channels, self.normalise, self.resize = card, cfg.in_channels, normalise, resize
        if self.confusing:
            self.classes, self.size, self.smallest = cfg.num_classes, tuple(cfg.image_size), 1
            numbers = self.classes**2 + 2 * self.classes
        else:
            self.classes, self.smallest = 2, 2 ** (len(cfg.filters) - 1)
            self.size = tuple(card.input_size) if resize else None
            numbers = cfg.num_convs * cfg.filters[0] + 2
        devices = list(devices or jax.devices()[:1])
        self._pixel_bytes, self._latent, self._devices = 4 * numbers, cfg.latent, len(devices)
        self._replicated, self._split = shardings(devices)
        graphdef, state = nnx.split(nnx.view(model, use_running_average=True, raise_if_not_found=False))
        state = jax.device_put(state, self._replicated)
        self._begin = functools.partial(_begin, graphdef, state, source=source)
        self._draw = functools.partial(_draw, graphdef, state)

    def prepare(self, image: np.ndarray) -> Prepared:
        """Returns an image with what the network is to be shown of it; see `sample`."""
        found = checked_image(image, self.channels, normalise=self.normalise)
        size = found.shape[:2]
        if self.size is None or size == self.size:
            if min(size) < self.smallest:
                raise ImageError(f"the image is {size[0]} x {size[1]}; the model needs {self.smallest} pixels a side")
            return Prepared(found, found)
        if not self.resize:
            height, width = self.size
            raise ImageError(
                f"the image is {size[0]} x {size[1]}, the model takes {height} x {width}: crop it, or have it resized"
            )
        return Prepared(found, resized_image(found, self.size))

    def draw(self, prepared: Prepared, n: int, key: jax.Array | int) -> Samples:
        """Returns n samples of what `prepare` gave."""
        n, size = _count(n), prepared.network.shape[:2]
        pixels = max(size[0] * size[1], prepared.image[..., 0].size)
        if pixels * (n + 4 * self.classes**2) > MAX_BYTES:
            raise ValueError(f"{n:,} masks of this image need more than {MAX_BYTES:,} bytes; draw fewer at once")
        noise = np.asarray(sample_noise(_key(key), n, self._latent))
        begun, clean, finite = self._begin(jax.device_put(prepared.network, self._replicated))
        share = self._share(n, size[0] * size[1])
        masks, total = np.empty((n, *size), np.uint8), 0.0
        for first in range(0, n, share):
            part = noise[first : first + share]
            padded = np.zeros((share, self._latent), np.float32)
            padded[: len(part)] = part
            real = (np.arange(share) < len(part)).astype(np.float32)
            found, matrices, fine = self._draw(begun, *jax.device_put((padded, real), self._split))
            if not (finite and fine):
                raise ImageError(
                    "the network answers with numbers that are not finite; are the image's values too large?"
                )
            masks[first : first + len(part)] = np.asarray(found)[: len(part)]
            total = total + np.asarray(matrices, np.float64) if self.confusing else None
        confusion = (total / n).astype(np.float32) if self.confusing else None
        return _summarised(np.asarray(clean), masks, confusion, self.classes, prepared.image.shape[:2])

    def _share(self, n: int, pixels: int) -> int:
        """How many of n samples are drawn in one turn: equally many in each, the same number on each device."""
        most = max(1, _WORKING_BYTES * self._devices // (self._pixel_bytes * pixels))
        return math.ceil(math.ceil(n / math.ceil(n / most)) / self._devices) * self._devices


def sample(
    image: np.ndarray | str | Path,
    model: nnx.Module | Sampler | str | Path,
    n: int = 16,
    key: int | jax.Array = 0,
    **options,
) -> Samples:
    """Draws n masks that annotators might draw on an image.

    Args:
      image: (H, W) or (H, W, C) numbers as the model was trained on (LIDC: z-scored; MNIST: three channels in [0, 1]),
        or a file of them, see `jaxseg.annotators.images.read_image`. For a model of one channel also (1, H, W).
      model: a training run, a model directory, a PyTorch file or a model; or a `Sampler`, which saves the preparation
        where there are many images.
      n: any number; 1,000 are drawn in one call of the network, or in turns where memory is short.
      key: a seed from 0 to 2**32 - 1, or a JAX key. The same key gives the same samples, the first ones of more
        samples are those of fewer, and a cmvae's sample i has the same latent vector for every image (source "prior").
      **options: of `Sampler`: source, normalise, resize, devices.

    Returns:
      Samples.

    Raises:
      ValueError: the image, the model, n, the key or an option is impossible. OSError: a file cannot be read.
    """
    if isinstance(model, Sampler) and options:
        raise ValueError(f"options {', '.join(options)} belong to the Sampler; make it with them")
    n, key = _count(n), _key(key)
    array = read_image(image) if isinstance(image, (str, Path)) else image
    if not isinstance(model, Sampler):
        model = Sampler(load(model) if isinstance(model, (str, Path)) else model, **options)
    return model.draw(model.prepare(array), n, key)


def _checked_card(model: nnx.Module, source: str, normalise: str, *, resize: bool) -> Card:
    """The card of a model that the options suit."""
    card = getattr(model, "card", None)
    if card is None or card.architecture not in MODELS:
        given = type(model).__name__ if card is None else f"model {card.model!r}"
        raise ValueError(f"a model of annotators is needed, a trained {' or '.join(MODELS)}; got {given}")
    for name, value, known in (("source", source, SOURCES), ("normalise", normalise, NORMALISE)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; known: {', '.join(known)}")
    if card.architecture == "cmvae":
        return card
    if source != "prior":
        raise ValueError(f"source {source!r} is for a cmvae; the prior of a {card.model} knows the image")
    if model.cfg.out_channels > 1:
        raise ValueError(f"the model draws {model.cfg.out_channels} masks that may overlap; it must draw one")
    if resize and card.source:
        raise ValueError(f"{card.source} does not say what size it was trained on: resize the images yourself")
    return card


def _summarised(
    clean: np.ndarray, masks: np.ndarray, confusion: np.ndarray | None, classes: int, size: tuple[int, int]
) -> Samples:
    """The samples with what they agree on, at the size of the image."""
    shares = np.stack([np.count_nonzero(masks == k, axis=0) for k in range(classes)]) / len(masks)
    bits = -np.sum(shares * np.log2(np.where(shares > 0, shares, 1)), axis=0)
    maps = [clean, masks, shares.max(0).astype(np.float32), np.abs(bits).astype(np.float32)]  # no -0.0
    if clean.shape != size:
        maps = [resized_labels(values, size) for values in maps]
        confusion = None if confusion is None else resized_labels(confusion, size)
    return Samples(*maps, confusion, classes)


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


@functools.partial(jax.jit, static_argnums=0, static_argnames="source")
def _begin(graphdef, state, image: jax.Array, *, source: str) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """What all samples of an image (h, w, C) share; its clean classes (h, w) uint8; whether all numbers are finite."""
    model = nnx.merge(graphdef, state)
    if hasattr(model, "confusion"):
        features = model.maps(image[None])["decoder0"]
        logits = model.logits(features)[0]
        begun = {"logits": logits}
        if source == "image":
            mean, log_variance = model.confusion.encode(features)
            begun |= {"mean": mean, "log_sigma": 0.5 * log_variance}
        return begun, jnp.argmax(logits, axis=-1).astype(jnp.uint8), _finite(begun)
    features, (mean, log_sigma) = model.begin(image[None])
    clean = model.combine.finish(features, mean)[0, ..., 0] > 0
    begun = {"features": features, "mean": mean, "log_sigma": log_sigma}
    return begun, clean.astype(jnp.uint8), _finite(begun)


def _finite(arrays: dict[str, jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(array).all() for array in arrays.values()]).all()


@functools.partial(jax.jit, static_argnums=0)
def _draw(graphdef, state, begun: dict[str, jax.Array], noise: jax.Array, real: jax.Array) -> tuple:
    """Classes (S, h, w) uint8 of noise (S, Z); the (K, K, h, w) sum of the matrices of the `real` ones; all finite?"""
    model = nnx.merge(graphdef, state)
    z = begun["mean"] + jnp.exp(begun["log_sigma"]) * noise if "mean" in begun else noise
    if hasattr(model, "confusion"):
        found = drawn(model, begun["logits"], z)
        matrices = jnp.einsum("s,shwat->athw", real, found["matrices"], precision="highest")
        return found["masks"], matrices, jnp.isfinite(found["noisy_logits"]).all()
    logits = jax.vmap(lambda z: model.combine.finish(begun["features"], z[None])[0, ..., 0])(z)
    return (logits > 0).astype(jnp.uint8), None, jnp.isfinite(logits).all()
