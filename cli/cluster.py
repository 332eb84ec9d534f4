"""`--ray`: commands whose files are shared among the workers of a Ray cluster."""

import sys
from collections.abc import Callable
from pathlib import Path

import click

from jaxseg.cli import console, options
from jaxseg.files import printable

WAITING = "waiting for workers, which load the model"  # what the bar says before the first item is done


def of_ray(what: str) -> Callable:
    """Returns the option `--ray`; `what` names the files."""
    return click.option(
        "--ray",
        "address",
        is_flag=False,
        flag_value="local",
        metavar="[ADDRESS]",
        help=f"Share the {what} among the nodes of the Ray cluster at this address, such as auto or 10.0.0.5:6379, and "
        "merge the results. Without an address, Ray starts on this computer. jaxseg[ray] must be installed on every "
        "node, and input and output must be in folders that all nodes share, at the same paths.",
    )


def check(address: str | None, *, gpus: str, part, report: Path | None = None) -> None:
    """Refuses options that do not fit to a run on a cluster, and a cluster without the package ray.

    Args:
      address: value of `--ray`; None: there is nothing to check.
      gpus: value of `--gpus`.
      part: value of `--part`.
      report: value of `--report`.
    """
    if address is None:
        return
    from jaxseg.folder_runs.on_ray import KINDS, need_ray

    if part:
        raise click.UsageError("--part: with --ray, the parts are chosen by the number of workers; leave it out")
    if report is not None:
        raise click.UsageError("--report: it describes the devices of one computer; leave it out with --ray")
    if gpus not in KINDS:
        raise click.UsageError(f"--gpus: with --ray, the kinds of devices are {', '.join(KINDS)}, got {gpus!r}")
    with options.usage_errors("--ray"):
        need_ray()


def devices_here(address: str | None, gpus: str) -> str:
    """Returns the devices on which the command itself loads the model: with `--ray` CPUs, as workers need the GPUs."""
    return gpus if address is None else "cpu"


def run(address: str, job: Callable, predictor, count: int, merge: Callable, *, gpus: str, callbacks: dict) -> bool:
    """Runs all parts of a job on a cluster, merges them, and returns whether no file failed.

    If something is missing after all, it says what and exits with 1.

    Args:
      address: of the cluster.
      job, predictor, gpus: as `jaxseg.folder_runs.on_ray.run_on_ray` takes them.
      count: number of files.
      merge: returns the MergeResult of the parts.
      callbacks: the arguments `progress` and `report`.
    """
    from jaxseg.folder_runs.on_ray import run_on_ray

    found = run_on_ray(job, predictor, count, address=address, gpus=gpus, **callbacks)
    merged = merge()
    for problem in merged.problems:
        console.say(f"Missing: {printable(problem)}")
    files = ", ".join(str(path) for path in merged.merged)
    where = f"the results are in {files}" if files else "nothing was merged; the same command continues"
    console.say(f"{found.done} done, {found.skipped} skipped, {found.failed} failed; {where}")
    if merged.problems:
        sys.exit(1)
    return not found.failed
