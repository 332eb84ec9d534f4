"""Compares folders of masks: pairs of one name are scored in threads, and tables and a plot are written."""

import collections
import concurrent.futures
import dataclasses
import functools
import itertools
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from jaxseg.comparison.compare import Rules, as_spacing, match, score_sets
from jaxseg.comparison.scores import TOLERANCE, Scores, parse_tolerance
from jaxseg.comparison.sources import Levels, Place, list_places, open_place
from jaxseg.comparison.staple import MAX_ANNOTATORS, METHODS
from jaxseg.comparison.summary import Collected, Row
from jaxseg.comparison.tables import Missing, check_output, open_table, write_summary
from jaxseg.files import is_full, printable

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
      images: number of images that were compared.
      failed: name of an image -> why it was not compared.
      missing: masks that one side lacks.
      summary: one row for each annotator, class and measure.
      files: paths of the written files, by the end of their names: "csv", "summary.csv", "missing.csv", "png".
    """

    images: int
    failed: dict[str, str]
    missing: tuple[Missing, ...]
    summary: tuple[Row, ...]
    files: dict[str, Path]


@dataclasses.dataclass
class _Outcome:
    """What became of one image: rows of (set, class, scores), the classes that each set lacks, notes, or an error."""

    name: str
    rows: list[tuple[int, str, Scores]] = dataclasses.field(default_factory=list)
    missing: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    error: Exception | None = None


def compare_folders(
    prediction: str | Path | None,
    truth: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    tolerance: str = TOLERANCE,
    spacing_mm: Sequence[float] | float | None = None,
    classes: str | Sequence[str] | None = None,
    levels: Levels = None,
    consensus: str | None = None,
    without: Collection[str] = (),
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, name: None,
    report: Callable[[str, str, tuple[str, ...]], None] = lambda name, reason, notes: None,
) -> Comparison:
    """Compares masks in folders with the true ones, and writes tables and a box plot.

    Masks belong together if their images have the same name, the path relative to the folder without suffix. Masks of
    two single files belong together under any names.

    Args:
      prediction: folder or file of the masks to compare: results of jaxseg, or masks in any format that
        `jaxseg.masks.read.read_masks` reads, or NIfTI files. None: the annotators are compared with their consensus.
      truth: folder or file of the true masks. Several of them, those of annotators, need `consensus`.
      output: the table, a .csv file; the other files get its name.
      tolerance: largest distance at which two surfaces count as equal for NSD, such as "2mm" or "3px".
      spacing_mm: distance between pixels along each axis in millimetres, or one number for all axes. None means the
        spacing in NIfTI files and DICOM SEG objects, or in the DICOM images of a jaxseg run; images without one are
        measured in pixels.
      classes: labels or groups to compare; None means all.
      levels: names of the classes of label maps: level -> name.
      consensus: "staple" or "majority": how the masks of several annotators become the true mask.
      without: names of images whose masks in `prediction` are left out, such as those of images that failed since.
      overwrite: replace files that are not those of a comparison.
      progress: called with the number of images done, their total and the name of the last; first before any is done.
      report: called for each image with its name, the reason why it failed or "", and notes.

    Returns:
      What was compared, and what is missing or failed.

    Raises:
      ValueError: the arguments do not fit, a folder holds no masks, the sides share no image, no image could be
        compared, or a file exists that was not written by a comparison.
      OSError: a folder cannot be read, or a file cannot be written.
    """
    truths = [Path(truth)] if isinstance(truth, str | Path) else [Path(path) for path in truth]
    roots = ([] if prediction is None else [Path(prediction)]) + truths
    rules = Rules(parse_tolerance(tolerance), as_spacing(spacing_mm), classes, consensus, prediction is None)
    output = Path(output)
    _check_sides(truths, rules)
    check_output(output, overwrite=overwrite)
    places = _places(roots, levels, without)
    sides = _side_names(roots, has_prediction=prediction is not None)
    jobs = [(name, [own[name] for own in places]) for name in _shared(roots, places)]
    work = functools.partial(_compare_image, rules=rules, levels=levels)
    annotators = sides if rules.compare_annotators else [""]
    collected, lacking, failed = Collected(), _Lacking(sides), dict[str, str]()
    progress(0, len(jobs), "")
    with open_table(output, has_annotators=rules.compare_annotators) as write:
        for done, outcome in enumerate(_in_threads(work, jobs), 1):
            if outcome.error is None:
                rows = [(annotators[i], name, scores) for i, name, scores in outcome.rows]
                write(outcome.name, rows)
                collected.add_image(rows)
                lacking.add(outcome.name, outcome.missing)
            else:
                failed[outcome.name] = _reason(outcome.error).removeprefix(f"{Path(outcome.name).name}: ")
            report(outcome.name, failed.get(outcome.name, ""), outcome.notes)
            progress(done, len(jobs), outcome.name)
        if not lacking.images:
            raise ValueError(_nothing(failed))
    summary = tuple(collected.rows())
    missing = (*_missing_images(sides, places), *lacking.found())
    files = write_summary(output, summary, missing, collected, str(rules.tolerance))
    return Comparison(lacking.images, failed, missing, summary, files)


def _check_sides(truths: Sequence[Path], rules: Rules) -> None:
    if rules.consensus is not None and rules.consensus not in METHODS:
        raise ValueError(f"unknown consensus {rules.consensus!r}; known: {', '.join(METHODS)}")
    if rules.consensus is None and (len(truths) != 1 or rules.compare_annotators):
        if len(truths) > 1:
            raise ValueError(f"{len(truths)} truths need a consensus: {' or '.join(METHODS)}")
        raise ValueError("a prediction and a truth are needed, or the masks of several annotators and a consensus")
    if rules.consensus is not None and not 2 <= len(truths) <= MAX_ANNOTATORS:
        raise ValueError(f"a consensus needs the masks of 2 to {MAX_ANNOTATORS} annotators, got {len(truths)}")


def _side_names(roots: Sequence[Path], *, has_prediction: bool) -> list[str]:
    """Returns "prediction" and "truth", or for annotators the names of their folders, which are made distinct."""
    if has_prediction and len(roots) == 2:
        return ["prediction", "truth"]
    names = [printable(root.resolve().name) for root in roots]
    if len(set(names)) < len(names):
        names = [printable(root.as_posix()) for root in roots]
    return ["prediction", *names[1:]] if has_prediction else names


def _places(roots: Sequence[Path], levels: Levels, without: Collection[str]) -> list[dict[str, Place]]:
    """Returns the masks of every side by the names of their images; single images get one name.

    The first side is without the images named in `without`.
    """
    places = [list_places(root, levels=levels) for root in roots]
    if all(len(own) == 1 for own in places):
        places = [dict(zip(places[0], own.values(), strict=True)) for own in places]
    return [{name: place for name, place in places[0].items() if name not in without}, *places[1:]]


def _nothing(failed: dict[str, str]) -> str:
    name, reason = next(iter(failed.items()))
    return f"no image could be compared; the first, {printable(name)}: {reason}"


def _shared(roots: Sequence[Path], places: Sequence[dict[str, Place]]) -> list[str]:
    """Returns the names of the images that all sides have."""
    names = [name for name in sorted(places[0]) if all(name in own for own in places)]
    if not names:
        some = [", ".join(map(printable, sorted(own)[:3])) for own in places]
        shown = [f"{root} has {names}" for root, names in zip(roots, some, strict=True)]
        raise ValueError(f"the folders share no image: {'; '.join(shown)}")
    return names


def _missing_images(sides: Sequence[str], places: Sequence[dict[str, Place]]) -> Iterator[Missing]:
    every = set().union(*places)
    for side, own in zip(sides, places, strict=True):
        yield from (Missing(side, name, "") for name in sorted(every - set(own)))


def _compare_image(job: tuple[str, list[Place]], *, rules: Rules, levels: Levels) -> _Outcome:
    """Scores the masks of one image; every error except a full disk or memory belongs to the image."""
    name, places = job
    try:
        sets = [open_place(place, levels=levels) for place in places]
        matched = match(sets, rules.classes)
        if not matched.names:
            raise ValueError("its masks have no class in common")
        rows = list(score_sets(sets, matched, rules))
        notes = tuple(dict.fromkeys(note for masks in sets for note in masks.notes))
        return _Outcome(name, rows, matched.missing, notes)
    except Exception as error:
        _log.debug("comparing failed", exc_info=error)
        if is_full(error) or isinstance(error, MemoryError):
            raise
        return _Outcome(name, error=error)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return printable(f"{Path(str(error.filename)).name}: {error.strerror}")
    return printable(str(error) or type(error).__name__)


def _in_threads(work: Callable, jobs: Iterable) -> Iterator[_Outcome]:
    """Yields the outcomes in the order of the jobs; decoding and searching release Python's lock."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: collections.deque[concurrent.futures.Future] = collections.deque()
    left = iter(jobs)
    with concurrent.futures.ThreadPoolExecutor(count, "compare") as pool:
        try:
            while True:
                waiting.extend(pool.submit(work, job) for job in itertools.islice(left, 2 * count - len(waiting)))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _Lacking:
    """Counts the classes that each side lacks, so that a class that is always missing is named once."""

    def __init__(self, sides: Sequence[str]):
        self.sides, self.images = sides, 0
        self._images: dict[tuple[str, str], list[str]] = collections.defaultdict(list)

    def add(self, image: str, missing: tuple[tuple[str, ...], ...]) -> None:
        self.images += 1
        for side, names in zip(self.sides, missing, strict=True):
            for name in names:
                self._images[side, name].append(image)

    def found(self) -> list[Missing]:
        found = []
        for (side, name), images in self._images.items():
            found += [Missing(side, image, name) for image in ([""] if len(images) == self.images else images)]
        return found
