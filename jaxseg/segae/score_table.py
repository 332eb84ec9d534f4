"""Table of predicted Dice with one row per case and one column per organ, from which an interrupted run resumes.

In memory is only the mean of each mask; the scores of its slices are read from the journal of the table when they are
needed.
"""

import csv
import dataclasses
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from jaxseg import journal
from jaxseg.files import atomic_file, printable
from jaxseg.folder_runs.ledger import Kind, Ledger, refuse_changed
from jaxseg.folder_runs.parts import MOST, Part, remove_parts
from jaxseg.parquet import is_parquet, write_table
from jaxseg.segae.cases import Case, Record
from jaxseg.segae.scorer import MaskScore, StoredScore
from jaxseg.summaries import NUMBER, number_of
from jaxseg.vocabulary import organs

ORDERS = {"annotate": False, "trust": True}  # order of masks -> whether the highest predicted Dice is first
FIRST, NOT_AVAILABLE = "CT_Sample", "n/a"  # as in the original's CSV
BESIDE = ("slices.csv", *(f"{order}.csv" for order in ORDERS), "worst.png")  # files that are written beside the table
WRITE_S = 5.0  # seconds after which a growing CSV is written again
GROWTH = 4  # it is not written again before it has grown by one part in this number, so that the work stays linear


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """The score of one mask.

    Attributes:
      case: name of the case.
      organ: name of the mask.
      score: predicted Dice of its slices; at least one.
    """

    case: str
    organ: str
    score: MaskScore | StoredScore

    @property
    def worst_slice(self) -> int:
        """Index of the slice with the lowest predicted Dice."""
        return self.score.worst_slice


def rows_of(record: Record) -> list[Row]:
    """Returns one row for each mask of a case that was scored."""
    return [Row(record.case, name, score) for name, score in record.scores.items()]


def ordered(rows: Iterable[Row], *, best_first: bool = False) -> list[Row]:
    """Returns rows sorted by predicted Dice, by default the lowest first."""
    return sorted(rows, key=lambda row: row.score.mean, reverse=best_first)


