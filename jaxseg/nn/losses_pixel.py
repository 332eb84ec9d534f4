"""Losses of single pixels with weights, for independent classes and for classes that exclude each other.

Logits and targets are (B, H, W, K). With `exclusive`, the probabilities of a pixel are the softmax of its logits, and
its target has a 1 for exactly one class; otherwise each class has its sigmoid.
"""

import jax
import jax.numpy as jnp
import optax

from jaxseg.nn.losses import matched


def cross_entropy(
    logits: jax.Array, target: jax.Array, *, exclusive: bool = False, weights: jax.Array | None = None
) -> jax.Array:
    """Returns the mean cross-entropy of the pixels.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1, any dtype.
      exclusive: whether classes exclude each other.
      weights: of `class_weights` or `balancing_weights`, which the values of the pixels are multiplied by; None: 1.

    Returns:
      A float32 scalar, at least 0.

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).
    """
    logits, target = matched(logits, target)
    if exclusive:
        return _weighted(_of_label(jax.nn.log_softmax(logits), target), target, weights)
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, target) * (1.0 if weights is None else weights))


def focal_loss(
    logits: jax.Array, target: jax.Array, *, exclusive: bool = False, weights: jax.Array | None = None
) -> jax.Array:
    """Returns the mean focal loss of the pixels: cross-entropy times the square of one minus the probability.

    For independent classes, pixels of a class weigh 0.25 and the others 0.75, as in torchvision.

    Args:
      logits, target, exclusive, weights: as `cross_entropy` takes them.

    Returns:
      A float32 scalar, at least 0.

    Raises:
      ValueError: the shapes differ or are not (B, H, W, K).

    Source: Lin et al. 2017, arXiv:1708.02002.
    """
    logits, target = matched(logits, target)
    if exclusive:
        logs = _of_label(jax.nn.log_softmax(logits), target)
        return _weighted(jnp.square(1 - jnp.exp(logs)) * logs, target, weights)
    values = optax.sigmoid_focal_loss(logits, target, alpha=0.25, gamma=2.0)
    return jnp.mean(values * (1.0 if weights is None else weights))


def balancing_weights(target: jax.Array, *, exclusive: bool = False) -> jax.Array:
    """Returns weights with which rare pixels count more: the square root of all pixels over those of the same label.

    An image of N pixels, n of which have the label of a pixel, gives it the weight `sqrt(N / (n + 1))`. For independent
    classes, the labels of each class are inside and outside.

    Args:
      target: (B, H, W, K) of 0 and 1.
      exclusive: whether classes exclude each other.

    Returns:
      (B, H, W, K) float32. With `exclusive`, only those of the label of a pixel count.

    Source: `--class_weight` of ConstantinSeibold/multilabel_segmentation_paxray.
    """
    target = target.astype(jnp.float32)
    pixels = target.shape[1] * target.shape[2]
    inside = jnp.sum(target, (1, 2), keepdims=True)
    weights = jnp.sqrt(pixels / (inside + 1))
    if exclusive:
        return jnp.broadcast_to(weights, target.shape)
    return jnp.where(target > 0, weights, jnp.sqrt(pixels / (pixels - inside + 1)))


def _of_label(logs: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the logarithm of the probability of each pixel's label, (B, H, W)."""
    return jnp.sum(logs * target, -1)


def _weighted(logs: jax.Array, target: jax.Array, weights: jax.Array | None) -> jax.Array:
    return -jnp.mean(logs if weights is None else logs * jnp.sum(target * weights, -1))
