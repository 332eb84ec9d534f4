"""`--ray`: commands whose files are shared among the workers of a Ray cluster."""

import sys
from collections.abc import Callable, Iterable
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


def connect(address: str | None, *, gpus: str, part, report: Path | None = None):
    """Returns the module ray, connected until the command ends; None without `--ray`.

    Call it before anything starts JAX's devices.

    Args:
      address: value of `--ray`; None without it.
      gpus: value of `--gpus`.
      part: value of `--part`.
      report: value of `--report`.

    Raises:
      click.UsageError: the options do not fit to a run on a cluster, or ray is not installed.
      ConnectionError: there is no cluster at the address.
    """
    if address is None:
        return None
    from jaxseg.folder_runs.on_ray import KINDS, connected

    if part:
        raise click.UsageError("--part: with --ray, the parts are chosen by the number of workers; leave it out")
    if report is not None:
        raise click.UsageError("--report: it describes the devices of one computer; leave it out with --ray")
    if gpus not in KINDS:
        raise click.UsageError(f"--gpus: with --ray, the kinds of devices are {', '.join(KINDS)}, got {gpus!r}")
    with options.usage_errors("--ray"):
        return click.get_current_context().with_resource(connected(address))


def devices_here(address: str | None, gpus: str) -> str:
    """Returns the devices on which the command itself loads the model: with `--ray` CPUs, as workers need the GPUs."""
    return gpus if address is None else "cpu"


def folder_of(paths: Iterable[Path]) -> Path | None:
    """Returns the folder that the nodes need for relative paths, the current one; None if all paths are absolute."""
    return None if all(path.is_absolute() for path in paths) else Path.cwd()


def run(ray, job: Callable, predictor, count: int, merge: Callable, *, callbacks: dict, **settings) -> bool:
    """Runs all parts of a job on a cluster, merges them, and returns whether no file failed.

    If something is missing after all, it says what and exits with 1.

    Args:
      ray, job, predictor: as `jaxseg.folder_runs.on_ray.run_on_ray` takes them.
      count: number of files.
      merge: returns the MergeResult of the parts.
      callbacks: the arguments `progress` and `report`.
      **settings: `gpus` and `folder`, as `run_on_ray` takes them.
    """
    from jaxseg.folder_runs.on_ray import run_on_ray

    found = run_on_ray(ray, job, predictor, count, **settings, **callbacks)
    merged = merge()
    for problem in merged.problems:
        console.say(f"Missing: {printable(problem)}")
    files = ", ".join(str(path) for path in merged.merged)
    where = f"the results are in {files}" if files else "nothing was merged; the same command continues"
    console.say(f"{found.done} done, {found.skipped} skipped, {found.failed} failed; {where}")
    if merged.problems:
        sys.exit(1)
    return not found.failed