class ScoreTable:
    """All scores so far: a table, and beside it the journal `NAME.scores.jsonl`, from which a run resumes.

    The journal is a `jaxseg.folder_runs.ledger.Ledger`, so that a killed run loses at most the case at hand. The table
    is always replaced as a whole. A part of a run has a journal `NAME.3-of-8.jsonl` and no table, see `merge_scores`.

    Args:
      path: the table, .csv or .parquet. Files beside it, such as slices, are CSV.
      columns: names of the organs, in order.
      settings: everything that scores depend on, as values that JSON can hold.
      overwrite: discard earlier scores, and allow that settings have changed, except those of a part.
      part: the part of the cases; None: all.
      facts: what `merge_scores` must know about a part, as JSON holds it.

    Attributes:
      journal: path of the journal.

    Raises:
      ValueError: the CSV exists but was not written by jaxseg, or it or another part was written with other settings.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        settings: Mapping,
        *,
        overwrite: bool = False,
        part: Part | None = None,
        facts: Mapping | None = None,
    ):
        self.path, self.columns, self.part = path, tuple(columns), part
        self.journal = journal_of(path, part)
        self._written, self._added, self._in_csv = 0.0, 0, 0
        self._cases_of_parts: set[str] = set()
        known = [other for other in journals(path) if other != self.journal]
        others = [] if overwrite and part is None else known
        self._ledger = Ledger(self.journal, settings, kind=SCORES)
        self._places = {case: (self.journal, place) for case, place in self._ledger.places.items()}
        foreign = [file for file in [path, *self._beside()] if file.exists()]
        if foreign and not journal_of(path).is_file():
            raise ValueError(f"{foreign[0]} exists, and was not written by `jaxseg score`; name another file")
        if part is not None:
            refuse_changed(f"{path} was written", self._ledger.changed, "name another file for the parts")
        elif not overwrite:
            refuse_changed(f"{path} was written", self._ledger.changed, "name another file, or --overwrite it")
        is_new = overwrite or not self._ledger.entries
        number = self._join(others, set() if overwrite else None if facts is None else set(facts["cases"]))
        if overwrite:
            self._ledger.entries.clear()
        self._number = number if others or part is not None else 0
        if is_new:
            self._ledger.facts = {}
            if part is None and not others:
                remove_parts(known, path)
                for file in [path, *self._beside()]:
                    file.unlink(missing_ok=True)  # results of a run that is started again
            journal.create(self.journal, {SCORES.mark: 1, "settings": dict(settings)})
        if part is not None:
            self._ledger.note(columns=list(self.columns), complete=False, **{NUMBER: number}, **(facts or {}))

    def _join(self, others: Sequence[Path], cases: set[str] | None) -> int:
        """Adds the scores in other journals of the table, of some cases or of all; returns the next run's number."""
        entries = self._ledger.entries
        numbers = [number_of(self._ledger.facts), *map(number_of, entries.values())]
        for path in others:
            ledger = Ledger(path, self._ledger.settings, kind=SCORES)
            refuse_changed(f"{path} was written", ledger.changed, "name another file")
            numbers += [number_of(ledger.facts), *map(number_of, ledger.entries.values())]
            self._cases_of_parts.update(ledger.facts.get("cases", ()))
            for case, entry in ledger.entries.items():
                if cases is not None and case not in cases:
                    continue
                if case not in entries or number_of(entries[case]) < number_of(entry):
                    entries[case], self._places[case] = entry, (path, ledger.places[case])
        return 1 + max(numbers)

    def has(self, case: Case) -> bool:
        """Returns whether a case was scored without a failure, from the files as they are now.

        Raises:
          ValueError: the table has another case with this name.
        """
        line = self._ledger.entries.get(case.name)
        if line is not None and line.get("source", "") != case.source:
            raise ValueError(f"{self.path} has a row {case.name} of another case; name another file")
        return line is not None and not line["failed"] and line["fingerprint"] == case.fingerprint()

    def add(self, case: Case, record: Record) -> None:
        """Adds a case; the record then has only the means of its scores in memory.

        The CSV is written at most every few seconds, and not before it has grown; call `write` after the last case.
        """
        scores = {
            name: {"id": score.organ.id, "slices": score.slices, "predicted": score.dice}
            | ({"pixels": score.pixels} if score.pixels else {})
            | ({"margin": score.margin} if score.margin is not None else {})
            for name, score in record.scores.items()
        }
        entry = {"source": case.source, "fingerprint": record.fingerprint}
        entry |= {"scores": scores, "absent": record.absent, "failed": record.failed, "notes": record.notes}
        self._ledger.record(case.name, entry | ({NUMBER: self._number} if self._number else {}))
        self._places[case.name] = self.journal, self._ledger.places[case.name]
        self._added += 1
        if time.monotonic() - self._written > WRITE_S and self._added * GROWTH >= self._in_csv:
            self.write()

    def write(self) -> None:
        """Writes the table with the columns of the original. A part has none.

        A cell without a score is "n/a" in a CSV, as in the original, and missing in a Parquet table.
        """
        if self.part is None and is_parquet(self.path):
            kinds = {FIRST: "string"} | dict.fromkeys(self.columns, "double")
            write_table(self.path, kinds, ([case, *map(found.get, self.columns)] for case, found in self._means()))
        elif self.part is None:
            write_csv(self.path, self._lines())
        self._written, self._added, self._in_csv = time.monotonic(), 0, len(self._ledger.entries)

    def conclude(self) -> None:
        """Writes the table; of a part, records that all of its cases were scored.

        A table that has all cases of the parts then replaces them.
        """
        if self.part is not None:
            self._ledger.note(complete=True)
            return
        replaces = self._cases_of_parts <= self._ledger.entries.keys()
        if replaces:
            for case, (path, place) in self._places.items():
                line = None if path == self.journal else journal.line_at(path, place)
                if line is not None:
                    self._places[case] = self.journal, journal.append(self.journal, line)
        self.write()
        if replaces:
            remove_parts(list(parts_of(self.path)), self.path)

    def _means(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Yields the predicted Dice of the organs of each case."""
        for case in sorted(self._ledger.entries):
            yield case, {row.organ: row.score.mean for row in self.rows(case)}

    def _lines(self) -> Iterator[Sequence]:
        yield [FIRST, *self.columns]
        for case, found in self._means():
            yield [case, *(f"{found[name]:.6f}" if name in found else NOT_AVAILABLE for name in self.columns)]

    def rows(self, case: str) -> list[Row]:
        """Returns one row for each mask of a case that was scored."""
        path, place = self._places[case]
        entry = self._ledger.entries[case]
        return [Row(case, name, StoredScore(case, name, *score, path, place)) for name, *score in entry["scores"]]

    def ordered(self, *, best_first: bool = False) -> list[Row]:
        """Returns the rows of all masks sorted by predicted Dice, by default the lowest first."""
        rows = (row for case in sorted(self._ledger.entries) for row in self.rows(case))
        return ordered(rows, best_first=best_first)

    def write_order(self, order: str) -> Path:
        """Writes the order in which to annotate masks (worst first) or to trust them (best first).

        If the model has a calibration and slices have equal weights, the columns `lower` and `upper` hold the interval
        of each mask.

        Args:
          order: key of `ORDERS`.

        Returns:
          The path of the CSV.
        """
        rows = [["rank", "case", "organ", "predicted_dice"]]
        settings = self._ledger.settings
        if "calibration" in settings and "average" not in settings:
            rows[0] += ["lower", "upper"]
        for place, row in enumerate(self.ordered(best_first=ORDERS[order]), 1):
            numbers = (row.score.mean, *(row.score.interval or ()))
            rows.append([place, row.case, row.organ, *(f"{number:.6f}" for number in numbers)])
        path = self.beside(f"{order}.csv")
        write_csv(path, rows)
        return path

    def write_slices(self) -> Path:
        """Writes one line per scored slice and returns the path of the CSV."""
        path = self.beside("slices.csv")
        write_csv(path, self._slices())
        return path

    def _slices(self) -> Iterator[Sequence]:
        yield ["case", "organ", "slice", "predicted_dice"]
        for case in sorted(self._ledger.entries):
            line = journal.line_at(*self._places[case])
            for name, score in (line or {"scores": {}})["scores"].items():
                for z, value in zip(score["slices"], score["predicted"], strict=True):
                    yield [case, name, z, f"{value:.6f}"]

    def beside(self, end: str) -> Path:
        """Returns the path of a file beside the table, `NAME.end`."""
        return self.path.with_name(f"{self.path.stem}.{end}")

    def _beside(self) -> list[Path]:
        return [self.beside(end) for end in BESIDE]


def journal_of(path: Path, part: Part | None = None) -> Path:
    """Returns the path of the journal of a table, or of a part of it."""
    return path.with_name(f"{path.stem}.{'scores' if part is None else part.tag}.jsonl")


def parts_of(path: Path) -> dict[Path, Part]:
    """Returns the journals of the parts of a table, and their parts, sorted."""
    found = {}
    start = f"{path.stem}."
    for file in path.parent.iterdir() if path.parent.is_dir() else ():
        words = file.name.removeprefix(start).removesuffix(".jsonl").split("-of-")
        if len(words) == 2 and all(word.isdecimal() for word in words) and file.name.startswith(start):
            index, count = map(int, words)
            if 1 <= index <= count <= MOST and file == journal_of(path, Part(index, count)):
                found[file] = Part(index, count)
    return dict(sorted(found.items(), key=lambda item: (item[1].count, item[1].index)))


def journals(path: Path) -> list[Path]:
    """Returns the existing journals of a table: that of the whole, then those of parts."""
    whole = journal_of(path)
    return [whole] * whole.is_file() + list(parts_of(path))


def write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    """Writes a CSV as a whole or not at all; cells that a spreadsheet would evaluate as formulas get an apostrophe."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([_cell(value) for value in row] for row in rows)


def _cell(value: object) -> str:
    text = printable(str(value))
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "@") else text


