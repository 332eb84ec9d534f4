"""Table of predicted Dice with one row per case and one column per organ, from which an interrupted run resumes."""

import csv
import dataclasses
import io
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxseg.files import atomic_file, printable
from jaxseg.segae.cases import Case, Record
from jaxseg.segae.scorer import MaskScore
from jaxseg.vocabulary import organs

ORDERS = {"annotate": False, "trust": True}  # order of masks -> whether the highest predicted Dice is first
FIRST, NOT_AVAILABLE = "CT_Sample", "n/a"  # as in the original's CSV
BESIDE = ("slices.csv", *(f"{order}.csv" for order in ORDERS), "worst.png")  # files that are written beside the table
WRITE_S = 5.0  # seconds after which a growing CSV is written again
MAX_LINE = 2**26  # characters in the line of a case


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
    """All scores so far: a CSV for people, and beside it the journal `NAME.scores.jsonl`, from which a run resumes.

    The first line of the journal holds the settings. Each case appends one line, which is synced to disk before the
    next case is added, so that a killed run loses at most the case at hand; an incomplete last line is ignored. The CSV
    is always replaced as a whole.

    Args:
      path: the CSV.
      columns: names of the organs, in order.
      settings: everything that scores depend on, as values that JSON can hold.
      overwrite: discard earlier scores.

    Attributes:
      journal: path of the journal.

    Raises:
      ValueError: the CSV exists but was not written by jaxseg, or was written with other settings.
    """

    def __init__(self, path: Path, columns: Sequence[str], settings: Mapping, *, overwrite: bool = False):
        self.path, self.columns, self.settings = path, tuple(columns), dict(settings)
        self.journal = path.with_name(f"{path.stem}.scores.jsonl")
        self._lines: dict[str, dict] = {}
        self._written = 0.0
        if self.journal.is_file():
            self._read(overwrite)
        else:
            if other := next((file for file in [path, *self._beside()] if file.exists()), None):
                raise ValueError(f"{other} exists, and was not written by `jaxseg score`; name another file")
        if not self._lines:
            for file in [path, *self._beside()]:
                file.unlink(missing_ok=True)  # results of a run that is started again
            with atomic_file(self.journal) as temporary:
                temporary.write_text(json.dumps({"jaxseg_score": 1, "settings": self.settings}) + "\n")

    def has(self, case: Case) -> bool:
        """Returns whether a case was scored without a failure, from the files as they are now.

        Raises:
          ValueError: the table has another case with this name.
        """
        line = self._lines.get(case.name)
        if line is not None and line.get("source", "") != case.source:
            raise ValueError(f"{self.path} has a row {case.name} of another case; name another file")
        return line is not None and not line["failed"] and line["fingerprint"] == case.fingerprint()

    def add(self, case: Case, record: Record) -> None:
        """Adds a case. The CSV is written at most every few seconds; call `write` after the last case."""
        scores = {
            name: {"id": score.organ.id, "slices": score.slices, "predicted": score.dice}
            for name, score in record.scores.items()
        }
        line = {"case": case.name, "source": case.source, "fingerprint": record.fingerprint}
        line |= {"scores": scores, "absent": record.absent, "failed": record.failed}
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines[case.name] = json.loads(json.dumps(line))
        if time.monotonic() - self._written > WRITE_S:
            self.write()

    def write(self) -> None:
        """Writes the CSV with the columns of the original, and "n/a" in cells without a score."""
        rows = [[FIRST, *self.columns]]
        for case in sorted(self._lines):
            means = {row.organ: f"{row.score.mean:.6f}" for row in self._rows(case)}
            rows.append([case, *(means.get(name, NOT_AVAILABLE) for name in self.columns)])
        write_csv(self.path, rows)
        self._written = time.monotonic()

    def ordered(self, *, best_first: bool = False) -> list[Row]:
        """Returns the rows of all masks sorted by predicted Dice, by default the lowest first."""
        return ordered((row for case in sorted(self._lines) for row in self._rows(case)), best_first=best_first)

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
        for case in sorted(self._lines):
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
        for name, entry in self._lines[case]["scores"].items():
            score = MaskScore(organs.ORGANS[entry["id"]], tuple(entry["slices"]), tuple(entry["predicted"]))
            found.append(Row(case, name, score))
        return found

    def _read(self, overwrite: bool) -> None:
        first, *lines = self.journal.read_bytes().decode("utf-8", "replace").split("\n")
        try:
            head = json.loads(first[:MAX_LINE])
            settings = head["settings"] if head["jaxseg_score"] == 1 else None
        except (ValueError, KeyError, TypeError):
            settings = None
        if not isinstance(settings, dict):
            raise ValueError(f"{self.journal} is not a journal of `jaxseg score`; name another CSV")
        if overwrite:
            return
        changed = [name for name in self.settings if settings.get(name) != self.settings[name]]
        if changed:
            what = ", ".join(changed)
            raise ValueError(f"{self.path} was written with another {what}; name another file, or --overwrite it")
        for text in lines[:-1]:  # the text after the last line break is incomplete
            line = _line(text)
            if line is not None:
                self._lines[line["case"]] = line
        if len(lines) and lines[-1]:
            whole = "\n".join([first, *lines[:-1]]) + "\n"
            with atomic_file(self.journal) as temporary:
                temporary.write_text(whole, encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Sequence]) -> None:
    """Writes a CSV as a whole or not at all; cells that a spreadsheet would evaluate as formulas get an apostrophe."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(value) for value in row] for row in rows])
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _cell(value: object) -> str:
    text = printable(str(value))
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "@") else text


def _line(text: str) -> dict | None:
    """Returns the line of a case; None if `ScoreTable.add` did not write it, so that the case is scored again."""
    try:
        line = json.loads(text[:MAX_LINE])
        scores = line["scores"].values()
        good = (
            isinstance(line["case"], str) and isinstance(line["fingerprint"], str) and isinstance(line["failed"], dict)
        )
        for entry in scores:
            same = len(entry["slices"]) == len(entry["predicted"]) > 0
            numbers = all(type(z) is int for z in entry["slices"]) and all(type(p) is float for p in entry["predicted"])
            good = good and same and numbers and type(entry["id"]) is int and 0 <= entry["id"] < len(organs.ORGANS)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return line if good else None
