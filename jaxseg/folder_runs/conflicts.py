"""Checks that a run replaces nothing of another origin: other images, other kinds of results, other people's files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from jaxseg.files import sha256
from jaxseg.folder_runs.inputs import Job, folded


def check_free(
    output: Path,
    planned: list[tuple[str, Job, str, Path]],
    previous: dict[str, dict],
    joint: Mapping[str, Path] | None = None,
) -> None:
    """Refuses to replace files that jaxseg did not write, or results of another image or another kind.

    Args:
      output: folder of the results.
      planned: (key in the summary, job, kind of product, path) of everything that a run will write.
      previous: entries of the summary by key.
      joint: kind of product -> the file that holds it for all images.

    Raises:
      ValueError: two images would be written to one path, or something of another origin is at a path.
    """
    owners = {
        output["path"]: (key, kind) for key, entry in previous.items() for kind, output in entry["outputs"].items()
    }
    taken: dict[str, Job] = {}
    for key, job, kind, path in planned:
        other = taken.setdefault(folded(path), job)
        if other is not job:
            raise ValueError(f"{other.source} and {job.source} would both become {path}; rename one of them")
        owner = owners.get(path.relative_to(output).as_posix())
        if not os.path.lexists(path) or owner == (key, kind):
            continue
        _refuse(path, owner)
    for kind, path in (joint or {}).items():
        owner = owners.get(path.relative_to(output).as_posix())
        if os.path.lexists(path) and (owner is None or owner[1] != kind):
            _refuse(path, owner)


def _refuse(path: Path, owner: tuple[str, str] | None) -> NoReturn:
    what = f"holds the {owner[1]} result" if owner else "was not written by jaxseg"
    raise ValueError(f"{path} is in the way: it {what}; name another output folder, or remove it")


def check_same_image(job: Job, output: Path, entry: dict) -> None:
    """Refuses to mix results of two images that have the same name.

    A result belongs to the image if its path or its content is the same: images may have been moved since, and two
    patients' images may have one name.

    Raises:
      ValueError: a result in the folder was made from another image.
    """
    if entry.get("source") == str(job.source.resolve()):
        return
    for result in entry["outputs"].values():
        path = output / result["path"]
        if os.path.lexists(path) and not same_content(job, entry):
            raise ValueError(
                f"{path} was made from {entry['source']}, not from {job.source}; name another output folder, or "
                "replace it with --overwrite"
            )


def same_content(job: Job, entry: dict) -> bool:
    """Returns whether an entry was made from a file with the content of this job's."""
    try:
        return "sha256" in entry and entry["sha256"] == sha256(job.source)
    except OSError:  # the file cannot be read; the run will report why
        return False
