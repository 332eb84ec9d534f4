"""The programs that a Segmenter runs on the devices: masks of images and of changed copies, and how sure they are.

Images are (B, h, w, 3) float32, maps of classes are (B, h, w, K). Packed masks are (B, K, h, w / 8) uint8: one byte has
eight columns, the first in the highest bit, so that less memory leaves the device.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxseg.anatomy.unet import margins
from jaxseg.card import Card
from jaxseg.nn.resize import bilinear
from jaxseg.weights.model import Model

BORDER = 2  # pixels; the border of a mask reaches as far to both sides
_BITS = (128, 64, 32, 16, 8, 4, 2, 1)
_LEAST = 1e-7  # probabilities nearer to 0 or 1 have the entropy of this one


class Ensemble(nnx.Module):
    """Several models that segment together: a mask is where the mean of their probabilities exceeds the threshold.

    Args:
      models: two or more, with the same classes, preprocessing and input size.

    Attributes:
      members: the models.
      card: that of the first model, with the digests, files, licences and notes of all of them.

    Raises:
      ValueError: the models do not fit each other, two of them have the same weights, or the classes of one
        exclude each other: the means of a pixel may then exceed the threshold for none of its classes.
    """

    def __init__(self, models: Sequence[Model]):
        if choosing := next((model for model in models if exclusive(model)), None):
            raise ValueError(
                f"the classes of the model {choosing.card.title!r} exclude each other, and the mean of several models "
                "may give a pixel no class; use one model"
            )
        self.members = nnx.List(models)
        self.card = _joined_card([model.card for model in models])


def joined(model: Any) -> Any:
    """Returns one model as it is, and a list of models as an `Ensemble`.

    Raises:
      ValueError: the list is empty or has something else than models, or as `Ensemble`.
    """
    if not isinstance(model, (list, tuple)):
        return model
    if not model or any(getattr(one, "card", None) is None for one in model):
        kinds = ", ".join(type(one).__name__ for one in model) or "none"
        raise ValueError(f"models from jaxseg.load or jaxseg.create are needed, got {kinds}")
    return Ensemble(model) if len(model) > 1 else model[0]


def exclusive(model: Any) -> bool:
    """Returns whether the classes of a model exclude each other; those of an `Ensemble` never do."""
    return getattr(getattr(model, "cfg", None), "exclusive", False)


def members(model: Any) -> list[Any]:
    """Returns the models of an `Ensemble`, or the one model that is given."""
    return list(model.members) if isinstance(model, Ensemble) else [model]


def _joined_card(cards: list[Card]) -> Card:
    first = cards[0]
    for name in ("class_names", "preprocessing", "input_size"):
        if other := next((card for card in cards if getattr(card, name) != getattr(first, name)), None):
            raise ValueError(
                f"the models {first.title!r} and {other.title!r} do not have the same {name}, so the mean of their "
                "probabilities means nothing; name models of the same classes and input"
            )
    digests = [card.params_sha256 or card.source_sha256 for card in cards]
    if len(set(filter(None, digests))) < len(list(filter(None, digests))):
        raise ValueError("two models have the same weights; name each one once")
    joined = {
        name: "; ".join(dict.fromkeys(filter(None, (getattr(card, name) for card in cards))))
        for name in ("source", "licence", "note")
    }
    more = f" and {len(cards) - 1} more"
    return dataclasses.replace(
        first, name=first.title + more, params_sha256="+".join(filter(None, digests)), source_sha256="", **joined
    )


@dataclasses.dataclass(frozen=True)
class Forward:
    """Maps images (B, h, w, 3) and cut-offs (B,) to packed masks (B, K, h, w / 8) uint8, and more on request.

    Attributes:
      chosen: output channels to keep; None: all.
      probabilities: whether to return them, as float32, instead of None.
      pooled: whether to return the model's pooled features (B, F), instead of None.
      means: whether to return the mean probabilities in the masks, (B, K, 1), instead of None; NaN for an empty mask.
    """

    chosen: tuple[int, ...] | None
    probabilities: bool
    pooled: bool = False
    means: bool = False

    def __call__(self, model: Any, images: jax.Array, cutoffs: jax.Array) -> tuple:
        logits, pooled = _coarse(model, images, pooled=self.pooled)
        logits = _enlarged(model, logits, self.chosen, (images.shape[1], images.shape[2]))
        inside = logits > cutoffs.reshape(-1, 1, 1, 1)
        bits = _packed(inside)
        scores = jax.nn.sigmoid(logits).transpose(0, 3, 1, 2) if self.probabilities else None
        means = _mean(jax.nn.sigmoid(logits), inside)[..., None] if self.means else None
        return bits.transpose(0, 3, 1, 2), scores, means, pooled


@dataclasses.dataclass(frozen=True)
class ForwardWithConfidence:
    """As `Forward`, but of one model or an `Ensemble`, and with three numbers per mask that say how sure it is.

    The result is (packed masks, probabilities or None, numbers (B, K, 3), pooled features or None). The numbers are the
    mean probability of the mask's pixels; the mean entropy in bits of the pixels along its border, which are those
    within `BORDER` pixels, also diagonally, of both the mask and its outside; and the mean Dice of the masks of each
    pair of models. They are NaN without such pixels, or with one model. The edge of the image is not a border.

    Attributes:
      chosen, probabilities, pooled: as in `Forward`; the pooled features are those of the first model.
    """

    chosen: tuple[int, ...] | None
    probabilities: bool
    pooled: bool = False

    def __call__(self, model: Any, images: jax.Array, cutoffs: jax.Array) -> tuple:
        maps, pooled = [], None
        for place, member in enumerate(members(model)):
            logits, found = _coarse(member, images, pooled=self.pooled and place == 0)
            pooled = found if place == 0 else pooled
            logits = _enlarged(member, logits, self.chosen, (images.shape[1], images.shape[2]))
            maps.append(logits.astype(jnp.float32))
        scores, masks, separate = _cut(maps, cutoffs)
        border = _near(masks) & _near(~masks)
        pairs = [_dice(a, b) for a, b in itertools.combinations(separate, 2)]
        between = sum(pairs[1:], pairs[0]) / len(pairs) if pairs else jnp.full(masks.shape[::3], jnp.nan)
        sure = jnp.stack([_mean(scores, masks), _mean(_entropy(scores), border), between], axis=-1)
        bits, kept = _packed(masks).transpose(0, 3, 1, 2), scores.transpose(0, 3, 1, 2) if self.probabilities else None
        return bits, kept, sure, pooled


class Copy(NamedTuple):
    """A change of images under which their masks should stay: mirrored, moved, scaled, with other grey values.

    Attributes:
      rows, columns: (h,) and (w,) float32, where the pixels of the copy lie in the image.
      in_rows, in_columns: (h,) and (w,) float32, where the pixels of the image lie in the copy.
      channels: (K,) int32, output channels of the copy's masks: left and right are exchanged in a mirrored copy.
      counted: (K,) bool, whether a class has a mask in the copy.
      gamma, contrast: () float32, of the grey values.
      black, white: (3,) float32, the network's input for black and for white.
    """

    rows: np.ndarray
    in_rows: np.ndarray
    columns: np.ndarray
    in_columns: np.ndarray
    channels: np.ndarray
    counted: np.ndarray
    gamma: np.ndarray
    contrast: np.ndarray
    black: np.ndarray
    white: np.ndarray


def dice_of_copy(model: Any, copy: Copy, images: jax.Array, cutoffs: jax.Array, bits: jax.Array) -> jax.Array:
    """Returns the Dice of masks and those of a changed copy of their images, where both show the same place.

    Args:
      model: one model or an `Ensemble`.
      copy: the change.
      images: (B, h, w, 3).
      cutoffs: (B,), the logits that a pixel of a mask exceeds.
      bits: the packed masks of the images.

    Returns:
      (B, K) float32; NaN if both masks are empty, or the class is not counted.
    """
    height, width = images.shape[1:3]
    x = _regraded(_sampled(_sampled(images, 1, copy.rows), 2, copy.columns), copy)
    maps = []
    for member in members(model):
        logits = member.coarse_logits(x).astype(jnp.float32)
        logits = jnp.take(margins(logits) if exclusive(member) else logits, copy.channels, axis=-1, mode="clip")
        for axis, places, length in ((1, copy.in_rows, height), (2, copy.in_columns, width)):
            logits = _sampled(logits, axis, (places + 0.5) * (logits.shape[axis] / length) - 0.5)
        maps.append(logits)
    _, masks, _ = _cut(maps, cutoffs)
    rows, columns = (_inside(*pair) for pair in ((copy.in_rows, height), (copy.in_columns, width)))
    seen = rows.reshape(1, -1, 1, 1) & columns.reshape(1, 1, -1, 1)
    return jnp.where(copy.counted.reshape(1, -1), _dice(masks & seen, _unpacked(bits) & seen), jnp.nan)


def _coarse(model: Any, images: jax.Array, *, pooled: bool) -> tuple[jax.Array, jax.Array | None]:
    return model.coarse_logits_and_pooled(images) if pooled else (model.coarse_logits(images), None)


def _enlarged(model: Any, logits: jax.Array, chosen: tuple[int, ...] | None, size: tuple[int, int]) -> jax.Array:
    """Returns the logits of chosen channels at the images' size; of classes that exclude each other, their margins."""
    if exclusive(model):  # all channels take part in the choice
        logits = margins(bilinear(logits, size))
    if chosen is not None:
        logits = logits[..., jnp.asarray(chosen)]
    return logits if exclusive(model) else bilinear(logits, size)


