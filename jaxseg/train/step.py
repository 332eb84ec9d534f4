"""One optimisation step as a pure, jitted function of a state that is donated."""

import functools
from collections.abc import Callable

import jax
import optax
from flax import nnx


def make_step(model: nnx.Module, transform: optax.GradientTransformation, loss: Callable) -> tuple[Callable, nnx.State]:
    """Returns `(step, state)` for a model.

    Args:
      model: any model of the package; its batch norms learn their statistics, its dropout is active.
      transform: the optimizer.
      loss: (logits, target) -> scalar.

    Returns:
      `step(state, images, target, key) -> (state, loss)`; the given state is donated, use the returned one.
      `finish_step(model, state)` brings the state back into the model.
    """
    model = nnx.view(model, use_running_average=False, deterministic=False)
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    graphdef, state = nnx.split((model, optimizer))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state: nnx.State, images: jax.Array, target: jax.Array, key: jax.Array):
        model, optimizer = nnx.merge(graphdef, state)
        inner, params, rest = nnx.split(model, nnx.Param, ...)

        def objective(params, rest):
            model = nnx.merge(inner, params, jax.tree.map(lambda a: a, rest))  # fresh statistics at this trace level
            value = loss(model(images, rngs=nnx.Rngs(dropout=key)), target)
            return value, nnx.state(model, nnx.Not(nnx.Param))

        (value, rest), gradients = jax.value_and_grad(objective, has_aux=True)(params, rest)
        optimizer.update(model, gradients)
        nnx.update(model, rest)
        return nnx.state((model, optimizer)), value

    return step, jax.tree.map(lambda a: a.copy(), state)  # the model keeps its own arrays


def finish_step(model: nnx.Module, state: nnx.State) -> None:
    """Writes the parameters and statistics of a training state into `model`."""
    nnx.update(model, state[0])
