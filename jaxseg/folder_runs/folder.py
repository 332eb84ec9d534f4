"""Runs over files and folders: skips what is done, reports what failed, replaces nothing of another origin."""

from collections.abc import Callable, Iterator
from pathlib import Path

from jaxseg.anatomy.segment import Segmenter
from jaxseg.folder_runs import account
from jaxseg.folder_runs.account import Run, begin, conclude, merged_path
from jaxseg.folder_runs.inputs import Job, find_images, plan
from jaxseg.folder_runs.stream import Outcome, stream
from jaxseg.masks.write import merge_coco
from jaxseg.post_dae.mask_files import FileDenoiser

__all__ = [
    "Job",
    "Run",
    "begin",
    "conclude",
    "denoise_files",
    "describe",
    "find_images",
    "merge_masks",
    "merged_path",
    "plan",
    "process",
    "segment_files",
]


def segment_files(
    todo: list[Job], segmenter: Segmenter, run: Run, *, readers: int = 2, writers: int = 2
) -> Iterator[Outcome]:
    """Segments the jobs that `begin` returned, makes the run's products, and yields Outcomes; `run` keeps account."""
    read, write = _reader(run, segmenter), _writer(run)
    return process(
        todo,
        run,
        read,
        segmenter.predict,
        lambda job, _, segmentation: write(job, segmentation),
        batch_size=segmenter.batch_size,
        readers=readers,
        writers=writers,
    )


def denoise_files(todo: list[Job], denoiser: FileDenoiser, run: Run) -> Iterator[Outcome]:
    """Restores the masks of the jobs that `begin` returned, as `segment_files` segments images."""
    size = denoiser.denoiser.batch_size
    return process(todo, run, lambda job: denoiser.read(job.source), denoiser.restore, _writer(run), batch_size=size)


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


def merge_masks(jobs: list[Job], run: Run, path: Path, segmenter: Segmenter) -> Path:
    """Writes the folder's COCO file from those of the images that are done."""
    place = next(product.place for product in run.products if product.kind == "json")
    return merge_coco([place(job.base) for job in run.finished(jobs)], path, segmenter.card.class_names)


def describe(error: Exception) -> str:
    """Returns an error as one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError)) and text else f"{type(error).__name__}: {text}"


def _reader(run: Run, segmenter: Segmenter) -> Callable:
    def read(job: Job):
        for product in run.products:
            if product.check is not None:
                product.check(job.source)
        return segmenter.prepare(job.source)

    return read


def _writer(run: Run) -> Callable:
    def write(job: Job, *made) -> list[str]:
        job.base.parent.mkdir(parents=True, exist_ok=True)
        return [note for product in run.products for note in product.write(job, *made)]

    return write
