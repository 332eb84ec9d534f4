"""Tiny runs of `jaxseg train` on phantoms: their command line, their results, and a server that starts them.

Run as a program, this file is the server: it imports everything once, and forks for each run before JAX uses a device.
It trains the plain network, so tests that read the results must use the plain network too.
"""

import contextlib
import dataclasses
import faulthandler
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path

import numpy as np

STEPS = 20  # 5 epochs of 4 steps
TIMEOUT_S = 120  # limit for a run to reach the state that a test waits for
HANGS_S = TIMEOUT_S + 60  # limit after which a run is ended
SETTINGS = {
    "data": {"size": 32, "train": 16, "val": 4, "threads": 2},
    "model": {"width": 4},
    "trainer": {"epochs": 5, "max_steps": STEPS, "batch_size": 4, "checkpoint_steps": 1, "log_every": 1},
}
# Changes for runs through the library.
SHORT = {"trainer__max_steps": 6, "trainer__pictures_every": 0, "trainer__ema": None}
SETTINGS["trainer"] |= {"validate_every": 1, "checkpoint_every": 1, "pictures_every": 2, "ema": 0.9}


def overrides(**changed) -> list[str]:
    """Returns the settings of a tiny run with the given changes, such as `trainer__epochs=2`."""
    named = {f"{group}.{name}": value for group, values in SETTINGS.items() for name, value in values.items()}
    named |= {name.replace("__", "."): value for name, value in changed.items()}
    return [f"{name}={json.dumps(value)}" for name, value in named.items()]


def command(folder: Path, *rest: str, **changed) -> list[str]:
    """Returns the arguments of `jaxseg train` for a tiny run on one device."""
    sets = [word for override in overrides(**changed) for word in ("--set", override)]
    return ["train", "-t", "demo", "-o", str(folder), "-g", "cpu", *sets, *rest]


def configured(folder: Path, **changed):
    """Returns the configuration of a new, short run."""
    from jaxseg.training import run

    return run.open_run("demo", folder, overrides=overrides(**SHORT | changed))


def train(folder: Path, config=None, **changed) -> tuple[dict, list[str]]:
    """Trains in this process on one device; returns the last validation and the messages."""
    import jax

    from jaxseg.training import run

    messages = []
    config = config or configured(folder, **changed)
    return run.train(config, folder, devices=jax.devices()[:1], tell=messages.append), messages


def finished(folder: Path) -> dict[str, np.ndarray]:
    """Returns every array of a run's newest checkpoint and of its model directory, by name."""
    import jax
    from flax import nnx

    import jaxseg
    from jaxseg.training.checkpoint import Checkpoints
    from jaxseg.training.config.config import read_config
    from jaxseg.training.plan import make_plan
    from jaxseg.training.task import make_task

    config = read_config(folder / "config.yaml")
    plan = make_plan(config, make_task(config), folder, devices=jax.devices()[:1])
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        state, _ = checkpoints.restore(checkpoints.steps()[-1], plan.state_shapes())
    model = nnx.to_pure_dict(nnx.state(jaxseg.load(folder)))
    leaves, _ = jax.tree_util.tree_flatten_with_path({"state": state, "model": model})
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def metrics(folder: Path) -> list[dict]:
    """Returns the log entries of a run without wall times."""
    from jaxseg.training.log import read_metrics

    return [without_wall_times(entry) for entry in read_metrics(folder / "metrics.jsonl")]


def without_wall_times(entry: dict) -> dict:
    """Returns an entry of a run without the values that differ between equal runs."""
    return {name: value for name, value in entry.items() if name not in ("seconds", "examples_per_second")}


def steps(folder: Path) -> list[int]:
    """Returns the steps for which a run has a checkpoint."""
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal())


@dataclasses.dataclass(frozen=True)
class Server:
    """The parent's side: starts runs through a pipe to this program."""

    send: object
    receive: object

    def start(self, arguments: list[str], output: Path, *, max_file_bytes: int | None = None) -> int:
        """Starts a command with its output going to a file; returns its process id."""
        self.send.write(json.dumps([arguments, str(output), max_file_bytes]) + "\n")
        self.send.flush()
        return int(self.receive.readline())

    def end(self) -> int:
        """Waits for the command and returns its exit code, which is negative after a signal."""
        return int(self.receive.readline())


def serve() -> None:
    """Runs one command per input line, each in a new process; answers with its process id and then its exit code."""
    from plain_network import PLACE

    import jaxseg.anatomy.phantom_task  # noqa: F401
    import jaxseg.training.run  # noqa: F401
    from jaxseg.cli.main import main
    from jaxseg.registry import MODELS

    MODELS |= PLACE
    for line in sys.stdin:
        arguments, output, max_file_bytes = json.loads(line)
        process = os.fork()
        if process == 0:
            code = 70
            signal.alarm(HANGS_S)
            try:
                descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                faulthandler.dump_traceback_later(HANGS_S - 5, file=descriptor)  # shows where a run hangs
                if max_file_bytes is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
                main(arguments)
            except SystemExit as stop:
                code = stop.code or 0
            except BaseException:
                traceback.print_exc()
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
        _answer(process)
        _answer(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()
