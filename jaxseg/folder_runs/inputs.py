"""Finds the images that a path means, and names their results."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxseg.files import safe_name, walk
from jaxseg.images.read import SUFFIXES, check_kind, kind_of, stem
from jaxseg.masks.results import SUMMARY_FILE, Summary, read_summary
from jaxseg.masks.write import PREVIEW, RESULTS


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to process: its path, the output's path without suffix, and the image's size and time (its stamp)."""

    source: Path
    base: Path
    stamp: tuple[int, ...]


def find_images(path: Path, *, recursive: bool = False, output: Path | None = None) -> list[Path]:
    """Returns the image files that `path` means, sorted.

    In a folder these are the files with one of `SUFFIXES`, and files with other names that begin like DICOM, PNG or
    JPEG files. Left out are hidden files, files in the folder `output`, DICOMDIR indices, and the masks, previews,
    drawings and DICOM segmentations that runs write. Files without read permission are included: the run reports the
    reason.

    Raises:
      FileNotFoundError: there is no such path.
      ValueError: the file is not an image, a folder has none, or it is a result of a run.
    """
    results = _results_above(path)
    if {path.resolve(), *path.resolve().parents} & results:
        raise ValueError(
            f"{path} is a result of jaxseg, not an image or a folder of images; name those it was made from"
        )
    if path.is_file():
        try:
            check_kind(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        except OSError:
            pass  # included, as in folders
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    own = output.resolve() if recursive and output else None
    if own == path.resolve():
        raise ValueError(
            f"{path}: with --recursive the output must be another folder; otherwise masks would be read as images"
        )
    results |= _results_in(path)
    files = _walk(path, own, results) if recursive else path.iterdir()
    images = sorted(file for file in files if _is_image(file) and not (results and file.resolve() in results))
    if not images:
        hint = "" if recursive else " (--recursive looks into sub-folders)"
        besides = " besides results of jaxseg" if results else ""
        raise ValueError(f"{path}: no {', '.join(SUFFIXES)} file in this folder{besides}{hint}")
    return images


def _results_above(path: Path) -> set[Path]:
    """Returns the results that the summaries in the folders above a path list, as resolved paths."""
    return {result for folder in path.resolve().parents for result in _results_in(folder)}


def _results_in(folder: Path) -> set[Path]:
    """Returns the results that the summary in a folder lists, as resolved paths."""
    summary = _summary(folder)
    return {folder.resolve() / result for result in summary.paths} if summary else set()


def _summary(folder: Path) -> Summary | None:
    """Returns the summary of a run in a folder; None if there is none, or the file is another one."""
    try:
        return read_summary(folder)
    except (ValueError, OSError):
        return None


def find_by_suffix(
    path: Path, suffixes: tuple[str, ...], what: str, *, recursive: bool, output: Path, results: str
) -> list[Path]:
    """Returns the files that `path` means, sorted; in a folder those with one of the suffixes.

    Hidden files, previews and files in the folder `output` are left out.

    Args:
      path: a file or a folder.
      suffixes: in lower case; those of the files may be in upper case.
      what: name of the files' content for messages, such as "masks".
      recursive: also search sub-folders.
      output: folder of the results.
      results: name of the results for messages.

    Raises:
      FileNotFoundError: there is no such path.
      ValueError: a folder has none, the file has another suffix, or the output folder is that of the files.
    """
    known = ", ".join(suffixes)
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            raise ValueError(f"{path}: {what} are read from {known} files")
        found, folder = [path], path.parent
    elif path.is_dir():
        entries = (folder / name for folder, _, names in walk(path) for name in names) if recursive else path.iterdir()
        found, folder = sorted(p for p in entries if _is_of(p, suffixes, output)), path
    else:
        raise FileNotFoundError(f"{path}: no such file or folder")
    if output.resolve() == folder.resolve():
        raise ValueError(f"{output} holds the {what} themselves; name another folder for the {results}")
    if not found:
        hint = "" if recursive else " (--recursive looks into sub-folders)"
        raise ValueError(f"{path}: no {known} file in this folder{hint}")
    return found


def _is_of(path: Path, suffixes: tuple[str, ...], output: Path) -> bool:
    if path.suffix.lower() not in suffixes or path.name.startswith(".") or path.name.endswith(PREVIEW):
        return False
    return path.is_file() and not path.resolve().is_relative_to(output.resolve())


def _is_image(file: Path) -> bool:
    if file.name.startswith(".") or file.name.lower().endswith(RESULTS) or not file.is_file():
        return False
    if file.suffix.lower() in SUFFIXES:
        return True
    try:
        return kind_of(file) in ("dicom", "raster")
    except OSError:
        return True


def _walk(root: Path, own: Path | None, results: set[Path]) -> Iterator[Path]:
    """Yields every file below `root`, except in hidden folders, the folder `own` and other folders of results.

    A folder that holds both images and their results is searched, and its results are added to `results`.
    """
    for here, folders, files in walk(root):
        results |= _results_in(here)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and (here / name).resolve() not in results
            and (here / name).resolve() != own
            and not _is_output(here / name)
        ]
        yield from (here / name for name in files)


def _is_output(folder: Path) -> bool:
    """Returns whether a folder holds results of jaxseg, but not the images that they were made from."""
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if b'"jaxseg"' not in file.read(500):
            return False
    summary = _summary(folder)
    sources = {Path(source).name for source in summary.by_source} if summary else set()
    return not any((folder / name).is_file() and name not in summary.paths for name in sources)


def plan(sources: list[Path], root: Path, output: Path, *, name_of: Callable[[Path], str] = stem) -> list[Job]:
    """Returns one job per file. The output has the name of the image without its suffix, or the name from `name_of`.

    Sub-folders are mirrored. Images that would get the same output name ("a.png", "a.jpg"), or the name of a mirrored
    folder or of the summary, keep their suffix in it ("a_png", "a_jpg").
    """
    folders = [s.parent.relative_to(root) if root.is_dir() else Path() for s in sources]
    wanted = [folder / safe_name(name_of(s)) for folder, s in zip(folders, sources, strict=True)]
    counts = collections.Counter(folded(path) for path in wanted)
    counts.update({folded(path) for folder in folders for path in (folder, *folder.parents)})
    counts.update({folded(Path(SUMMARY_FILE)), folded(Path(SUMMARY_FILE).with_suffix(""))})
    taken = {key for key, count in counts.items() if count == 1}
    jobs = []
    for source, path in zip(sources, wanted, strict=True):
        if counts[folded(path)] > 1:
            name = path.name + source.name[len(name_of(source)) :].replace(".", "_")
            while folded(path.with_name(name)) in taken:
                name += "_"
            path = path.with_name(name)
            taken.add(folded(path))
        jobs.append(Job(source, output / path, stamp_of(source)))
    return jobs


def stamp_of(path: Path) -> tuple[int, ...]:
    """Returns size and time of a file, () if there is none: if a file was replaced, it is processed again."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_size, status.st_mtime_ns


def folded(path: Path) -> str:
    """Returns a path in the form in which systems compare it that ignore upper and lower case."""
    return str(path).lower()
