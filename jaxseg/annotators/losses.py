"""Losses for learning from annotators who disagree, and the random choices that training makes.

The losses are those of the confusion-matrix VAE and of the probabilistic U-Net. Logits are (B, H, W, K). Confusion
matrices are (B, H, W, K, K): the last axis is the true class, the axis before it the annotated class. Latent vectors
are (B, Z). All losses are float32.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.nn.losses import binary_cross_entropy

SCHEDULES = ("anneal", "cyclic", "constant")
NORMALISATIONS = ("softmax", "sum")
PER = ("sample", "batch")
_CYCLES, _RISING = 5, 0.5  # number of cycles in a training, share of each cycle in which the factor rises


def kl_schedule(kind: str, num_epochs: int, *, ramp_up: float = 0.3) -> np.ndarray:
    """Returns the factor of the KL term for every epoch.

    Args:
      kind: "anneal": rises linearly from 0 and is 1 from epoch `int(num_epochs * ramp_up)` on. "cyclic": in each of
        five equal cycles it rises from 0 to 1 in the first half and stays at 1 in the second; with five epochs or fewer
        it is always 0, as in the original. "constant": always 1.
      num_epochs: number of epochs of the training.
      ramp_up: share of the epochs in which "anneal" rises, in [0, 1].

    Returns:
      (num_epochs,) float32 in [0, 1].

    Raises:
      ValueError: the kind is unknown, or a number is out of range.

    Source: rCampSemp/learn-vae-noisy-label, which anneals for every setting. Cycles: Fu et al. 2019, arXiv:1903.10145.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"unknown KL schedule {kind!r}; known: {', '.join(SCHEDULES)}")
    if num_epochs < 1 or not 0 <= ramp_up <= 1:
        raise ValueError(f"num_epochs must be at least 1 and ramp_up in [0, 1], got {num_epochs} and {ramp_up}")
    factors = np.ones(num_epochs)
    if kind == "anneal":
        rising = int(num_epochs * ramp_up)
        factors[:rising] = np.arange(rising) / max(rising, 1)
    elif kind == "cyclic":
        period = num_epochs / _CYCLES
        values = np.arange(0, 1 + 1e-9, 1 / (period * _RISING))
        for cycle in range(_CYCLES):
            for i, value in enumerate(values):
                if int(i + cycle * period) < num_epochs:
                    factors[int(i + cycle * period)] = value
    return factors.astype(np.float32)


def normalised_matrices(matrices: jax.Array, how: str = "softmax", *, axis: int = -2) -> jax.Array:
    """Returns confusion matrices whose columns sum to one: how often each true class is annotated as each class.

    Args:
      matrices: (..., K, K), not negative; with another axis the classes may be anywhere.
      how: "softmax" over the annotated classes, as in the original; "sum" divides each column by its sum, as in two
        scripts of the original that stop with an error.
      axis: of the annotated classes.

    Returns:
      Matrices of the same shape.

    Raises:
      ValueError: `how` is unknown.
    """
    if how == "softmax":
        return jax.nn.softmax(matrices, axis=axis)
    if how == "sum":
        return matrices / jnp.maximum(matrices.sum(axis, keepdims=True), jnp.finfo(matrices.dtype).tiny)
    raise ValueError(f"unknown normalisation {how!r}; known: {', '.join(NORMALISATIONS)}")


def noisy_logits(logits: jax.Array, matrices: jax.Array) -> jax.Array:
    """Returns the logits of what annotators would draw: at every pixel, the confusion matrix times the logits.

    Args:
      logits: (..., K) of the clean segmentation. They are logits and not probabilities, as in the original.
      matrices: (..., K, K), normalised.

    Returns:
      (..., K) logits.
    """
    # A sum of products compiles to one fused loop; a batched product of many tiny matrices does not.
    return (matrices * jnp.expand_dims(logits, -2)).sum(-1)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of logits (..., K) and class indices (...) of any dtype."""
    if logits.shape[:-1] != labels.shape:
        raise ValueError(f"logits must be (..., K) and labels (...), got {logits.shape} and {labels.shape}")
    return _cross_entropy_of_shares(
        logits, jax.nn.one_hot(labels.astype(jnp.int32), logits.shape[-1], dtype=logits.dtype)
    )


def _cross_entropy_of_shares(logits: jax.Array, shares: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of logits (..., K) and the shares of the classes (..., K), whose sum is 1."""
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - (shares * logits).sum(-1))