def _read_entry(entry: dict) -> dict:
    """Returns the entry of a case; raises an error if `ScoreTable.add` did not write it: the case is scored again."""
    good = isinstance(entry["fingerprint"], str) and isinstance(entry["failed"], dict)
    for score in entry["scores"].values():
        same = len(score["slices"]) == len(score["predicted"]) > 0
        numbers = all(type(z) is int for z in score["slices"]) and all(type(p) is float for p in score["predicted"])
        pixels = score.get("pixels", [])
        weights = len(pixels) in (0, len(score["slices"])) and all(type(n) is int and n > 0 for n in pixels)
        margin = score.get("margin", 0.0)
        good = good and same and numbers and weights and type(margin) is float and 0 <= margin <= 1
        good = good and type(score["id"]) is int and 0 <= score["id"] < len(organs.ORGANS)
    if not good:
        raise ValueError("not the entry of a scored case")
    return entry


def _kept(entry: dict) -> dict:
    """Returns what stays in memory of the entry of a case: of a mask its name, organ, mean, worst slice and margin."""
    scores = []
    for name, score in entry["scores"].items():
        values = (tuple(score["slices"]), tuple(score["predicted"]), tuple(score.get("pixels", ())))
        found = MaskScore(organs.ORGANS[score["id"]], *values)
        scores.append((sys.intern(name), score["id"], found.mean, found.worst_slice, score.get("margin")))
    source, failed = entry.get("source", ""), bool(entry["failed"])
    return {
        "source": source,
        "fingerprint": entry["fingerprint"],
        "failed": failed,
        "scores": scores,
        NUMBER: number_of(entry),
    }


SCORES = Kind("jaxseg_score", "case", "is not a journal of `jaxseg score`; name another CSV", _read_entry, kept=_kept)