def _cut(maps: list[jax.Array], cutoffs: jax.Array) -> tuple[jax.Array, jax.Array, list[jax.Array]]:
    """Returns the mean probabilities of logits, the masks, and the masks of each model, (B, h, w, K) each."""
    cutoffs = cutoffs.reshape(-1, 1, 1, 1)
    separate = [logits > cutoffs for logits in maps]
    scores = sum(map(jax.nn.sigmoid, maps[1:]), jax.nn.sigmoid(maps[0])) / len(maps)
    return scores, separate[0] if len(maps) == 1 else scores > jax.nn.sigmoid(cutoffs), separate


def _packed(masks: jax.Array) -> jax.Array:
    """Returns masks (B, h, w, K) bool with eight columns per byte, (B, h, w / 8, K) uint8."""
    batch, height, width, classes = masks.shape
    octets = masks.reshape(batch, height, width // 8, 8, classes)
    weights = jnp.asarray(_BITS, jnp.uint8).reshape(1, 1, 1, 8, 1)
    return jnp.sum(octets.astype(jnp.uint8) * weights, axis=3, dtype=jnp.uint8)


def _unpacked(bits: jax.Array) -> jax.Array:
    """Returns packed masks as (B, h, w, K) bool."""
    weights = jnp.asarray(_BITS, jnp.uint8).reshape(1, 1, 1, 1, 8)
    masks = (bits[..., None] & weights) > 0
    return masks.reshape(*bits.shape[:3], -1).transpose(0, 2, 3, 1)


def _dice(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns the Dice (B, K) of masks (B, h, w, K); NaN if both are empty."""
    shared, *each = (jnp.sum(masks, (1, 2), dtype=jnp.float32) for masks in (a & b, a, b))
    return 2 * shared / (each[0] + each[1])


def _mean(values: jax.Array, masks: jax.Array) -> jax.Array:
    """Returns the means (B, K) of values in masks, (B, h, w, K) both; NaN if a mask is empty."""
    return jnp.sum(jnp.where(masks, values, 0.0), (1, 2)) / jnp.sum(masks, (1, 2), dtype=jnp.float32)


def _entropy(scores: jax.Array) -> jax.Array:
    """Returns the entropy of probabilities in bits, from 0 (sure) to 1 (a probability of 0.5)."""
    p = jnp.clip(scores, _LEAST, 1 - _LEAST)
    return -(p * jnp.log2(p) + (1 - p) * jnp.log2(1 - p))


def _near(masks: jax.Array) -> jax.Array:
    """Returns the pixels within `BORDER` pixels of masks, also diagonally: (B, h, w, K) bool -> the same."""
    for axis in (1, 2):
        length = masks.shape[axis]
        wide = jnp.pad(masks, [(BORDER, BORDER) if a == axis else (0, 0) for a in range(4)])
        parts = [jax.lax.slice_in_dim(wide, k, k + length, axis=axis) for k in range(2 * BORDER + 1)]
        masks = functools.reduce(operator.or_, parts)
    return masks


def _sampled(x: jax.Array, axis: int, places: jax.Array) -> jax.Array:
    """Returns maps (B, H, W, C) at other places along an axis, bilinearly; outside, the nearest pixel counts."""
    last = x.shape[axis] - 1
    low = jnp.clip(jnp.floor(places), 0, last)
    shape = [-1 if a == axis else 1 for a in range(4)]
    weight = jnp.clip(places - low, 0, 1).reshape(shape)
    first = low.astype(jnp.int32)
    second = jnp.minimum(first + 1, last)
    below, above = (jnp.take(x, index, axis=axis, mode="clip") for index in (first, second))
    return below * (1 - weight) + above * weight


def _inside(places: jax.Array, length: int) -> jax.Array:
    return (places >= -0.5) & (places <= length - 0.5)


def _regraded(x: jax.Array, copy: Copy) -> jax.Array:
    """Returns images with other grey values: v in [0, 1] becomes (v ** gamma - 1/2) * contrast + 1/2."""
    black, white = (colour.reshape(1, 1, 1, -1) for colour in (copy.black, copy.white))
    values = jnp.clip((x - black) / (white - black), 0, 1)
    values = (values**copy.gamma - 0.5) * copy.contrast + 0.5
    return black + values * (white - black)
