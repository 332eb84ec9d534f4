"""Distribution of a batch over devices and hosts, by jit over a mesh or by pmap; no other file distinguishes the two.

Under jit there is one global batch, sharded over a mesh of all devices of all hosts, and the compiler adds the
communication. Under pmap every device runs the same step on its share, and the step itself averages. Both compute the
same results. In JAX, pmap is in maintenance mode and compiles one program for all devices too.
"""

import dataclasses
import logging
import os
import threading
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxseg.devices import shardings
from jaxseg.training.learner import AXIS, Learner, State
from jaxseg.xla import keeping_barriers

PARALLEL = ("jit", "pmap")
LOST_S = 100  # seconds after which JAX ends the other hosts if one of them is lost

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Puts states and batches onto devices, and compiles steps for them.

    Attributes:
      parallel: one of `PARALLEL`.
      devices: all devices, of all processes.
    """

    parallel: str
    devices: tuple[jax.Device, ...]

    @property
    def replicated(self) -> jax.sharding.NamedSharding:
        """The sharding of arrays of which every device holds a full copy."""
        return shardings(self.devices)[0]

    @property
    def local(self) -> list[jax.Device]:
        """The devices of this process."""
        return [device for device in self.devices if device.process_index == jax.process_index()]

    def compile(self, learner: Learner) -> Callable:
        """Returns the learner's compiled step for states and batches of this placement; its input state is donated."""
        if self.parallel == "pmap":
            return jax.pmap(learner.step, AXIS, devices=self.devices, donate_argnums=0)
        replicated, split = shardings(self.devices)
        return jax.jit(
            learner.step,
            donate_argnums=0,
            in_shardings=(replicated, split),
            out_shardings=(replicated, replicated),
            compiler_options=keeping_barriers(self.devices[0].platform),
        )

    def compile_evaluation(self, learner: Learner, scores: Callable) -> Callable:
        """Returns the jitted (state, batch) -> `scores(model, batch)` and the batch's "weight", full on every host."""
        replicated, split = shardings(self.devices)

        def run(state: State, batch: dict):
            return scores(learner.trained(state), batch) | {"weight": batch["weight"]}

        return jax.jit(run, in_shardings=(replicated, split), out_shardings=replicated)

    def put_state(self, state: State) -> State:
        """Puts a state onto every device; under pmap it gets a leading axis of this process's devices."""
        if self.parallel == "jit":
            return jax.device_put(state, shardings(self.devices)[0])
        stacked = jax.tree.map(lambda x: np.broadcast_to(np.asarray(x), (len(self.local), *np.shape(x))), state)
        return jax.device_put(stacked, shardings(self.local)[1])

    def take_state(self, state: State) -> State:
        """Returns a state as jit holds it, replicated over all devices, for storing and evaluating."""
        if self.parallel == "jit":
            return state
        single = jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data)[0], state)
        return jax.device_put(single, shardings(self.devices)[0])

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Puts this process's share of a batch onto its devices, one part per device."""
        if self.parallel == "pmap":
            count = len(self.local)
            split = shardings(self.local)[1]
            return {k: jax.device_put(x.reshape(count, len(x) // count, *x.shape[1:]), split) for k, x in batch.items()}
        return self.put_evaluation_batch(batch)

    def put_evaluation_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """Puts this process's share of a batch onto the mesh."""
        split = shardings(self.devices)[1]
        return {k: jax.make_array_from_process_local_data(split, x) for k, x in batch.items()}

    def fetch(self, metrics: dict[str, jax.Array]) -> dict[str, float]:
        """Returns a step's metrics as numbers."""
        return {k: float(np.asarray(v.addressable_shards[0].data).ravel()[0]) for k, v in metrics.items()}


def make_placement(parallel: str, devices: Sequence[jax.Device], batch_size: int, *, accumulate: int = 1) -> Placement:
    """Returns a Placement.

    Raises:
      ValueError: the batch, or one of its accumulated parts, cannot be split evenly over the devices.
    """
    if parallel not in PARALLEL:
        raise ValueError(f"parallel: {parallel!r} is not one of {', '.join(PARALLEL)}")
    if batch_size % (len(devices) * accumulate):
        parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise ValueError(f"a batch of {batch_size}{parts} cannot be split evenly over {len(devices)} devices")
    return Placement(parallel, tuple(devices))


def join_hosts(
    coordinator: str | None, num_processes: int | None, process_id: int | None, *, timeout_s: float = 300
) -> None:
    """Connects this process with those of the other hosts; call it before JAX uses a device.

    If they do not find each other in time, the process ends with one line and exit code 1, because JAX would abort it
    in a way that cannot be caught.

    Args:
      coordinator: "host:port" of process 0. If all three are None, JAX finds them on clusters that it supports (Slurm,
        Cloud TPU, Kubernetes, MPI).
      num_processes: total number of processes.
      process_id: number of this process, from 0.
      timeout_s: seconds to wait for the others.

    Raises:
      ValueError: only some of the three are given, they are impossible, or JAX finds no cluster.
    """
    given = [value is not None for value in (coordinator, num_processes, process_id)]
    if any(given) and not all(given):
        raise ValueError("--coordinator, --num-processes and --process-id belong together: give all three, or none")
    if all(given):
        _, colon, port = coordinator.rpartition(":")
        if not colon or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"--coordinator: {coordinator!r} must be HOST:PORT, such as 10.0.0.1:9000")
        if process_id >= num_processes:
            raise ValueError(f"--process-id: {process_id} must be below --num-processes, {num_processes}")
    # JAX's own handler would ignore SIGTERM, which must end the run.
    jax.config.update("jax_enable_preemption_service", False)
    timer = threading.Timer(timeout_s, _give_up, [coordinator, timeout_s])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=int(timeout_s) + 60,
            shutdown_timeout_seconds=LOST_S,
            heartbeat_timeout_seconds=LOST_S,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the processes cannot be connected: {' '.join(str(error).split())[:300]}") from None
    finally:
        timer.cancel()


def _give_up(coordinator: str | None, timeout_s: float) -> None:
    where = f" at {coordinator}" if coordinator else ""
    _log.error("Error: the processes did not find each other%s within %g s; are all of them running?", where, timeout_s)
    os._exit(1)
