"""Anatomy masks of X-rays: preprocessing, the network, thresholding, and masks at the image's own size."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.card import Card
from jaxseg.devices import shardings
from jaxseg.images.preprocess import PREPROCESSING
from jaxseg.images.read import INTENSITIES, Picture, from_array, read_picture
from jaxseg.masks.segmentation import Segmentation
from jaxseg.nn.inference import for_inference
from jaxseg.nn.resize import bilinear
from jaxseg.vocabulary import labels

_NO_IMAGES = {  # preprocessing of models that segment nothing -> what they do
    "mask": "takes masks, not images; `jaxseg denoise` applies it to them",
    "slice_and_mask": "segments nothing: it says how good a mask of a CT is; `jaxseg score` asks it",
    "as_stored": "takes arrays as its data set holds them; `jaxseg sample` applies it to them",
}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An image ready for the network: `x` (h, w, 3) float32; `size`, `notes` and `spacing_mm` as the reader's."""

    x: np.ndarray
    size: tuple[int, int]
    notes: tuple[str, ...] = ()
    spacing_mm: tuple[float, float] | None = None


class Segmenter:
    """Segments many images with one model: compiled once, batch norm folded.

    Args:
      model: from `jaxseg.load` or `jaxseg.create`.
      threshold: a pixel belongs to a class where its sigmoid exceeds this; in [0, 1].
      classes: label or group names (a list or a comma-separated string); None: all.
      batch_size: images in one call of the network; a multiple of the number of devices.
      devices: JAX devices to spread the batch over; None: the first.
      preprocessing: key of `PREPROCESSING`; None: what the model's card says.
      intensity: of `jaxseg.images.read.INTENSITIES`: "original" reads grey values as the published weights saw them,
        "clinical" as a viewer shows them (window, palette, 16-bit pictures by their range).
      probabilities: also keep the sigmoid values.
      after: changes the Segmentations of a batch before they are given out, such as a denoiser; not with probabilities.
    """

    def __init__(
        self,
        model: nnx.Module,
        *,
        threshold: float = 0.5,
        classes: str | Sequence[str] | None = None,
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
        preprocessing: str | None = None,
        intensity: str = "original",
        probabilities: bool = False,
        after: Callable[[list[Segmentation]], list[Segmentation]] | None = None,
    ):
        card = getattr(model, "card", None)
        if card is None:
            raise ValueError(f"a model from jaxseg.load or jaxseg.create is needed, got {type(model).__name__}")
        name = _preprocessing_of(card, preprocessing)
        if intensity not in INTENSITIES:
            raise ValueError(f"unknown intensity {intensity!r}; known: {', '.join(INTENSITIES)}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {threshold}")
        if card.input_size[1] % 8:
            raise ValueError(f"the model's input width must be a multiple of 8, got {card.input_size[1]}")
        self.devices = devices = list(devices or jax.devices()[:1])
        self.batch_size = len(devices) if batch_size is None else batch_size
        if self.batch_size < 1 or self.batch_size % len(devices):
            raise ValueError(f"batch size {self.batch_size} cannot be split over {len(devices)} devices")
        self.card = card
        self.indices = labels.select(card.class_names, classes)
        self.names = tuple(card.class_names[i] for i in self.indices)
        self.threshold = threshold
        self.intensity = intensity
        if after is not None and probabilities:
            raise ValueError(
                "probabilities are the network's own; they cannot be kept where masks are changed after it"
            )
        self.after = after
        self._cutoff = _logit(threshold)
        chosen = None if len(self.indices) == len(card.class_names) else self.indices
        self._options = (chosen, probabilities)
        self._compiled = None
        self.compile_seconds = 0.0
        self._preprocess = PREPROCESSING[name]
        replicated, self._split = shardings(devices)
        view = nnx.view(model, use_running_average=True, deterministic=True)
        self._graphdef, state = nnx.split(for_inference(view, devices[0].platform))
        self._state = jax.device_put(state, replicated)

    def __call__(self, image: str | Path | np.ndarray) -> Segmentation:
        """Returns the masks of a file or an array; see `jaxseg.segment`."""
        return self.predict([self.prepare(image)])[0]

    def prepare(self, image: str | Path | np.ndarray) -> Prepared:
        """Reads and preprocesses an image; runs in any thread, numpy only."""
        is_file = isinstance(image, (str, Path))
        picture: Picture = read_picture(image, intensity=self.intensity) if is_file else from_array(image)
        x = self._preprocess(picture, self.card.input_size)
        return Prepared(x, picture.size, picture.notes, picture.spacing_mm)

    def compile(self) -> None:
        """Compiles ahead of the first image, so that a long run can tell `compile_seconds` from computing."""
        start = time.perf_counter()
        shape = (self.batch_size, *self.card.input_size, 3)
        images = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=self._split)
        lowered = _forward.lower(self._graphdef, self._state, images, self._cutoff, *self._options)
        self._compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - start

    def predict(self, images: Sequence[Prepared]) -> list[Segmentation]:
        """Segments up to `batch_size` prepared images; fewer are padded, so one shape is ever compiled."""
        if not 1 <= len(images) <= self.batch_size:
            raise ValueError(f"between 1 and {self.batch_size} images fit in a batch, got {len(images)}")
        batch = np.zeros((self.batch_size, *images[0].x.shape), np.float32)
        for i, image in enumerate(images):
            batch[i] = image.x
        x = jax.device_put(batch, self._split)
        # Without `compile`, jit's cache serves: one call of `jaxseg.segment` after the other compiles once.
        if self._compiled is None:
            bits, scores = _forward(self._graphdef, self._state, x, self._cutoff, *self._options)
        else:
            bits, scores = self._compiled(self._state, x, self._cutoff)
        bits, scores = np.asarray(bits), None if scores is None else np.asarray(scores)
        kept = [None] * len(images) if scores is None else scores
        found = [
            Segmentation(self.names, self.indices, image.size, bits[i], kept[i], image.notes, image.spacing_mm)
            for i, image in enumerate(images)
        ]
        return found if self.after is None else self.after(found)


