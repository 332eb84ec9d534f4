"""Losses. Logits, probabilities and targets are (B, H, W, K); every loss is a float32 scalar."""

import jax
import jax.numpy as jnp


def binary_cross_entropy(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean binary cross-entropy of logits.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1, any dtype.
    """
    logits, target = _matched(logits, target)
    return jnp.mean(jnp.maximum(logits, 0) - logits * target + jnp.log1p(jnp.exp(-jnp.abs(logits))))


def binary_dice_loss(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Returns PAX-Ray's Dice loss: no factor 2, classes and pixels of an image together.

    `1 - (sum p t + 1) / (sum (p^2 + t^2) + 1)` with p the sigmoid of the logits, averaged over images. A perfect
    prediction scores about 0.5.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1, any dtype.

    Source: ConstantinSeibold/multilabel_segmentation_paxray.
    """
    logits, target = _matched(logits, target)
    axes = (1, 2, 3)
    probs = jax.nn.sigmoid(logits)
    overlap = jnp.sum(probs * target, axes)
    return jnp.mean(1 - (overlap + 1) / (jnp.sum(probs**2 + target**2, axes) + 1))


def dice_loss(logits: jax.Array, target: jax.Array) -> jax.Array:
    """Returns one minus the soft Dice of every image and class, averaged, so that small classes count like large ones.

    Args:
      logits: (B, H, W, K).
      target: (B, H, W, K) of 0 and 1, any dtype.

    Source: Milletari et al. 2016 (V-Net), arXiv:1606.04797.
    """
    logits, target = _matched(logits, target)
    probs = jax.nn.sigmoid(logits)
    overlap = jnp.sum(probs * target, (1, 2))  # (B, K)
    return jnp.mean(1 - (2 * overlap + 1) / (jnp.sum(probs**2 + target**2, (1, 2)) + 1))


def probability_dice_loss(probs: jax.Array, target: jax.Array) -> jax.Array:
    """Returns Post-DAE's Dice loss, of probabilities and not of logits: one minus the mean over images and channels.

    The Dice of each is `(2 sum p t + 1e-5) / (sum p + sum t + 1e-5)`, so a perfect one of masks is 1, of empty ones
    too. Exchanging the two arguments changes nothing.

    Args:
      probs: (B, H, W, K) in [0, 1].
      target: (B, H, W, K) in [0, 1], any dtype.

    Source: balazsborsos/dae_postprocessing.
    """
    probs, target = _matched(probs, target)
    overlap = jnp.sum(probs * target, (1, 2))  # (B, K)
    total = jnp.sum(probs, (1, 2)) + jnp.sum(target, (1, 2))
    return 1 - jnp.mean((2 * overlap + 1e-5) / (total + 1e-5))


def _matched(logits: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    if logits.shape != target.shape or logits.ndim != 4:
        raise ValueError(f"logits and target must both be (B, H, W, K), got {logits.shape} and {target.shape}")
    return logits.astype(jnp.float32), target.astype(jnp.float32)
