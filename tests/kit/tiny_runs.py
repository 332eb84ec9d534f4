"""Tiny runs of `jaxseg train` on phantoms: their command line, what is left of them, and a server that starts them.

As a program it is the server: everything is imported once, and each run is a fork, before JAX has touched a device. Its
network is the plain one, as that of the tests that read what is left must be.
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

STEPS = 20  # in epochs of 4
TIMEOUT_S = 120  # for a run to get as far as is waited for
HANGS_S = TIMEOUT_S + 60  # after which it is ended
SETTINGS = {
    "data": {"size": 32, "train": 16, "val": 4, "threads": 2},
    "model": {"width": 4},
    "trainer": {"epochs": 5, "max_steps": STEPS, "batch_size": 4, "checkpoint_steps": 1, "log_every": 1},
}
SHORT = {"trainer__max_steps": 6, "trainer__pictures_every": 0, "trainer__ema": None}  # of runs by the library
SETTINGS["trainer"] |= {"validate_every": 1, "checkpoint_every": 1, "pictures_every": 2, "ema": 0.9}


def overrides(**changed) -> list[str]:
    """The settings of a tiny run, with some changed: `trainer__epochs=2`."""
    named = {f"{group}.{name}": value for group, values in SETTINGS.items() for name, value in values.items()}
    named |= {name.replace("__", "."): value for name, value in changed.items()}
    return [f"{name}={json.dumps(value)}" for name, value in named.items()]


def command(folder: Path, *rest: str, **changed) -> list[str]:
    """The words of `jaxseg train` of a tiny run, on one device."""
    sets = [word for override in overrides(**changed) for word in ("--set", override)]
    return ["train", "-t", "demo", "-o", str(folder), "-g", "cpu", *sets, *rest]


def configured(folder: Path, **changed):
    """The configuration of a new, short run."""
    from jaxseg.training import run

    return run.open_run("demo", folder, overrides=overrides(**SHORT | changed))


def train(folder: Path, config=None, **changed) -> tuple[dict, list[str]]:
    """Trains in this process on one device; the last validation and what was told."""
    import jax

    from jaxseg.training import run

    told = []
    config = config or configured(folder, **changed)
    return run.train(config, folder, devices=jax.devices()[:1], tell=told.append), told


def finished(folder: Path) -> dict[str, np.ndarray]:
    """Every array of a run's newest checkpoint, by name, and of its model directory."""
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
        state, _ = checkpoints.restore(checkpoints.steps()[-1], plan.fresh_state())
    model = nnx.to_pure_dict(nnx.state(jaxseg.load(folder)))
    leaves, _ = jax.tree_util.tree_flatten_with_path({"state": state, "model": model})
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def metrics(folder: Path) -> list[dict]:
    """The entries of a run, but for wall times."""
    from jaxseg.training.log import read_metrics

    return [without_wall_times(entry) for entry in read_metrics(folder / "metrics.jsonl")]


def without_wall_times(entry: dict) -> dict:
    """Returns an entry of a run without the values that differ between equal runs."""
    return {name: value for name, value in entry.items() if name not in ("seconds", "examples_per_second")}


def steps(folder: Path) -> list[int]:
    """The steps of which a run has a checkpoint."""
    return sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdecimal())


@dataclasses.dataclass(frozen=True)
class Server:
    """The parent's side: starts runs by a pipe to this program."""

    send: object
    receive: object

    def start(self, arguments: list[str], output: Path, *, max_file_bytes: int | None = None) -> int:
        """Starts a command, its words to a file, and returns the number of its process."""
        self.send.write(json.dumps([arguments, str(output), max_file_bytes]) + "\n")
        self.send.flush()
        return int(self.receive.readline())

    def end(self) -> int:
        """Waits for it and returns its exit code, below 0 for a signal."""
        return int(self.receive.readline())


def serve() -> None:
    """Runs a command in a process of its own for every line; tells its number, then its exit code."""
    from plain_network import PLACE

    import jaxseg.anatomy.phantom_task  # noqa: F401
    import jaxseg.training.run  # noqa: F401
    from jaxseg.architectures import ARCHITECTURES
    from jaxseg.cli.main import main

    ARCHITECTURES |= PLACE
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
                faulthandler.dump_traceback_later(HANGS_S - 5, file=descriptor)  # where it hangs
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
