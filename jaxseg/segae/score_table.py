"""Table of predicted Dice with one row per case and one column per organ, from which an interrupted run resumes."""

import csv
import dataclasses
import io
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxseg.files import atomic_file, printable
from jaxseg.folder_runs.ledger import Kind, Ledger, refuse_changed
from jaxseg.parquet import is_parquet, write_table
from jaxseg.segae.cases import Case, Record
from jaxseg.segae.scorer import MaskScore
from jaxseg.vocabulary import organs

ORDERS = {"annotate": False, "trust": True}  # order of masks -> whether the highest predicted Dice is first
FIRST, NOT_AVAILABLE = "CT_Sample", "n/a"  # as in the original's CSV
BESIDE = ("slices.csv", *(f"{order}.csv" for order in ORDERS), "worst.png")  # files that are written beside the table
WRITE_S = 5.0  # seconds after which a growing CSV is written again


@dataclasses.dataclass(frozen=True)
class Row:
    """The score of one mask.

    Attributes:
      case: name of the case.
      organ: name of the mask.
      score: predicted Dice of its slices; at least one.
    """

    case: str
    organ: str
    score: MaskScore

    @property
    def worst_slice(self) -> int:
        """Index of the slice with the lowest predicted Dice."""
        return min(zip(self.score.dice, self.score.slices, strict=True))[1]


def rows_of(record: Record) -> list[Row]:
    """Returns one row for each mask of a case that was scored."""
    return [Row(record.case, name, score) for name, score in record.scores.items()]


def ordered(rows: Iterable[Row], *, best_first: bool = False) -> list[Row]:
    """Returns rows sorted by predicted Dice, by default the lowest first."""
    return sorted(rows, key=lambda row: row.score.mean, reverse=best_first)


class ScoreTable:
    """All scores so far: a table, and beside it the journal `NAME.scores.jsonl`, from which a run resumes.

    The journal is a `jaxseg.folder_runs.ledger.Ledger`, so that a killed run loses at most the case at hand. The table
    is always replaced as a whole.

    Args:
      path: the table, .csv or .parquet. Files beside it, such as slices, are CSV.
      columns: names of the organs, in order.
      settings: everything that scores depend on, as values that JSON can hold.
      overwrite: discard earlier scores.

    Attributes:
      journal: path of the journal.

    Raises:
      ValueError: the CSV exists but was not written by jaxseg, or was written with other settings.
    """

    def __init__(self, path: Path, columns: Sequence[str], settings: Mapping, *, overwrite: bool = False):
        self.path, self.columns = path, tuple(columns)
        self.journal = path.with_name(f"{path.stem}.scores.jsonl")
        self._written = 0.0
        is_new = not self.journal.is_file()
        self._ledger = Ledger(self.journal, settings, kind=_SCORES)
        if is_new and (other := next((file for file in [path, *self._beside()] if file.exists()), None)):
            raise ValueError(f"{other} exists, and was not written by `jaxseg score`; name another file")
        if overwrite:
            self._ledger.entries.clear()
        else:
            refuse_changed(f"{path} was written", self._ledger.changed, "name another file, or --overwrite it")
        if not self._ledger.entries:
            for file in [path, *self._beside()]:
                file.unlink(missing_ok=True)  # results of a run that is started again
            self._ledger.write()

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
        """Adds a case. The CSV is written at most every few seconds; call `write` after the last case."""
        scores = {
            name: {"id": score.organ.id, "slices": score.slices, "predicted": score.dice}
            for name, score in record.scores.items()
        }
        entry = {"source": case.source, "fingerprint": record.fingerprint}
        entry |= {"scores": scores, "absent": record.absent, "failed": record.failed, "notes": record.notes}
        self._ledger.record(case.name, entry)
        if time.monotonic() - self._written > WRITE_S:
            self.write()

    def write(self) -> None:
        """Writes the table with the columns of the original.

        A cell without a score is "n/a" in a CSV, as in the original, and missing in a Parquet table.
        """
        means = ({row.organ: row.score.mean for row in self._rows(case)} for case in sorted(self._ledger.entries))
        rows = zip(sorted(self._ledger.entries), means, strict=True)
        if is_parquet(self.path):
            kinds = {FIRST: "string"} | dict.fromkeys(self.columns, "double")
            write_table(self.path, kinds, ([case, *map(found.get, self.columns)] for case, found in rows))
        else:
            cells = [[FIRST, *self.columns]]
            for case, found in rows:
                texts = (f"{found[name]:.6f}" if name in found else NOT_AVAILABLE for name in self.columns)
                cells.append([case, *texts])
            write_csv(self.path, cells)
        self._written = time.monotonic()

    def ordered(self, *, best_first: bool = False) -> list[Row]:
        """Returns the rows of all masks sorted by predicted Dice, by default the lowest first."""
        rows = (row for case in sorted(self._ledger.entries) for row in self._rows(case))
        return ordered(rows, best_first=best_first)

    def write_order(self, order: str) -> Path:
        """Writes the order in which to annotate masks (worst first) or to trust them (best first).

        Args:
          order: key of `ORDERS`.

        Returns:
          The path of the CSV.
        """
        rows = [["rank", "case", "organ", "predicted_dice"]]
        for place, row in enumerate(self.ordered(best_first=ORDERS[order]), 1):
            rows.append([place, row.case, row.organ, f"{row.score.mean:.6f}"])
        path = self.beside(f"{order}.csv")
        write_csv(path, rows)
        return path

    def write_slices(self) -> Path:
        """Writes one line per scored slice and returns the path of the CSV."""
        rows = [["case", "organ", "slice", "predicted_dice"]]
        for case in sorted(self._ledger.entries):
            for row in self._rows(case):
                pairs = zip(row.score.slices, row.score.dice, strict=True)
                rows += [[row.case, row.organ, z, f"{value:.6f}"] for z, value in pairs]
        path = self.beside("slices.csv")
        write_csv(path, rows)
        return path

    def beside(self, end: str) -> Path:
        """Returns the path of a file beside the table, `NAME.end`."""
        return self.path.with_name(f"{self.path.stem}.{end}")

    def _beside(self) -> list[Path]:
        return [self.beside(end) for end in BESIDE]

    def _rows(self, case: str) -> list[Row]:
        found = []
        for name, entry in self._ledger.entries[case]["scores"].items():
            score = MaskScore(organs.ORGANS[entry["id"]], tuple(entry["slices"]), tuple(entry["predicted"]))
            found.append(Row(case, name, score))
        return found


def write_csv(path: Path, rows: Sequence[Sequence]) -> None:
    """Writes a CSV as a whole or not at all; cells that a spreadsheet would evaluate as formulas get an apostrophe."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(value) for value in row] for row in rows])
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _cell(value: object) -> str:
    text = printable(str(value))
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "@") else text


def _read_entry(entry: dict) -> dict:
    """Returns the entry of a case; raises an error if `ScoreTable.add` did not write it: the case is scored again."""
    good = isinstance(entry["fingerprint"], str) and isinstance(entry["failed"], dict)
    for score in entry["scores"].values():
        same = len(score["slices"]) == len(score["predicted"]) > 0
        numbers = all(type(z) is int for z in score["slices"]) and all(type(p) is float for p in score["predicted"])
        good = good and same and numbers and type(score["id"]) is int and 0 <= score["id"] < len(organs.ORGANS)
    if not good:
        raise ValueError("not the entry of a scored case")
    return entry


_SCORES = Kind("jaxseg_score", "case", "is not a journal of `jaxseg score`; name another CSV", _read_entry)
