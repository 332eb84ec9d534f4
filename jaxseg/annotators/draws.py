"""Which annotator's mask a sample is trained on, drawn on the device. Pure functions of a batch and a key."""

import jax
import jax.numpy as jnp

PER = ("sample", "batch")


def draw_annotator(key: jax.Array, labels: jax.Array, present: jax.Array, *, per: str = "sample") -> jax.Array:
    """Returns for every sample the mask of one of its own annotators.

    Args:
      key: of the draw.
      labels: (B, H, W, A) masks, any type; where an annotator is absent the mask counts for nothing.
      present: (B, A) bool, at least one annotator a sample.
      per: "sample": every sample draws for itself, each of its annotators equally often. "batch": as the original, one
        place is drawn for the whole batch; a sample without an annotator there draws one of its own instead, as the
        original's padding with repeats does.

    Returns:
      (B, H, W) masks of the type of `labels`.

    Raises:
      ValueError: the shapes do not fit, or `per` is unknown.

    Source: rCampSemp/learn-vae-noisy-label.
    """
    if labels.ndim != 4 or present.shape != (labels.shape[0], labels.shape[3]):
        raise ValueError(f"labels must be (B, H, W, A) and present (B, A), got {labels.shape} and {present.shape}")
    if per not in PER:
        raise ValueError(f"per is {per!r}; known: {', '.join(PER)}")
    labels, present = jnp.asarray(labels), jnp.asarray(present)
    for_batch, for_samples = jax.random.split(key)
    own = jax.random.categorical(for_samples, jnp.where(present, 0.0, -jnp.inf), axis=-1)  # (B,)
    if per == "batch":
        place = jax.random.randint(for_batch, (), 0, present.shape[1], own.dtype)
        own = jnp.where(present[:, place], place, own)
    return jnp.take_along_axis(labels, own[:, None, None, None], axis=3)[..., 0]


def sample_noise(key: jax.Array, count: int, length: int) -> jax.Array:
    """Returns (count, length) standard normal numbers; row i hangs on `jax.random.split(key, count)[i]` alone."""
    return jax.vmap(lambda key: jax.random.normal(key, (length,)))(jax.random.split(key, count))
