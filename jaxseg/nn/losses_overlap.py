"""Losses of the overlap of predicted and true regions, for each class or for all of them.

Logits and targets are (B, H, W, K); every loss is a float32 scalar. With `exclusive`, the probabilities of a pixel are
the softmax of its logits; otherwise each class has its sigmoid. For each image and class, the following counts are
sums over the pixels: tp of p t, fp of p (1 - t) and fn of (1 - p) t, where p is the probability and t the target.
`weights`, (K,), weigh the classes in means over classes; None: all alike.

Where a loss of PAX-Ray's original is minus a coefficient, it is one minus the coefficient here: the gradient is equal.
The original gives its overlap losses logits instead of probabilities, and some of them stop with an error.
"""

import jax
import jax.numpy as jnp
import optax

from jaxseg.nn.losses import matched, mean_of_classes

_EXPONENT = 0.3  # of the exponential logarithmic loss
_SPECIFICITY = 0.1  # share of the error inside the regions
_LOWEST, _HIGHEST = 1e-6, 1 - 1e-6  # of a Dice in a logarithm


def overlap_loss(
    logits: jax.Array,
    target: jax.Array,
    *,
    false_positives: float,
    false_negatives: float,
    smooth: float = 1.0,
    exclusive: bool = False,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Returns one minus the Tversky index, (tp + s) / (tp + a fp + b fn + s), averaged over images and classes.

    With a = b = 1/2 and s = 1/2 it is the soft Dice (2 tp + 1) / (2 tp + fp + fn + 1); with a = b = 1 it is the
    intersection over union; with a = 0.3 and b = 0.7 missing pixels cost more than additional ones. The asymmetric
    similarity loss with beta has a = 1 / (1 + beta^2) and b = beta^2 / (1 + beta^2).

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1, any dtype.
      false_positives: a.
      false_negatives: b.
      smooth: s, the number added to both sides of the fraction, so that two empty regions have the index 1.
      exclusive: whether classes exclude each other.
      weights: (K,) of the classes, or None.

    Returns:
      A scalar in [0, 1].

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    Source: Salehi et al. 2017, arXiv:1706.05721; Milletari et al. 2016, arXiv:1606.04797; Hashemi et al. 2018,
    doi 10.1109/ACCESS.2018.2886371.
    """
    logits, target = matched(logits, target)
    options = {"alpha": false_positives, "beta": false_negatives, "smooth": smooth, "axis": (1, 2)}
    if exclusive:
        values = optax.losses.dice_loss(logits, target, reduction="none", **options)
    else:  # with one more axis, each class is a problem of one class, and optax takes the sigmoid
        values = optax.losses.dice_loss(logits[..., None], target[..., None], reduction="none", **options)[..., 0]
    return mean_of_classes(values, weights)


def generalised_dice_loss(logits: jax.Array, target: jax.Array, *, exclusive: bool = False) -> jax.Array:
    """Returns one minus the generalised Dice of each image, in which a class weighs one over its squared size.

    It is `2 (sum w tp + s) / (sum w (sum p + sum t) + s)` with sums over classes, `w = 1 / (sum t + 1e-10)^2` and
    s = 1e-5. A class that an image does not show has so large a weight that it decides the loss of this image.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1, any dtype.
      exclusive: whether classes exclude each other.

    Returns:
      A scalar.

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    Source: Sudre et al. 2017, arXiv:1707.03237.
    """
    probs, target = _probabilities(logits, target, exclusive=exclusive)
    true = jnp.sum(target, (1, 2))  # (B, K)
    weights = 1 / jnp.square(true + 1e-10)
    overlap = jnp.sum(weights * jnp.sum(probs * target, (1, 2)), 1)
    total = jnp.sum(weights * (jnp.sum(probs, (1, 2)) + true), 1)
    return jnp.mean(1 - 2 * (overlap + 1e-5) / (total + 1e-5))


def generalised_dice_loss_of_batch(logits: jax.Array, target: jax.Array, *, exclusive: bool = False) -> jax.Array:
    """Returns one minus the generalised Dice of a whole batch, whose classes weigh one over their squared sizes.

    A class that the batch does not show has the weight 1e5, so it does not decide the loss as strongly as in
    `generalised_dice_loss`.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1, any dtype.
      exclusive: whether classes exclude each other.

    Returns:
      A scalar.

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    Source: Sudre et al. 2017, arXiv:1707.03237, as `gdicev2` of PAX-Ray's original.
    """
    probs, target = _probabilities(logits, target, exclusive=exclusive)
    true = jnp.sum(target, (0, 1, 2))  # (K,)
    weights = 1 / jnp.maximum(jnp.square(true), 1e-5)
    overlap = jnp.sum(weights * jnp.sum(probs * target, (0, 1, 2)))
    total = jnp.sum(weights * (jnp.sum(probs, (0, 1, 2)) + true))
    return 1 - 2 * overlap / jnp.maximum(total, 1e-5)


def sensitivity_specificity_loss(
    logits: jax.Array, target: jax.Array, *, exclusive: bool = False, weights: jax.Array | None = None
) -> jax.Array:
    """Returns 0.1 times the mean squared error inside the regions plus 0.9 times the one outside.

    Each mean has a 1 added to its number of pixels.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1, any dtype.
      exclusive: whether classes exclude each other.
      weights: (K,) of the classes, or None.

    Returns:
      A scalar in [0, 1].

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    Source: Brosch et al. 2015, doi 10.1007/978-3-319-24574-4_1.
    """
    probs, target = _probabilities(logits, target, exclusive=exclusive)
    errors = jnp.square(target - probs)
    inside, outside = (
        jnp.sum(errors * pixels, (1, 2)) / (jnp.sum(pixels, (1, 2)) + 1) for pixels in (target, 1 - target)
    )
    return mean_of_classes(_SPECIFICITY * inside + (1 - _SPECIFICITY) * outside, weights)


def exponential_logarithmic_loss(soft_dice_loss: jax.Array, cross_entropy: jax.Array) -> jax.Array:
    """Returns `0.8 (-log d)^0.3 + 0.2 c` of the mean soft Dice d = 1 - `soft_dice_loss` and the mean cross-entropy c.

    As in PAX-Ray's original, the power applies to the part of the Dice only. The gradient of the power is infinite at
    a Dice of 1, so the Dice is limited to [1e-6, 1 - 1e-6].

    Args:
      soft_dice_loss: a scalar, of `overlap_loss`.
      cross_entropy: a scalar.

    Returns:
      A scalar, at least 0.

    Source: Wong et al. 2018, arXiv:1809.00076.
    """
    dice = jnp.clip(1 - soft_dice_loss, _LOWEST, _HIGHEST)
    return 0.8 * (-jnp.log(dice)) ** _EXPONENT + 0.2 * cross_entropy


def foreground_dice_loss(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the Dice loss of PAX-Ray's original for classes that exclude each other; class 0 is the background.

    It is `1 - (tp + s) / (sum p + sum t + s)` with s = 1e-8 and sums over the pixels and classes of an image together,
    without class 0 and without a factor 2: a perfect prediction has a loss of 0.5.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1 with one 1 per pixel, any dtype.

    Returns:
      A scalar in [0, 1].

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    Source: ConstantinSeibold/multilabel_segmentation_paxray.
    """
    probs, target = (x[..., 1:] for x in _probabilities(logits, target, exclusive=True))
    axes = (1, 2, 3)
    total = jnp.sum(probs, axes) + jnp.sum(target, axes)
    return jnp.mean(1 - (jnp.sum(probs * target, axes) + 1e-8) / (total + 1e-8))


def _probabilities(logits: jax.Array, target: jax.Array, *, exclusive: bool) -> tuple[jax.Array, jax.Array]:
    logits, target = matched(logits, target)
    return (jax.nn.softmax(logits) if exclusive else jax.nn.sigmoid(logits)), target
