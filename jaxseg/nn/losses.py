"""Training losses. Logits, probabilities and targets are (B, H, W, K); every loss is a float32 scalar."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

Parts = tuple[jax.Array, dict[str, jax.Array]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def image_by_image(loss: Callable[[jax.Array, jax.Array], Parts], maps: jax.Array, target: jax.Array) -> Parts:
    """Returns the mean loss of a batch, computed for one image after the other.

    The forward pass computes the gradient too, so that no map of the loss is kept for more than one image. A U-Net's
    logits of 159 classes are larger than all its other maps. With several devices the whole batch is computed at once,
    because they share its images. Only the total has a derivative, and only with respect to `maps`.

    Args:
      loss: (maps (1, ...), target (1, ...)) -> (total, its parts by name), which are means over images.
      maps: (B, ...), what the network computed.
      target: (B, ...).

    Returns:
      The total, and the parts without derivatives.
    """
    return jax.tree.map(jnp.mean, _for_images(loss, maps, target))


def _for_images(function: Callable, *arrays: jax.Array) -> tuple:
    """Returns what a function returns for each image; with several devices for the batch, as one item."""
    if jax.device_count() > 1:
        return jax.tree.map(lambda value: value[None], function(*arrays))
    return jax.lax.map(lambda one: function(*(array[None] for array in one)), arrays)


def _image_by_image_forward(loss: Callable, maps: jax.Array, target: jax.Array) -> tuple[Parts, tuple]:
    (total, parts), gradient = _for_images(jax.value_and_grad(loss, has_aux=True), maps, target)
    means = jax.tree.map(jnp.mean, (total, parts))
    return means, (gradient.reshape(maps.shape) / len(gradient), target)


def _image_by_image_backward(loss: Callable, kept: tuple, change: Parts) -> tuple:
    gradient, target = kept
    zero = jnp.zeros_like(target) if jnp.issubdtype(target.dtype, jnp.floating) else None
    return gradient * change[0], zero


image_by_image.defvjp(_image_by_image_forward, _image_by_image_backward)


def binary_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean binary cross-entropy of logits.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) in [0, 1], any dtype.

    Returns:
      A float32 scalar, at least 0; the mean over all images, pixels and classes.

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    >>> round(float(binary_cross_entropy(jnp.zeros((1, 2, 2, 1)), jnp.ones((1, 2, 2, 1)))), 4)
    0.6931
    """
    logits, target = matched(logits, target)
    return jnp.mean(jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits))))


def binary_dice_loss(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Returns PAX-Ray's Dice loss, which has no factor 2 and sums over the classes and pixels of an image together.

    It is `1 - (sum p t + 1) / (sum (p^2 + t^2) + 1)`, where p is the sigmoid of the logits, averaged over images. A
    perfect prediction has a loss of about 0.5.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1, any dtype.

    Returns:
      A float32 scalar in [0, 1].

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    Source: ConstantinSeibold/multilabel_segmentation_paxray.
    """
    logits, target = matched(logits, target)
    axes = (1, 2, 3)
    probs = jax.nn.sigmoid(logits)
    overlap = jnp.sum(probs * target, axes)
    return jnp.mean(1 - (overlap + 1) / (jnp.sum(probs**2 + target**2, axes) + 1))


def dice_loss(
    logits: jax.Array, target: jax.Array, *, exclusive: bool = False, weights: jax.Array | None = None
) -> jax.Array:
    """Returns one minus the soft Dice, averaged over images and classes; small classes weigh as much as large ones.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1, any dtype.
      exclusive: whether classes exclude each other: probabilities are then the softmax of the logits.
      weights: (K,) of the classes in the mean; None: all alike.

    Returns:
      A float32 scalar in [0, 1].

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    Source: Milletari et al. 2016 (V-Net), arXiv:1606.04797.
    """
    logits, target = matched(logits, target)
    probs = jax.nn.softmax(logits) if exclusive else jax.nn.sigmoid(logits)
    overlap = jnp.sum(probs * target, (1, 2))  # (B, K)
    return mean_of_classes(1 - (2 * overlap + 1) / (jnp.sum(probs**2 + target**2, (1, 2)) + 1), weights)


def probability_dice_loss(probs: jax.Array, target: jax.Array) -> jax.Array:
    """Returns Post-DAE's Dice loss of probabilities: one minus the mean Dice over images and channels.

    The Dice of an image and channel is `(2 sum p t + 1e-5) / (sum p + sum t + 1e-5)`. It is 1 for two equal masks, also
    if both are empty. The loss is symmetric in its arguments.

    Args:
      probs: (B, H, W, K) in [0, 1]; probabilities, not logits.
      target: (B, H, W, K) in [0, 1], any dtype.

    Returns:
      A float32 scalar in [0, 1].

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    Source: balazsborsos/dae_postprocessing.
    """
    probs, target = matched(probs, target)
    overlap = jnp.sum(probs * target, (1, 2))  # (B, K)
    total = jnp.sum(probs, (1, 2)) + jnp.sum(target, (1, 2))
    return 1 - jnp.mean((2 * overlap + 1e-5) / (total + 1e-5))


def mean_of_classes(values: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Returns the mean of values of images and classes, (B, K), over both.

    Args:
      values: (B, K).
      weights: (K,) of the classes; None: all alike.
    """
    return jnp.mean(values) if weights is None else jnp.mean(values @ weights) / jnp.sum(weights)


def matched(logits: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns logits and target as float32.

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).
    """
    if logits.shape != target.shape or logits.ndim != 4:
        raise ValueError(f"logits and target must both be (B, H, W, K), got {logits.shape} and {target.shape}")
    return logits.astype(jnp.float32), target.astype(jnp.float32)