def segment(image: str | Path | np.ndarray, model: nnx.Module | Segmenter, **options) -> Segmentation:
    """Segments one X-ray.

    Args:
      image: a png, jpg or dcm file; or (H, W) or (H, W, 3) uint8; or (H, W) of another number type, scaled by
        its range as DICOM pixels are.
      model: from `jaxseg.load`, or a `Segmenter`, which saves the preparation when there are many images.
      **options: of `Segmenter`: threshold, classes, probabilities, preprocessing, intensity, devices.

    Returns:
      A Segmentation: `masks` (K, H, W) bool at the image's size, `names`, `probabilities` on request.

    Raises:
      ValueError: the image cannot be read as an X-ray (ImageError), or an option is out of range.
      OSError: the file cannot be opened.
    """
    if isinstance(model, Segmenter):
        if options:
            raise ValueError(f"options {', '.join(options)} belong to the Segmenter; make it with them")
        return model(image)
    return Segmenter(model, **options)(image)


# Nothing is donated: no output has the size of the images, so XLA could not use their memory.
@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _forward(graphdef, state, images, cutoff, chosen, probabilities):
    """(B, h, w, 3) -> packed masks (B, K, h, w / 8) uint8, and (B, K, h, w) float32 probabilities or None."""
    logits = nnx.merge(graphdef, state).coarse_logits(images)
    if chosen is not None:
        logits = logits[..., jnp.asarray(chosen)]
    logits = bilinear(logits, images.shape[1:3])
    batch, height, width, classes = logits.shape
    # Sixteenths of the memory leave the device: eight columns a byte, the first in the highest bit.
    octets = (logits > cutoff).reshape(batch, height, width // 8, 8, classes)
    weights = jnp.asarray([128, 64, 32, 16, 8, 4, 2, 1], jnp.uint8).reshape(1, 1, 1, 8, 1)
    bits = jnp.sum(octets.astype(jnp.uint8) * weights, axis=3, dtype=jnp.uint8)
    scores = jax.nn.sigmoid(logits).transpose(0, 3, 1, 2) if probabilities else None
    return bits.transpose(0, 3, 1, 2), scores


def _preprocessing_of(card: Card, wanted: str | None) -> str:
    if card.preprocessing in _NO_IMAGES:
        raise ValueError(f"model {card.model!r} {_NO_IMAGES[card.preprocessing]}")
    name = wanted or card.preprocessing
    if name not in PREPROCESSING:
        raise ValueError(f"unknown preprocessing {name!r}; known: {', '.join(PREPROCESSING)}")
    return name


def _logit(probability: float) -> np.float32:
    """The logit whose sigmoid is `probability`; infinite at 0 and 1."""
    if probability in (0, 1):
        return np.float32(math.copysign(math.inf, probability - 0.5))
    return np.float32(math.log(probability / (1 - probability)))
