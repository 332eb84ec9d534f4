"""The training of a model as pure functions of a state, a pytree of plain dictionaries that checkpoints also store.

The state holds "params" and "stats" (batch statistics) of the model, "optimizer", "step" (int32), "key" (uint32, for
random numbers), and "average" if an exponential moving average of the parameters is kept.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxseg.nn.views import over_devices, recomputing

AXIS = "data"  # name of the axis of devices that share a batch under pmap

State = dict


@dataclasses.dataclass(frozen=True)
class Learner:
    """The functions and settings with which a model is trained; holds no arrays.

    Attributes:
      graphdef: graphdef of the model in training mode.
      evaluating: graphdef of the same model in evaluation mode.
      transform: the optimizer.
      loss: (model, batch, key, step) -> (mean loss of the batch, {name: scalar}); step is the int32 number of steps
        taken before.
      accumulate: number of parts of a batch that are computed one after the other; their gradients are averaged.
      ema: decay of the moving average of the parameters, which is used to evaluate the model; Adam's bias correction is
        applied to it. None: no average.
      axis: name of the device axis under pmap; None under jit, where the step sees the whole batch.
    """

    graphdef: nnx.GraphDef
    evaluating: nnx.GraphDef
    transform: optax.GradientTransformation
    loss: Callable
    accumulate: int = 1
    ema: float | None = None
    axis: str | None = None

    def step(self, state: State, batch: dict[str, jax.Array]) -> tuple[State, dict[str, jax.Array]]:
        """Takes one optimisation step.

        Args:
          state: result of `initial_state` or of the previous step.
          batch: arrays with the examples along their first axis.

        Returns:
          The next state, and the loss, its parts and the norm of the gradients before the optimizer clips them.
        """
        key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])
        if self.axis is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(self.axis))
        gradients, metrics, stats = self._gradients(state, batch, key)
        if self.axis is not None:
            gradients, metrics, stats = jax.lax.pmean((gradients, metrics, stats), self.axis)
        updates, optimizer = self.transform.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        new = state | {"params": params, "stats": stats, "optimizer": optimizer, "step": state["step"] + 1}
        if self.ema is not None:
            # Adam's bias correction: the random initial parameters have no weight.
            share = (1 - self.ema) / (1 - jnp.float32(self.ema) ** new["step"].astype(jnp.float32))
            new["average"] = optax.incremental_update(params, state["average"], jnp.minimum(share, 1))
        return new, metrics | {"gradient_norm": optax.tree.norm(gradients)}

    def trained(self, state: State) -> nnx.Module:
        """Returns the model of a state in evaluation mode, with the averaged parameters if they are kept."""
        return nnx.merge(self.evaluating, _joined(state.get("average", state["params"]), state["stats"]))

    def _gradients(self, state, batch, key):
        """Returns the mean gradients and metrics over the parts of a batch, and the statistics after the last part."""
        params, stats, step = state["params"], state["stats"], state["step"]
        if self.accumulate == 1:
            return self._part(params, stats, step, batch, key)
        # Strided parts: each device's share of a sharded batch is split, so no example moves to another device.
        parts = jax.tree.map(lambda x: x.reshape(-1, self.accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
        keys = jax.random.split(key, self.accumulate)

        def add(carry, part):
            total, stats = carry
            gradients, metrics, stats = self._part(params, stats, step, *part)
            return (jax.tree.map(jnp.add, total, gradients), stats), metrics

        zeros = jax.tree.map(jnp.zeros_like, params)
        (total, stats), metrics = jax.lax.scan(add, (zeros, stats), (parts, keys))
        mean = jax.tree.map(lambda x: x / self.accumulate, total)
        return mean, jax.tree.map(lambda x: x.mean(axis=0), metrics), stats

    def _part(self, params, stats, step, batch, key):
        def objective(params):
            model = nnx.merge(self.graphdef, _joined(params, stats))
            value, metrics = self.loss(model, batch, key, step)
            return value, ({"loss": value} | metrics, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param))))

        (_, (metrics, stats)), gradients = jax.value_and_grad(objective, has_aux=True)(params)
        return gradients, metrics, stats


def make_learner(
    model: nnx.Module,
    transform: optax.GradientTransformation,
    loss: Callable,
    *,
    axis: str | None = None,
    batch_norm: str = "global",
    remat: bool = False,
    **options,
) -> Learner:
    """Returns the Learner of a model.

    Args:
      model: any model of the package.
      transform: the optimizer.
      loss: (model in training mode, batch, key, step) -> (mean loss of the batch, {name: scalar}).
      axis: name of the device axis under pmap.
      batch_norm: under pmap, "global" computes statistics over all devices, as jit does; "replica" computes them on
        each device, as PyTorch's DataParallel does.
      remat: whether the backward pass recomputes activations instead of storing them: slower, with less memory.
      **options: `accumulate` and `ema` of Learner.

    Raises:
      ValueError: statistics of each replica were requested without replicas; or `remat` for a model that has no part
        for it.
    """
    if batch_norm == "replica" and axis is None:
        raise ValueError("trainer.batch_norm: 'replica' needs trainer.parallel: pmap; jit sees the whole batch")
    modes = {"raise_if_not_found": False}  # a model may have no batch norm, or no dropout
    training = nnx.view(model, use_running_average=False, deterministic=False, **modes)
    if axis is not None and batch_norm == "global":
        training = over_devices(training, axis)
    if remat:
        training = recomputing(training)
    evaluating = nnx.view(model, use_running_average=True, deterministic=True, **modes)
    return Learner(nnx.graphdef(training), nnx.graphdef(evaluating), transform, loss, axis=axis, **options)


def initial_state(learner: Learner, model: nnx.Module, *, seed: int) -> State:
    """Returns the state at step 0, with copies of the model's arrays."""
    return _state_of(learner, seed, *jax.tree.map(jnp.copy, _arrays(model)))


def state_shapes(learner: Learner, model: nnx.Module) -> State:
    """Returns the shapes and dtypes of a state (`jax.ShapeDtypeStruct`); the model may be empty, see `empty`."""
    return jax.eval_shape(functools.partial(_state_of, learner, 0), *_arrays(model))


def empty(model: nnx.Module) -> None:
    """Frees the arrays of a model that only its state needs from now on; their shapes and dtypes remain."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nnx.state(model))
    nnx.update(model, shapes)


def _arrays(model: nnx.Module) -> tuple[dict, dict]:
    """Returns the parameters of a model, and all its other arrays."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param)), nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))


def _state_of(learner: Learner, seed: int, params: dict, stats: dict) -> State:
    state = {"params": params, "stats": stats, "optimizer": learner.transform.init(params)}
    state |= {"step": jnp.zeros((), jnp.int32), "key": jax.random.key_data(jax.random.key(seed))}
    return state | ({"average": jax.tree.map(jnp.copy, params)} if learner.ema is not None else {})


def _joined(params: dict, stats: dict) -> dict:
    """Merges two nested dictionaries that share inner keys."""
    merged = dict(params)
    for key, value in stats.items():
        merged[key] = _joined(params[key], value) if key in params and isinstance(value, dict) else value
    return merged
