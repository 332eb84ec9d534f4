"""Joins the parts of a run: their summaries into `summary.json`, and the results into the merged files.

It checks first that no part is missing, that every file is in exactly one part, and that all results exist.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from jaxseg import summaries
from jaxseg.files import resolved, sweep
from jaxseg.folder_runs import merged
from jaxseg.folder_runs.account import Run, drop_parts, extent_of, join_masks, merged_path, places_of, without_part
from jaxseg.folder_runs.merged import Merged
from jaxseg.folder_runs.parts import Part, locked
from jaxseg.masks import cohort
from jaxseg.summaries import NAME, NUMBER, SUMMARY_FILE

SHOWN = 5  # largest number of files, or of parts, in one sentence


@dataclasses.dataclass(frozen=True)
class MergeResult:
    """What `merge_folder` or `merge_scores` found and did.

    Attributes:
      output: the folder, or the table of scores.
      parts: number of parts of the run; 0 if there was nothing to merge.
      done: number of files, or cases, that were processed.
      failed: number of those that failed.
      problems: sentences about what is missing or double; () if everything is complete.
      merged: the files that were written; () if there was nothing to merge, or if something is missing.
    """

    output: Path
    parts: int
    done: int = 0
    failed: int = 0
    problems: tuple[str, ...] = ()
    merged: tuple[Path, ...] = ()


def merge_folder(output: str | Path, *, partial: bool = False) -> MergeResult:
    """Joins the parts of a run over a folder, and removes the files of the parts.

    The summaries become `summary.json`; the table of `extract_folder`, the COCO file and `confidence.csv` of
    `segment_folder`, and `masks.jsonl` or `masks.parquet` are written as by a run without parts. If anything is missing
    or double, nothing is written or removed. A second call finds nothing to merge.

    Args:
      output: folder of the results.
      partial: write what there is, although something is missing. The files of the parts stay, so that the parts can
        continue and be merged again.

    Returns:
      What was found and done. `problems` lists what is missing; files that failed are not missing.

    Raises:
      ValueError: the folder holds no results of jaxseg, a summary is damaged, the parts were made with different
        settings, or a part is still running.
      OSError: a file cannot be read or written.

    Example:
      >>> import jaxseg
      >>> from PIL import Image
      >>> from jaxseg.datasets import phantom
      >>> Path("scans").mkdir()
      >>> for number in range(4):
      ...     Image.fromarray(phantom.draw(number, 64)[0]).save(f"scans/{number}.png")
      >>> model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
      >>> for part in ("1/2", "2/2"):
      ...     made = jaxseg.extract_folder("scans", "numbers", "area", model, part=part)
      >>> found = jaxseg.merge_folder("numbers")
      >>> found.done, [path.name for path in found.merged]
      (4, ['scans.csv', 'summary.json'])
    """
    output = Path(output)
    if not output.is_dir():
        raise ValueError(f"{output} is not a folder of results")
    whole = output / SUMMARY_FILE
    with locked(whole, None):
        paths = summaries.part_summaries(output)
        if not paths:
            if not whole.is_file():
                raise ValueError(f"{output} holds no results of jaxseg")
            return MergeResult(output, 0)
        documents = _read(paths)
        found = _Newest.of(documents)
        run, names = _joined(output, found)
        problems = [*found.problems(), *_lost(run, found.products)]
        result = MergeResult(output, found.count, run.count("done") + run.count("skipped"), run.count("failed"))
        if problems and not partial:
            return dataclasses.replace(result, problems=tuple(problems))
        joint = [kind for kind in found.products if kind in cohort.TYPES]
        masks = [join_masks(run, kind) for kind in joint]  # first, so that no table gets the name of their file
        made = [_make(run, recipe, found.origin(output), names) for recipe in found.merges]
        made += [path for path in masks if path is not None]
        run.complete = not problems
        run.write_summary()
        if not problems:
            drop_parts(output, joint)
            sweep(output)
    return dataclasses.replace(result, problems=tuple(problems), merged=(*made, whole))


@dataclasses.dataclass(frozen=True)
class _Newest:
    """The parts of the latest run, by index, and what they record."""

    count: int
    documents: dict[int, dict]

    @classmethod
    def of(cls, documents: Mapping[Path, dict]) -> "_Newest":
        newest = max(documents, key=lambda path: summaries.number_of(documents[path]))
        _, count = summaries.part_numbers(newest)
        mine = {summaries.part_numbers(path): document for path, document in documents.items()}
        return cls(count, {index: document for (index, of), document in mine.items() if of == count})

    def current(self, index: int) -> dict[str, dict]:
        """Returns the entries of the files that part `index` of the run has, by key."""
        document = self.documents[index]
        number = summaries.number_of(document)
        return {key: entry for key, entry in document["files"].items() if entry[NUMBER] == number}

    @property
    def products(self) -> list[str]:
        """The kinds of results that the run makes from each file."""
        return list(dict.fromkeys(kind for document in self.documents.values() for kind in document["products"]))

    @property
    def merges(self) -> list[dict]:
        """The files to make from all results, each once."""
        found: list[dict] = []
        for document in self.documents.values():
            found += [recipe for recipe in document.get("merges", []) if recipe not in found]
        return found

    def origin(self, output: Path) -> Path:
        """The folder or file that was the input of the run."""
        return Path(resolved(output, str(next(iter(self.documents.values())).get("input", "."))))

    def problems(self) -> Iterable[str]:
        """Yields what is missing or double."""
        missing = [index for index in range(1, self.count + 1) if index not in self.documents]
        if missing:
            yield f"{shown_parts(missing, self.count)}: no summary; run {'it' if len(missing) == 1 else 'them'}"
        owners: dict[str, list[int]] = collections.defaultdict(list)
        lists: dict[tuple, list[int]] = collections.defaultdict(list)
        for index, document in self.documents.items():
            entries = self.current(index)
            pending = sum(entry["status"] == "pending" for entry in entries.values())
            if pending or not document.get("complete"):
                yield f"part {Part(index, self.count)}: {pending:,} files are not processed yet; run it again"
            for key in entries:
                owners[key].append(index)
            listed = document.get("listed", {})
            lists[listed.get("files"), listed.get("digest")].append(index)
        for key in [key for key, indices in owners.items() if len(indices) > 1][:SHOWN]:
            yield f"{key}: in more than one part ({', '.join(map(str, owners[key]))} of {self.count})"
        if len(lists) > 1:
            seen = "; ".join(f"{files} by {shown_parts(indices, self.count)}" for (files, _), indices in lists.items())
            yield f"the parts found different files in the input: {seen}; run all parts again"
        elif not missing and len(owners) != (wanted := next(iter(lists))[0]):
            yield f"the parts have {len(owners)} files, but there were {wanted}; run all parts again"


def _read(paths: list[Path]) -> dict[Path, dict]:
    """Returns the content of the summaries.

    Raises:
      ValueError: one is damaged, or was written by another program.
    """
    documents = {}
    for path in paths:
        try:
            for document in summaries.read([path]):
                Part(*summaries.part_numbers(path))
                number = summaries.number_of(document)
                entries = {
                    key: {"status": entry["status"], NUMBER: summaries.number_of(entry) or number}
                    | {NAME: str(entry.get(NAME, key))}
                    for key, entry in document["files"].items()
                }
                products = [str(kind) for kind in document["products"]]
                documents[path] = document | {"products": products, "files": entries}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{path} is not a jaxseg summary, or is damaged; remove it, and run its part again"
            ) from None
    return documents


def _joined(output: Path, found: _Newest) -> tuple[Run, dict[str, str]]:
    """Returns the run that the parts make together, with its files sorted by their names, and the names by key."""
    document = next(iter(found.documents.values()))
    run = Run(output, (), dict(document["settings"]), note=str(document.get("note", "")))
    run.open_ledger()
    if run.ledger.changed:
        raise ValueError(f"{output}: the parts have different settings: {', '.join(run.ledger.changed)}")
    run.facts = {"products": found.products}
    names = {key: entry[NAME] for index in found.documents for key, entry in found.current(index).items()}
    names = {key: names[key] for key in sorted(names, key=lambda key: PurePosixPath(names[key]))}
    entries = {key: without_part(entry) for key, entry in run.ledger.entries.items()}
    run.files = {key: entries[key] for key in names}
    run.earlier = {key: entry for key, entry in entries.items() if key not in names}
    return run, names


def _lost(run: Run, products: list[str]) -> Iterable[str]:
    """Yields results that are recorded, but do not exist or have another size, and files that lack recorded masks."""
    lost = []
    done = {key: entry for key, entry in run.files.items() if entry["status"] in ("done", "skipped")}
    for kind in products:
        made = {key: entry["outputs"].get(kind) for key, entry in done.items()}
        lost += [key for key, output in made.items() if output is None]
        if kind in cohort.TYPES:
            places = places_of(done, kind)
            holders = cohort.find_holders(run.output, places)
            lost += [place for key, place in places.items() if key not in holders]
            continue
        for output in filter(None, made.values()):
            extent = extent_of(run.output / output["path"])
            if not extent or output.get("extent", extent) != extent:
                lost.append(output["path"])
    lost = list(dict.fromkeys(lost))
    if lost:
        more = f" and {len(lost) - SHOWN:,} more" if len(lost) > SHOWN else ""
        yield f"results are missing or incomplete: {', '.join(lost[:SHOWN])}{more}; run the parts again"


def _make(run: Run, recipe: Mapping[str, Any], origin: Path, names: Mapping[str, str]) -> Path:
    each = Merged(recipe["suffix"], recipe["kind"], recipe["facts"])
    path = merged_path(run, origin, each.suffix, name=str(recipe["name"]))
    if each.suffix.startswith("."):
        entries = [(names[key], entry) for key, entry in run.files.items()]
    else:
        entries = sorted((run.earlier | run.files).items())
    merged.update(run, each, path, entries, changed=True)
    return path


def shown_parts(indices: list[int], count: int) -> str:
    """Returns parts in words, such as "parts 1, 3 of 8"."""
    shown = ", ".join(map(str, indices[:SHOWN]))
    more = f" and {len(indices) - SHOWN} more" if len(indices) > SHOWN else ""
    return f"part{'s' * (len(indices) > 1)} {shown}{more} of {count}"
