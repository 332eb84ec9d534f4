"""Runs over files and folders: skips what is done, reports what failed, replaces nothing of another origin."""

from collections.abc import Callable, Iterator

from jaxseg.folder_runs import account
from jaxseg.folder_runs.account import Run, begin, conclude, merged_path
from jaxseg.folder_runs.inputs import Job, find_images, plan
from jaxseg.folder_runs.stream import Outcome, stream

__all__ = [
    "Job",
    "Run",
    "begin",
    "conclude",
    "describe",
    "find_images",
    "merged_path",
    "plan",
    "process",
    "writer",
]


def process(
    todo: list[Job], run: Run, read: Callable, compute: Callable, write: Callable, *, batch_size: int, **threads: int
) -> Iterator[Outcome]:
    """Does jobs by `jaxseg.folder_runs.stream.stream`, yields its Outcomes, and keeps account of them in `run`."""
    outcomes = stream(todo, read, compute, write, batch_size=batch_size, **threads)
    try:
        for outcome in outcomes:
            seconds = {stage: round(value, 4) for stage, value in outcome.seconds.items()}
            if outcome.error is None:
                outcome.notes += tuple(outcome.result)
                account.done(run, outcome.item, list(outcome.notes), seconds)
            else:
                account.failed(run, outcome.item, describe(outcome.error), list(outcome.notes), seconds)
            yield outcome
    finally:
        run.write_summary()


def describe(error: Exception) -> str:
    """Returns an error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"


def writer(run: Run) -> Callable:
    """Returns the function that writes all products of a job."""

    def write(job: Job, *made) -> list[str]:
        job.base.parent.mkdir(parents=True, exist_ok=True)
        return [note for product in run.products for note in product.write(job, *made)]

    return write