def kl_to_standard_normal(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Returns the KL divergence of diagonal Gaussians (B, Z) from the standard normal: sum over Z, mean over B."""
    return -0.5 * jnp.mean(jnp.sum(1 + log_variance - mean**2 - jnp.exp(log_variance), axis=-1))


def confusion_vae_loss(
    logits: jax.Array,
    matrices: jax.Array,
    mean: jax.Array,
    log_variance: jax.Array,
    labels: jax.Array,
    *,
    kl_weight: float | jax.Array,
    kl_twice: bool = True,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of the confusion-matrix VAE and its parts.

    Args:
      logits: (B, H, W, K) of the clean segmentation.
      matrices: (B, H, W, K, K), the output of the network; this function normalises them by softmax.
      mean, log_variance: (B, Z) parameters of the latent vector's distribution.
      labels: (B, H, W) class indices of one annotator, any dtype.
      kl_weight: the epoch's factor (`kl_schedule`) times beta.
      kl_twice: count the KL term twice. The original adds it in its loss and again in its training loop.

    Returns:
      The loss (a scalar) and a dict of its parts: "reconstruction" (cross-entropy of the noisy logits and the labels),
      "segmentation" (of the clean logits and the labels), "pseudo_label" (of the noisy logits and the clean
      segmentation) and "kl" (weighted, counted once).

    Source: rCampSemp/learn-vae-noisy-label.
    """
    noisy = noisy_logits(logits, normalised_matrices(matrices))
    parts = {
        "reconstruction": cross_entropy(noisy, labels),
        "segmentation": cross_entropy(logits, labels),
        "pseudo_label": cross_entropy(noisy, jnp.argmax(logits, axis=-1)),
        "kl": kl_weight * kl_to_standard_normal(mean, log_variance),
    }
    return sum(parts.values()) + (parts["kl"] if kl_twice else 0.0), parts


def image_confusion_loss(
    logits: jax.Array,
    matrices: jax.Array,
    posterior: tuple[jax.Array, jax.Array],
    prior: tuple[jax.Array, jax.Array],
    labels: jax.Array,
    shares: jax.Array,
    *,
    kl_weight: float | jax.Array,
    free_nats: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of confusion matrices that depend on image and latent vector, and its parts.

    Args:
      logits: (B, H, W, K) of the clean segmentation.
      matrices: (B, H, W, K, K), normalised, for latent vectors of the posterior.
      posterior, prior: means and logarithms of the standard deviations, each (B, Z); the posterior knows the labels.
      labels: (B, H, W) class indices of one annotator, any dtype.
      shares: (B, H, W, K) share of all annotators of the image who drew each class, see `annotator_shares`.
      kl_weight: weight of the KL divergence.
      free_nats: the KL divergence of an example in nats below which it costs nothing, so that the latent vector keeps
        some information. Kingma et al. 2016, arXiv:1606.04934, whose bound is for means over the batch of groups of
        latent numbers.

    Returns:
      The loss (a scalar) and a dict of its parts: "reconstruction" (cross-entropy of the annotator's probabilities and
      the labels), "segmentation" (of the clean logits and the shares) and "kl" (weighted). The reconstruction does not
      change the clean logits through the product, so that they stay the segmentation on which annotators agree.
    """
    probabilities = noisy_logits(jax.lax.stop_gradient(jax.nn.softmax(logits)), matrices)
    tiny = jnp.finfo(probabilities.dtype).tiny
    parts = {
        "reconstruction": cross_entropy(jnp.log(jnp.maximum(probabilities, tiny)), labels),
        "segmentation": _cross_entropy_of_shares(logits, shares),
        "kl": kl_weight * jnp.mean(jnp.maximum(gaussian_kl(*posterior, *prior), free_nats)),
    }
    return sum(parts.values()), parts


def named_annotators_loss(
    logits: jax.Array,
    matrices: jax.Array,
    labels: jax.Array,
    *,
    trace_weight: float | jax.Array,
    softmax_twice: bool = True,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the trace-regularised loss of one confusion matrix per named annotator, and its parts.

    Args:
      logits: (B, H, W, K) of the clean segmentation.
      matrices: (B, H, W, A, K, K), the output of the network; this function divides them by their sums.
      labels: (B, H, W, A) class indices of all annotators, any dtype.
      trace_weight: weight of the matrices' mean trace. A positive weight makes annotators as unreliable as their labels
        allow; a negative one makes them reliable.
      softmax_twice: take the cross-entropy of the softmax of the annotators' probabilities, as the original does;
        False: of the probabilities, as published.

    Returns:
      The loss (a scalar) and a dict of its parts: "reconstruction", the sum of the annotators' cross-entropies, and
      "trace" (weighted, the sum over annotators).

    Source: Zhang et al. 2020, arXiv:2007.15963, as in rCampSemp/learn-vae-noisy-label.
    """
    matrices = normalised_matrices(matrices, "sum")
    probabilities = noisy_logits(jax.nn.softmax(logits)[..., None, :], matrices)  # (B, H, W, A, K)
    tiny = jnp.finfo(probabilities.dtype).tiny
    scores = probabilities if softmax_twice else jnp.log(jnp.maximum(probabilities, tiny))
    traces = jnp.trace(matrices, axis1=-2, axis2=-1)
    parts = {
        "reconstruction": labels.shape[-1] * cross_entropy(scores, labels),
        "trace": trace_weight * traces.mean((0, 1, 2)).sum(),
    }
    return sum(parts.values()), parts


def gaussian_kl(mean: jax.Array, log_sigma: jax.Array, other_mean: jax.Array, other_log_sigma: jax.Array) -> jax.Array:
    """Returns the (B,) KL divergences of diagonal Gaussians (B, Z) from other ones; sigma is the standard deviation."""
    ratio = jnp.exp(2 * (log_sigma - other_log_sigma))
    distance = ((mean - other_mean) * jnp.exp(-other_log_sigma)) ** 2
    return 0.5 * jnp.sum(ratio + distance - 1 - 2 * (log_sigma - other_log_sigma), axis=-1)


def gaussian_log_prob(z: jax.Array, mean: jax.Array, log_sigma: jax.Array) -> jax.Array:
    """Returns the (B,) log densities of diagonal Gaussians (B, Z) at `z` (B, Z)."""
    scaled = (z - mean) * jnp.exp(-log_sigma)
    return -jnp.sum(0.5 * scaled**2 + log_sigma + 0.5 * np.float32(np.log(2 * np.pi)), axis=-1)


def negative_elbo(
    logits: jax.Array,
    target: jax.Array,
    posterior: tuple[jax.Array, jax.Array],
    prior: tuple[jax.Array, jax.Array],
    *,
    beta: float | jax.Array,
    z: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss of the probabilistic U-Net, the negative evidence lower bound, and its parts.

    Args:
      logits: (B, H, W, K) of the reconstruction.
      target: (B, H, W, K) masks of one annotator, values 0 and 1, any dtype.
      posterior, prior: means and log standard deviations, each (B, Z).
      beta: weight of the KL divergence.
      z: (B, Z) samples of the posterior, at which the KL divergence is estimated. None computes it exactly.

    Returns:
      The loss (a scalar) and a dict of its parts: "reconstruction" (binary cross-entropy; the mean over pixels, as in
      the original, not the published sum) and "kl" (mean over the batch, weighted).

    Source: Kohl et al. 2018, arXiv:1806.05034, as in rCampSemp/learn-vae-noisy-label.
    """
    if z is None:
        divergence = gaussian_kl(*posterior, *prior)
    else:
        divergence = gaussian_log_prob(z, *posterior) - gaussian_log_prob(z, *prior)
    parts = {"reconstruction": binary_cross_entropy(logits, target), "kl": beta * jnp.mean(divergence)}
    return sum(parts.values()), parts


def sum_of_norms(arrays: Iterable[jax.Array]) -> jax.Array:
    """Returns the sum of the L2 norms of arrays. The original regularises with the norms, not with their squares.

    The gradient at an array of zeros, such as a new bias, is zero as in PyTorch.
    """
    squares = [jnp.sum(array.astype(jnp.float32) ** 2) for array in arrays]
    positive = [square > 0 for square in squares]
    # The inner `where` keeps the infinite slope of the square root out of the gradient.
    roots = [
        jnp.where(p, jnp.sqrt(jnp.where(p, square, 1.0)), 0.0) for p, square in zip(positive, squares, strict=True)
    ]
    return sum(roots, jnp.zeros((), jnp.float32))


def annotator_shares(labels: jax.Array, present: jax.Array, num_classes: int) -> jax.Array:
    """Returns the share of an example's annotators who drew each class, (B, H, W, K).

    Args:
      labels: (B, H, W, A) masks of any dtype; masks of absent annotators are ignored.
      present: (B, A) bool; every example needs at least one annotator.
      num_classes: K.
    """
    weights = present.astype(jnp.float32)
    weights = weights / weights.sum(-1, keepdims=True)
    drawn = jax.nn.one_hot(labels.astype(jnp.int32), num_classes)  # (B, H, W, A, K)
    return (drawn * weights[:, None, None, :, None]).sum(-2)


def draw_annotator(key: jax.Array, labels: jax.Array, present: jax.Array, *, per: str = "sample") -> jax.Array:
    """Samples one annotator per example and returns that annotator's mask.

    Args:
      key: PRNG key.
      labels: (B, H, W, A) masks of any dtype; masks of absent annotators are ignored.
      present: (B, A) bool; every example needs at least one annotator.
      per: "sample": every example samples independently, uniformly among its annotators. "batch": as in the original,
        one annotator index is sampled for the whole batch. An example without that annotator samples one of those that
        it has, which corresponds to the original's padding with repeated annotators.

    Returns:
      (B, H, W) masks with the dtype of `labels`.

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
    """Returns (count, length) standard normal numbers; row i depends only on `jax.random.split(key, count)[i]`."""
    return jax.vmap(lambda key: jax.random.normal(key, (length,)))(jax.random.split(key, count))
