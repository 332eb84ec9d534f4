"""Runs over folders in parts, with a segmenter that uses only numpy."""

import contextlib
import shutil
from pathlib import Path

from fake_segmenter import FakeSegmenter

from jaxseg.anatomy import products
from jaxseg.folder_runs import folder
from jaxseg.folder_runs.account import Run
from jaxseg.folder_runs.inputs import find_images, plan
from jaxseg.folder_runs.merged import Merged
from jaxseg.folder_runs.parts import as_part
from jaxseg.masks import cohort

COCO = Merged(".json", "json", {"categories": ["bright", "brighter", "brightest"]})
AREAS = Merged(".parquet", "measurements", {"features": ["area"]})


def run_part(
    source: Path, output: Path, part=None, output_type="npy", *, files=None, settings=None, table=False, **options
):
    """Runs a part, or all files; returns the names of the files that were read, and the FolderResult.

    With `table`, the areas of the masks are also written to a Parquet table.
    """
    segmenter, part = FakeSegmenter(), as_part(part)
    files = find_images(source, recursive=True, output=output) if files is None else files
    if output_type in cohort.TYPES:
        product = products.joint_masks(output_type, dict(enumerate(segmenter.names)), output, part)
    else:
        product = products.masks(output_type, segmenter.names, "cxas")
    made = (product, products.measurements(("area",))) if table else (product,)
    merges = [COCO] * (output_type == "json") + [AREAS] * table
    run = Run(output, made, {"threshold": 0.5} if settings is None else settings, part=part)
    jobs = plan(files, source, output, part=part)
    result = folder.run(
        jobs,
        run,
        lambda todo, run: products.segment_files(todo, segmenter, run),
        merges=merges,
        source=source,
        **options,
    )
    return sorted(path.name for path in segmenter.prepared), result


def killed_part(source: Path, output: Path, part, after: int, output_type="npy") -> None:
    """Leaves in `output` what a part leaves that is killed after some files: a copy of the folder at that moment."""
    copy = output.with_name("copy")

    def report(_) -> None:
        report.count += 1
        if report.count == after:
            shutil.copytree(output, copy, copy_function=_copied)

    report.count = 0
    run_part(source, output, part, output_type, report=report)
    assert report.count >= after
    shutil.rmtree(output)
    copy.rename(output)


def _copied(source: str, target: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # a temporary file that has got its name since
        shutil.copy2(source, target)


def part_files(output: Path) -> list[str]:
    """Returns the names of the files of parts in a folder, hidden ones included."""
    return sorted(path.name for path in output.iterdir() if "-of-" in path.name)


def contents(output: Path) -> dict[str, bytes]:
    """Returns the content of every file below a folder, hidden ones included."""
    files = (path for path in output.rglob("*") if path.is_file())
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}
