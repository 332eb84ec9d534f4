"""Optimizers and learning rates that compute the same as PyTorch's, in float32."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxseg.training.config.sections import OptimizerConfig, ScheduleConfig

_MOST = 2**31 - 1  # steps are counted in int32
_CLIP_EPSILON = 1e-6  # as torch.nn.utils.clip_grad_norm_


def learning_rate(
    optimizer: OptimizerConfig, schedule: ScheduleConfig, *, steps_per_epoch: int, epochs: int
) -> Callable[[jax.Array | int], jax.Array]:
    """Returns the function from the number of finished steps to the learning rate of the next one.

    With e of E epochs finished, base rate r and f = schedule.final, the rate is: step r gamma^(e // step_size);
    multistep r gamma^(number of milestones <= e); cosine f + (r - f) (1 + cos(pi e / E)) / 2; polynomial
    f + (r - f) (1 - e / E)^power. With per "step" the unit is a step instead of an epoch. During W epochs of warm-up
    the rate is multiplied by (e + 1) / (W + 1); cosine and polynomial start after them. After the last epoch the rate
    keeps its last value.

    Args:
      optimizer: gives the base rate.
      schedule: gives the shape.
      steps_per_epoch: optimizer steps per epoch, 1 or more.
      epochs: length of the whole training, 1 or more.

    Returns:
      Function of an int or an integer array of any shape, traced or not; float32 of the same shape.

    Raises:
      ValueError: a length is below 1, or the total number of steps exceeds int32.

    Source: torch.optim.lr_scheduler StepLR, MultiStepLR, CosineAnnealingLR, PolynomialLR in closed form.
    """
    if steps_per_epoch < 1 or epochs < 1 or steps_per_epoch * epochs > _MOST:
        raise ValueError(
            f"{epochs} epochs of {steps_per_epoch} steps: both must be 1 or more, their product below 2^31"
        )
    per_step = schedule.per == "step"
    every, scale = (1, steps_per_epoch) if per_step else (steps_per_epoch, 1)  # ticks: epochs or steps
    warm = schedule.warmup_epochs * scale
    length = max(epochs * scale - warm, 1)
    share = _SHARES[schedule.name](schedule, scale)
    top, final = optimizer.learning_rate, schedule.final

    def rate(step: jax.Array | int) -> jax.Array:
        tick = jnp.asarray(step).astype(jnp.int32) // every
        ticks = tick.astype(jnp.float32)
        progress = jnp.clip((ticks - warm) / length, 0.0, 1.0)
        ramp = jnp.minimum((ticks + 1.0) / (warm + 1.0), 1.0)
        return ramp * (final + (top - final) * share(tick, progress))

    return rate


def make_optimizer(
    optimizer: OptimizerConfig,
    schedule: ScheduleConfig,
    *,
    steps_per_epoch: int,
    epochs: int,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Returns the optimizer with its schedule; its state counts the steps, so it can be resumed.

    A step has PyTorch's order: all gradients together are clipped; coupled weight decay is added ("adam_l2", "sgd");
    the rule is applied; decoupled weight decay is added ("adamw"); the learning rate multiplies the result. A parameter
    is a bias if the last name of its path is `bias`. PyTorch skips parameters without a gradient; here the tree must
    not contain them.

    Args:
      optimizer: the rule and its numbers.
      schedule: schedule of the learning rate.
      steps_per_epoch: optimizer steps per epoch.
      epochs: length of the whole training.
      clip_norm: largest L2 norm of all gradients together; None: gradients are not clipped.

    Returns:
      A transformation of any tree of float32 parameters (nested dicts, nnx.State).

    Raises:
      ValueError: as `learning_rate`.
    """
    rate = learning_rate(optimizer, schedule, steps_per_epoch=steps_per_epoch, epochs=epochs)
    adam = scale_by_adam(optimizer.beta1, optimizer.beta2, optimizer.epsilon)
    decay = _weight_decay(optimizer.weight_decay, on_bias=optimizer.bias_weight_decay)
    rules = {
        "adam": [adam],
        "adamw": [adam, decay],
        "adam_l2": [decay, adam],
        "sgd": [decay, optax.trace(optimizer.momentum)] if optimizer.momentum else [decay],
    }
    parts = [] if clip_norm is None else [clip_by_norm(clip_norm)]
    parts += [*rules[optimizer.name], optax.scale_by_learning_rate(rate)]
    if optimizer.bias_learning_rate != 1:
        parts.append(_scale_bias(optimizer.bias_learning_rate))
    return optax.chain(*parts)


def scale_by_adam(beta1: float, beta2: float, epsilon: float) -> optax.GradientTransformation:
    """Returns Adam's rule, m / (sqrt(v) + epsilon) with m and v corrected for their start at 0.

    It is `optax.scale_by_adam` except for the correction 1 - beta^step, which optax computes from beta rounded to
    float32: in the first steps with beta2 0.999 its relative error is 1e-5.

    Args:
      beta1: decay of the mean of the gradients, in [0, 1).
      beta2: decay of the mean of their squares, in [0, 1).
      epsilon: added to the denominator.

    Source: torch.optim.Adam; Kingma and Ba 2015, arXiv:1412.6980.
    """

    def update(updates: Any, state: optax.ScaleByAdamState, params: Any = None) -> tuple:
        count = state.count + 1
        mu = jax.tree.map(lambda g, m: m + (1 - beta1) * (g - m), updates, state.mu)
        nu = jax.tree.map(lambda g, v: beta2 * v + (1 - beta2) * (g * g), updates, state.nu)
        first, second = _correction(beta1, count), _correction(beta2, count)
        updates = jax.tree.map(lambda m, v: (m / first) / (jnp.sqrt(v / second) + epsilon), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


def clip_by_norm(largest: float) -> optax.GradientTransformation:
    """Returns the transformation that multiplies all gradients by min(1, largest / (norm + 1e-6)).

    Unlike `optax.clip_by_global_norm` it scales by PyTorch's formula, 1e-6 included.

    Args:
      largest: L2 norm of all gradients together, above 0.

    Source: torch.nn.utils.clip_grad_norm_.
    """

    def clip(updates: Any, params: Any = None) -> Any:
        factor = jnp.minimum(largest / (optax.tree.norm(updates) + _CLIP_EPSILON), 1.0)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(clip)


def is_bias(path: tuple) -> bool:
    """Returns whether a key path of `jax.tree_util` ends in the name `bias`; nnx adds a `value` after it."""
    names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
    if len(path) > 1 and isinstance(path[-1], jax.tree_util.GetAttrKey) and names[-1] == "value":
        names.pop()
    return bool(names) and names[-1] == "bias"


def _correction(beta: float, count: jax.Array) -> jax.Array:
    """Returns 1 - beta^count."""
    return -jnp.expm1(count.astype(jnp.float32) * (math.log(beta) if beta else -math.inf))


def _weight_decay(amount: float, *, on_bias: bool) -> optax.GradientTransformation:
    def decay(updates: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, g, p: g + amount * p if on_bias or not is_bias(path) else g, updates, params
        )

    return optax.stateless(decay) if amount else optax.identity()


def _scale_bias(factor: float) -> optax.GradientTransformation:
    def scale(updates: Any, params: Any = None) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, g: g * factor if is_bias(path) else g, updates)

    return optax.stateless(scale)


def _constant(schedule: ScheduleConfig, scale: int) -> Callable:
    return lambda tick, progress: jnp.ones_like(progress)


def _step(schedule: ScheduleConfig, scale: int) -> Callable:
    size = min(schedule.step_size * scale, _MOST)
    return lambda tick, progress: jnp.power(jnp.float32(schedule.gamma), (tick // size).astype(jnp.float32))


def _multistep(schedule: ScheduleConfig, scale: int) -> Callable:
    milestones = np.asarray([min(m * scale, _MOST) for m in schedule.milestones], np.int32)
    shares = (schedule.gamma ** np.arange(len(milestones) + 1)).astype(np.float32)
    return lambda tick, progress: jnp.asarray(shares)[jnp.searchsorted(milestones, tick, side="right")]


def _cosine(schedule: ScheduleConfig, scale: int) -> Callable:
    return lambda tick, progress: 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def _polynomial(schedule: ScheduleConfig, scale: int) -> Callable:
    return lambda tick, progress: (1.0 - progress) ** schedule.power


_SHARES = {  # name -> (schedule, ticks per epoch) -> (tick, progress) -> share of the learning rate
    "constant": _constant,
    "step": _step,
    "multistep": _multistep,
    "cosine": _cosine,
    "polynomial": _polynomial,
}
