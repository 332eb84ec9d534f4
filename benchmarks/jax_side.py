"""jaxseg's side of the throughput: inference and training steps of every model, as functions without arguments."""

import functools
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxseg
from benchmarks.counts import operations, traffic
from benchmarks.worker import RATE, TINY, WORKLOADS, inputs
from jaxseg.anatomy.objective import Objective
from jaxseg.anatomy.task import enlarged_loss
from jaxseg.annotators.losses import confusion_vae_loss, negative_elbo, sum_of_norms
from jaxseg.annotators.prob_unet import regularised
from jaxseg.nn.inference import for_inference
from jaxseg.nn.losses import image_by_image, probability_dice_loss
from jaxseg.segae.losses import weighted_mse
from jaxseg.training.learner import Learner, empty, initial_state, make_learner
from jaxseg.xla import keeping_barriers

NAMES = {"unet": "cxas"}


def make(model: str, what: str, batch: int, dtype: str, *, tiny: bool = False) -> tuple[Callable[[], None], dict]:
    """Returns a function that runs once and waits for the result, and the seconds of compilation, operations and bytes.

    Args:
      model: a key of `WORKLOADS`.
      what: "inference" or "training step".
      batch: number of examples.
      dtype: "float32" or "bfloat16", of the arithmetic.
      tiny: whether to take a narrow network and small inputs.
    """
    given = jax.device_put(inputs(model, batch, tiny=tiny))
    network = network_of(model, dtype, tiny=tiny)
    if what == "inference":
        direct = jaxseg.functional(network)  # counts the operations of the model; Winograd's form has fewer
        apply, state = jaxseg.functional(for_inference(network))
        arguments = [given[name] for name in ("image", "embedding") if name in given]
        facts = _counts(*direct, *arguments)
        del network, direct
        compiled, seconds = _compiled(jax.jit(apply), state, *arguments)
        run = lambda: jax.block_until_ready(compiled(state, *arguments))  # noqa: E731
    else:
        learner = learner_of(model, network)
        state = initial_state(learner, network, seed=0)
        empty(network)  # as training does
        options = keeping_barriers(jax.default_backend())
        compiled, seconds = _compiled(jax.jit(learner.step, donate_argnums=0, compiler_options=options), state, given)
        facts = _counts(learner.step, state, given)

        def run() -> None:
            nonlocal state
            state, _ = jax.block_until_ready(compiled(state, given))

    run()
    return run, {"compile_s": round(seconds, 2), "device": str(jax.devices()[0].device_kind)} | facts


def _compiled(program, *arguments) -> tuple[Callable, float]:
    start = time.perf_counter()
    return program.lower(*arguments).compile(), time.perf_counter() - start


def _counts(function: Callable, *arguments) -> dict[str, float]:
    # XLA counts the program for GPUs before fusion, in which every convolution has its plain form
    cost = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).cost_analysis() or {}
    found = {"xla_flops": cost.get("flops"), "xla_bytes": cost.get("bytes accessed")}
    return {"flops": operations(function, *arguments), "bytes": traffic(function, *arguments)} | found


def learner_of(model: str, network: nnx.Module, *, axis: str | None = None) -> Learner:
    """Returns the Learner of a network with the loss and the optimizer of a model; `axis` is that of pmap."""
    return make_learner(network, _optimizer(model), LOSSES[model], axis=axis)


def network_of(model: str, dtype: str, *, tiny: bool = False) -> nnx.Module:
    """Returns a network with random weights, which are always the same."""
    options = {"image_size": WORKLOADS[model].image[:2]} if model == "post_dae" else {}
    options = TINY[model][1] if tiny else options
    return jaxseg.create(NAMES.get(model, model), dtype=dtype, **options)


def _optimizer(model: str) -> optax.GradientTransformation:
    if model == "post_dae":
        return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(RATE))
    return optax.adam(RATE) if model == "segae" else optax.adamw(RATE, weight_decay=1e-3)


def _unet(model, batch, key, step):
    coarse = model.coarse_logits(batch["image"], rngs=nnx.Rngs(dropout=key))
    return image_by_image(functools.partial(enlarged_loss, Objective(("dice", "ce"))), coarse, batch["target"])


def _post_dae(model, batch, key, step):
    return probability_dice_loss(model(batch["image"]), batch["target"]), {}


def _segae(model, batch, key, step):
    return weighted_mse(model(batch["image"], batch["embedding"]), batch["target"]), {}


def _cmvae(model, batch, key, step):
    found = model.outputs(batch["image"], batch["noise"])
    return confusion_vae_loss(**found, labels=batch["target"][..., 0], kl_weight=1.0)[0], {}


def _prob_unet(model, batch, key, step):
    found = model.outputs(batch["image"], batch["target"], batch["noise"])
    found.pop("z")
    norms = sum_of_norms(regularised(model))
    return negative_elbo(target=batch["target"], **found, beta=5.0)[0] + np.float32(1e-5) * norms, {}


LOSSES = {"unet": _unet, "post_dae": _post_dae, "segae": _segae, "cmvae": _cmvae, "prob_unet": _prob_unet}


def peak(dtype: str, *, tiny: bool = False) -> dict[str, float]:
    """Returns peak rates of the device: operations per second of a large product, bytes per second of a large copy."""
    size = 256 if tiny else 4096 if jax.default_backend() == "cpu" else 16384
    a = jnp.ones((size, size), dtype) + jax.random.normal(jax.random.key(0), (size, size), dtype)
    precision = jax.lax.Precision.HIGHEST if dtype == "float32" else None
    # On CPUs, XLA's fast products of bfloat16 are those with a float32 result, which jaxseg uses.
    product = jax.jit(lambda a: jnp.matmul(a, a, precision=precision, preferred_element_type=jnp.float32))
    big = jax.random.normal(jax.random.key(1), (2**16 if tiny else 2**28,), jnp.float32)  # 1 GiB
    copy = jax.jit(lambda x: -x)
    return {
        "flops_per_s": 2 * size**3 / _fastest(lambda: product(a)),
        "bytes_per_s": 2 * big.nbytes / _fastest(lambda: copy(big)),
    }


def _fastest(run: Callable[[], jax.Array]) -> float:
    jax.block_until_ready(run())
    found = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return min(found)
