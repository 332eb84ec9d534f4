"""The loss of the task `paxray`: a sum of parts that its configuration names, most of them those of the original."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.files import printable
from jaxseg.nn.losses import binary_cross_entropy, binary_dice_loss, dice_loss
from jaxseg.nn.losses_overlap import (
    exponential_logarithmic_loss,
    foreground_dice_loss,
    generalised_dice_loss,
    generalised_dice_loss_of_batch,
    overlap_loss,
    sensitivity_specificity_loss,
)
from jaxseg.nn.losses_pixel import balancing_weights, cross_entropy, focal_loss

Part = Literal[
    "dice", "ce", "class_dice", "focal", "softdice", "iou", "gdice", "gdicev2", "explog", "tversky", "ss", "asym"
]
PARTS: tuple[Part, ...] = get_args(Part)
OVERLAPS = {  # part -> costs of false positives and false negatives, and the smoothing
    "softdice": (0.5, 0.5, 0.5),
    "iou": (1.0, 1.0, 1.0),
    "tversky": (0.3, 0.7, 1.0),
    "asym": (1 / 3.25, 2.25 / 3.25, 1.0),  # beta is 1.5
}
UNWEIGHTED = {"dice", "gdice", "gdicev2"}  # they take no weights of classes
OF_BATCH = {"gdicev2", "explog"}  # they are no means over images
BALANCED = {"ce", "focal"}  # they take weights of pixels


@dataclasses.dataclass(frozen=True)
class Objective:
    """Maps logits and a target, (B, H, W, K), to the parts of the loss by name.

    Attributes:
      parts: names of the parts.
      exclusive: whether classes exclude each other.
      balance: whether rare pixels count more in the parts "ce" and "focal", see `balancing_weights`.
      weights: (K,) weights of the classes; (): all alike.
    """

    parts: tuple[Part, ...]
    exclusive: bool = False
    balance: bool = False
    weights: tuple[float, ...] = ()

    @property
    def by_image(self) -> bool:
        """Whether the loss of a batch is the mean of those of its images, which can then be computed one by one."""
        return not OF_BATCH & set(self.parts)

    def __call__(self, logits: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
        classes = jnp.asarray(self.weights, jnp.float32) if self.weights else None
        pixels = balancing_weights(target, exclusive=self.exclusive) if self.balance else None
        if classes is not None:
            pixels = _spread(classes) if pixels is None else pixels * _spread(classes)
        return {part: self._part(part, logits, target, classes, pixels) for part in self.parts}

    def _part(
        self, part: str, logits: jax.Array, target: jax.Array, classes: jax.Array | None, pixels: jax.Array | None
    ) -> jax.Array:
        options: dict[str, Any] = {"exclusive": self.exclusive}
        match part:
            case "dice":
                return foreground_dice_loss(logits, target) if self.exclusive else binary_dice_loss(logits, target)
            case "ce" if pixels is None and not self.exclusive:
                return binary_cross_entropy(logits, target)
            case "ce":
                return cross_entropy(logits, target, weights=pixels, **options)
            case "class_dice":
                return dice_loss(logits, target, weights=classes, **options)
            case "focal":
                return focal_loss(logits, target, weights=pixels, **options)
            case "gdice":
                return generalised_dice_loss(logits, target, **options)
            case "gdicev2":
                return generalised_dice_loss_of_batch(logits, target, **options)
            case "ss":
                return sensitivity_specificity_loss(logits, target, weights=classes, **options)
            case "explog":
                dice = _overlap("softdice", logits, target, weights=classes, **options)
                spread = None if classes is None else _spread(classes)
                return exponential_logarithmic_loss(dice, cross_entropy(logits, target, weights=spread, **options))
        return _overlap(part, logits, target, weights=classes, **options)


def _spread(classes: jax.Array) -> jax.Array:
    """Returns the weights of classes as weights of pixels with the mean 1, (1, 1, 1, K)."""
    return (classes * (classes.size / jnp.sum(classes))).reshape(1, 1, 1, -1)


def _overlap(part: str, logits: jax.Array, target: jax.Array, **options) -> jax.Array:
    false_positives, false_negatives, smooth = OVERLAPS[part]
    costs = {"false_positives": false_positives, "false_negatives": false_negatives, "smooth": smooth}
    return overlap_loss(logits, target, **costs, **options)


def weights_of(settings: Sequence[str], names: Sequence[str]) -> tuple[float, ...]:
    """Returns the weights of all classes from settings such as "heart=2.5"; other classes weigh 1.

    Args:
      settings: NAME=NUMBER each.
      names: names of the K classes.

    Returns:
      K numbers, or () without settings.

    Raises:
      ValueError: a setting has another form, its class is unknown or is named twice, or its number is not positive.

    >>> weights_of(["heart=2.5"], ["lung", "heart"])
    (1.0, 2.5)
    """
    found: dict[str, float] = {}
    for setting in settings:
        name, equals, text = setting.rpartition("=")
        try:
            number = float(text)
        except ValueError:
            number = np.nan
        if not equals or not 0 < number < np.inf:
            raise ValueError(f"loss.class_weights: {printable(setting)!r} must be CLASS=NUMBER, with a positive number")
        if name not in names or name in found:
            what = "is named twice" if name in found else f"is no class; there are {', '.join(list(names)[:8])}"
            raise ValueError(f"loss.class_weights: {printable(name)!r} {what}")
        found[name] = number
    return tuple(found.get(name, 1.0) for name in names) if found else ()
