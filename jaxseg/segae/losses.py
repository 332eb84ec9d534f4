"""Losses of SegAE: the error of the predicted Dice, and the order of pairs of masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Weights of examples whose true Dice is at most the limit, and last that of all others. Bad masks are rare.
LIMITS = (0.3, 0.5, 0.7, 0.9)
WEIGHTS = (7.0, 5.0, 3.0, 2.0, 1.0)

_ITSELF = 4.0  # cost of a mask as its own partner; above 3, so no optimal assignment has one (cosines are in [-1, 1])


def weighted_mse(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean squared error, weighted by the interval of the true Dice.

    The weights are 7 up to 0.3, 5 up to 0.5, 3 up to 0.7, 2 up to 0.9, and 1 above.

    Args:
      prediction: (B,) predicted Dice.
      target: (B,) true Dice in [0, 1]; it is compared with the limits in float32.

    Returns:
      A float32 scalar.

    Raises:
      ValueError: the shapes differ or are not (B,).

    Example:
      >>> round(float(weighted_mse(jnp.array([0.5, 0.5]), jnp.array([0.25, 1.0]))), 4)
      0.3438

    Source: Schuture/Quality-Sentinel.
    """
    prediction, target = _matched(prediction, target)
    places = jnp.searchsorted(np.asarray(LIMITS, np.float32), target)  # a limit belongs to the interval below it
    return jnp.mean(jnp.asarray(WEIGHTS, jnp.float32)[places] * jnp.square(prediction - target))


def cosine_similarity(embeddings: jax.Array) -> jax.Array:
    """Returns the cosines between the rows of (B, E) embeddings, (B, B) float32; 0 for a row of zeros."""
    embeddings = embeddings.astype(jnp.float32)
    norms = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    unit = embeddings / jnp.maximum(norms, 1e-12)
    return jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)


def optimal_pairs(similarity: jax.Array) -> jax.Array:
    """Assigns every mask of a batch another mask as its partner, so that the sum of their similarities is largest.

    This is the Hungarian algorithm; it works inside jit. If several assignments have the same sum (classes that repeat
    in the batch, and cycles of three or more masks, which have two directions), rounding decides.

    Args:
      similarity: (B, B) in [-1, 1], as `cosine_similarity` returns it. The diagonal is ignored, and no gradient flows
        back.

    Returns:
      (B,) int32: the partner of each mask, a permutation in which no mask is its own partner.

    Raises:
      ValueError: the batch has only one mask, or the shape is not (B, B).

    Example:
      >>> optimal_pairs(jnp.array([[1.0, 0.9, 0, 0], [0.9, 1, 0, 0], [0, 0, 1, 0.9], [0, 0, 0.9, 1]])).tolist()
      [1, 0, 3, 2]

    Source: Schuture/Quality-Sentinel; Kuhn 1955, doi 10.1002/nav.3800020109.
    """
    count = similarity.shape[0]
    if similarity.shape != (count, count):
        raise ValueError(f"similarities must be (B, B), got {similarity.shape}")
    if count < 2:
        raise ValueError(
            f"a batch of {count} has no pairs to rank: use a batch size of 2 or more, also for the last batch of an "
            "epoch, or leave the ranking loss out"
        )
    similarity = jax.lax.stop_gradient(similarity.astype(jnp.float32))
    cost = jnp.where(np.eye(count, dtype=bool), _ITSELF, -similarity)
    rows, partners = optax.assignment.hungarian_algorithm(cost)
    return jnp.zeros(count, jnp.int32).at[rows].set(partners.astype(jnp.int32))


def ranking_loss(prediction: jax.Array, target: jax.Array, partner: jax.Array, *, margin: float = 1e-4) -> jax.Array:
    """Returns how much the predictions of pairs contradict the order of their true Dice.

    It is the mean over the batch of `relu(margin - (p_i - p_j) (t_i - t_j))`, in which j is the partner of i.

    Args:
      prediction: (B,) predicted Dice.
      target: (B,) true Dice.
      partner: (B,) integers, as `optimal_pairs` returns them.
      margin: loss of a pair with equal predictions.

    Returns:
      A float32 scalar.

    Raises:
      ValueError: the shapes differ or are not (B,).

    Source: Schuture/Quality-Sentinel.
    """
    prediction, target = _matched(prediction, target)
    agreement = (prediction - prediction[partner]) * (target - target[partner])
    return jnp.mean(jax.nn.relu(margin - agreement))


def _matched(prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    if prediction.shape != target.shape or prediction.ndim != 1:
        raise ValueError(f"prediction and target must both be (B,), got {prediction.shape} and {target.shape}")
    return prediction.astype(jnp.float32), target.astype(jnp.float32)
