"""Losses of SegAE: how far a predicted Dice is from the true one, and whether pairs of masks are in the right order."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

# Weight of an example whose true Dice is at most the limit; of all others 1. Bad masks are rare, and count more.
LIMITS = (0.3, 0.5, 0.7, 0.9)
WEIGHTS = (7.0, 5.0, 3.0, 2.0, 1.0)

_ITSELF = 4.0  # cost of a mask as its own partner; above 3, so that no best assignment has one (cosines are in [-1, 1])


def weighted_mse(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Returns the mean squared error, weighted by the interval of the true Dice: 7 up to 0.3, ... 1 above 0.9.

    Args:
      prediction: (B,) predicted Dice.
      target: (B,) true Dice; compared with the limits in float32.

    Source: Schuture/Quality-Sentinel.
    """
    prediction, target = _matched(prediction, target)
    places = jnp.searchsorted(np.asarray(LIMITS, np.float32), target)  # a limit belongs to the interval below it
    return jnp.mean(jnp.asarray(WEIGHTS, jnp.float32)[places] * jnp.square(prediction - target))


def cosine_similarity(embeddings: jax.Array) -> jax.Array:
    """Returns the (B, B) cosines between the rows of (B, E) embeddings; 0 with a row of zeros."""
    embeddings = embeddings.astype(jnp.float32)
    norms = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    unit = embeddings / jnp.maximum(norms, 1e-12)
    return jnp.matmul(unit, unit.T, precision=jax.lax.Precision.HIGHEST)


def optimal_pairs(similarity: jax.Array) -> jax.Array:
    """Gives every mask of a batch another one as its partner, so that the partners' similarities sum to the most.

    The Hungarian algorithm, inside jit. Among assignments of the same sum (classes that repeat in the batch, and
    cycles of three or more, which have two directions) rounding decides.

    Args:
      similarity: (B, B) in [-1, 1], of `cosine_similarity`; its diagonal counts for nothing. No gradient flows back.

    Returns:
      (B,) int32: the partner of each, a permutation in which none is its own.

    Raises:
      ValueError: the batch has one mask only, so that there is no pair.

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

    `relu(margin - (p_i - p_j) (t_i - t_j))` with j the partner of i, averaged over the batch.

    Args:
      prediction: (B,) predicted Dice.
      target: (B,) true Dice.
      partner: (B,) whole numbers, of `optimal_pairs`.
      margin: what equal predictions cost.

    Source: Schuture/Quality-Sentinel.
    """
    prediction, target = _matched(prediction, target)
    agreement = (prediction - prediction[partner]) * (target - target[partner])
    return jnp.mean(jax.nn.relu(margin - agreement))


def _matched(prediction: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    if prediction.shape != target.shape or prediction.ndim != 1:
        raise ValueError(f"prediction and target must both be (B,), got {prediction.shape} and {target.shape}")
    return prediction.astype(jnp.float32), target.astype(jnp.float32)
