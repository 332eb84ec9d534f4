"""Finds the images that a path or a list means, and names their results."""

import collections
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxseg.files import safe_name, walk
from jaxseg.folder_runs.parts import Part
from jaxseg.images.read import SUFFIXES, check_kind, kind_of, stem
from jaxseg.masks.results import Summary, read_summary
from jaxseg.masks.write import NOT_MASKS, RESULTS
from jaxseg.summaries import is_summary, summary_files

MAX_LIST = 2**30  # bytes of a list of files


@dataclasses.dataclass(frozen=True)
class Job:
    """One image to process.

    Attributes:
      source: path of the image.
      base: path of the output without suffix.
      stamp: size and time of the image.
      name: path of the image relative to the input, with slashes; its absolute path if it lies elsewhere.
    """

    source: Path
    base: Path
    stamp: tuple[int, ...]
    name: str = ""


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

    Hidden files, results of a run that are not masks, and files in the folder `output` are left out.

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
    if path.suffix.lower() not in suffixes or path.name.startswith(".") or path.name.lower().endswith(NOT_MASKS):
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
    found = [path for path in summary_files(folder) if path.is_file()]
    if not found:
        return False
    with found[0].open("rb") as file:
        if b'"jaxseg"' not in file.read(500):
            return False
    summary = _summary(folder)
    sources = {Path(source).name for source in summary.by_source} if summary else set()
    return not any((folder / name).is_file() and name not in summary.paths for name in sources)


def plan(
    sources: list[Path],
    root: Path,
    output: Path,
    *,
    name_of: Callable[[Path], str] = stem,
    names: Mapping[Path, str] | None = None,
    part: Part | None = None,
) -> list[Job]:
    """Returns one job per file. The output has the name that `result_names` gives it.

    Args:
      sources: the files.
      root: the input, a folder or the only file.
      output: folder of the results.
      name_of: as in `result_names`.
      names: file -> name of its results, for files that are only some of those that have names; None: these are all.
      part: only the files of this part get a stamp; the others are not touched. None: all do.
    """
    own = result_names(sources, root, name_of=name_of) if names is None else [names[source] for source in sources]
    jobs = []
    for source, place, name in zip(sources, _places(sources, root), own, strict=True):
        mine = part is None or part.holds(place.as_posix())
        jobs.append(Job(source, output / name, stamp_of(source) if mine else (), place.as_posix()))
    return jobs


def result_names(
    sources: Sequence[Path],
    root: Path,
    *,
    name_of: Callable[[Path], str] = stem,
    known: Mapping[Path, Sequence[str]] | None = None,
) -> list[str]:
    """Returns the name of the results of each file: their path in the output folder without suffix, with slashes.

    It is the name of the image without its suffix, or the name from `name_of`. Sub-folders are mirrored; files outside
    of the input are mirrored by their whole path. Images that would get the same name ("a.png", "a.jpg"), or the name
    of a mirrored folder or of a summary, keep their suffix in it ("a_png", "a_jpg").

    Args:
      sources: the files.
      root: the input, a folder or the only file.
      name_of: name of a file's result.
      known: file -> names that its results have in the output folder already, the latest last. It keeps one of them,
        also if other files want the same. None: there are no results.
    """
    folders = [Path(*path.parent.parts[bool(path.anchor) :]) for path in _places(sources, root)]
    wanted = [folder / safe_name(name_of(s)) for folder, s in zip(folders, sources, strict=True)]
    longer = [path.name + s.name[len(name_of(s)) :].replace(".", "_") for path, s in zip(wanted, sources, strict=True)]
    mirrored = {folded(path) for folder in set(folders) for path in (folder, *folder.parents)}
    found = _distinct(wanted, longer, mirrored, [None] * len(wanted))
    if known:
        had = [[Path(name) for name in known.get(source, ())] for source in sources]
        held = {folded(old) for before in had for old in before}
        found = _distinct(wanted, longer, mirrored | held, _kept(wanted, found, mirrored, had))
    return [path.as_posix() for path in found]


def _distinct(
    wanted: Sequence[Path], longer: Sequence[str], occupied: set[str], kept: Sequence[Path | None]
) -> list[Path]:
    """Returns the paths of results: those to keep, and the wanted ones, with longer names where they are not free."""
    paths = [path or own for path, own in zip(kept, wanted, strict=True)]
    counts = collections.Counter(map(folded, paths))
    counts.update(occupied)
    reserved = [path for path in paths if is_summary(path.name) or is_summary(f"{path.name}.json")]
    counts.update(folded(path) for path in reserved if path.parent == Path())
    taken = {key for key, count in counts.items() if count == 1} | occupied | {folded(path) for path in kept if path}
    for i, path in enumerate(paths):
        if kept[i] is None and counts[folded(path)] > 1:
            name = longer[i]
            while folded(path.with_name(name)) in taken:
                name += "_"
            paths[i] = path.with_name(name)
            taken.add(folded(paths[i]))
    return paths


def _kept(
    wanted: Sequence[Path], usual: Sequence[Path], mirrored: set[str], had: Sequence[Sequence[Path]]
) -> list[Path | None]:
    """Returns the path that each image keeps of those that it had: the usual one, otherwise the latest; None: none.

    Paths of folders that are mirrored now are not kept, nor those that another image keeps: links to one file have the
    same paths.
    """
    kept, used = list[Path | None](), set(mirrored)
    for path, own, before in zip(wanted, usual, had, strict=True):
        mine = [old for old in before if old.parent == path.parent and old.name.startswith(path.name)]
        free = [old for old in mine if folded(old) not in used]
        kept.append(own if own in free else free[-1] if free else None)
        used |= {folded(old) for old in kept[-1:] if old}
    return kept


def _places(sources: Sequence[Path], root: Path) -> list[Path]:
    """Returns the paths of files relative to the input, a folder or the only file."""
    inside = root.is_dir()
    return [_relative(source, root) if inside else Path(source.name) for source in sources]


def _relative(source: Path, root: Path) -> Path:
    """Returns the path of a file relative to a folder; its absolute path if it lies elsewhere."""
    if source.is_relative_to(root) and ".." not in (path := source.relative_to(root)).parts:
        return path
    absolute, top = Path(os.path.abspath(source)), Path(os.path.abspath(root))
    return absolute.relative_to(top) if absolute.is_relative_to(top) else absolute


def listing(jobs: list[Job]) -> dict:
    """Returns the number of jobs and a digest of their names, by which the parts of a run compare their inputs."""
    digest = hashlib.sha256()
    for job in jobs:
        digest.update(job.name.encode("utf-8", "surrogateescape") + b"\0")
    return {"files": len(jobs), "digest": digest.hexdigest()}


def parse_list(content: bytes, root: Path) -> list[Path]:
    """Returns the files that a list names, one path per line, each once and sorted. Blank lines are left out.

    Args:
      content: the list.
      root: folder to which relative paths are relative.

    Raises:
      ValueError: the list names no file, or is not a list of paths.
    """
    if b"\0" in content:
        raise ValueError("the list has NUL bytes; write one path per line")
    lines = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf")).split("\n")
    names = {line.removesuffix("\r") for line in lines}
    found = {Path(os.path.normpath(root / name)) for name in names if name.strip()}
    if not found:
        raise ValueError("the list names no file")
    return sorted(found)


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
