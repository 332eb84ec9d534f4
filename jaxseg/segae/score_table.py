"""The table of predicted Dice, a row a case and a column an organ: kept while it grows, gone on with, and ordered."""

import csv
import dataclasses
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxseg.files import atomic_file, printable
from jaxseg.segae.cases import Case, Record
from jaxseg.segae.scorer import MaskScore
from jaxseg.vocabulary import organs

ORDERS = {"annotate": False, "trust": True}  # which masks to look at first -> is the best predicted the first?
FIRST, NOT_AVAILABLE = "CT_Sample", "n/a"  # as in the original's CSV
BESIDE = ("slices.csv", *(f"{order}.csv" for order in ORDERS), "worst.png")  # what is written beside the table
WRITE_S = 5.0  # seconds after which a growing CSV is written anew
MAX_LINE = 2**26  # characters of a case's line


@dataclasses.dataclass(frozen=True)
class Row:
    """A mask that was scored."""

    case: str
    organ: str
    score: MaskScore

    @property
    def worst_slice(self) -> int:
        """The slice with the lowest predicted Dice."""
        return min(zip(self.score.dice, self.score.slices, strict=True))[1]


class ScoreTable:
    """What was scored so far: a CSV for people, and beside it `NAME.scores.jsonl`, from which a run goes on.

    Every case is one line there, synced before the next; the CSV is written anew as a whole. A line that a kill cut
    short does not count.

    Args:
      path: of the CSV.
      columns: organs, in order.
      settings: all that scores depend on, as JSON takes it.
      overwrite: begin anew.

    Raises:
      ValueError: the CSV is there but was not written by jaxseg, or with other settings.
    """

    def __init__(self, path: Path, columns: Sequence[str], settings: Mapping, *, overwrite: bool = False):
        self.path, self.columns, self.settings = path, tuple(columns), dict(settings)
        self.account = path.with_name(f"{path.stem}.scores.jsonl")
        self._lines: dict[str, dict] = {}
        self._written = 0.0
        if self.account.is_file():
            self._read(overwrite)
        else:
            if other := next((file for file in [path, *self._beside()] if file.exists()), None):
                raise ValueError(f"{other} is there, and was not written by `jaxseg score`; name another file")
        if not self._lines:
            for file in [path, *self._beside()]:
                file.unlink(missing_ok=True)  # of a run that is begun anew
            with atomic_file(self.account) as temporary:
                temporary.write_text(json.dumps({"jaxseg_score": 1, "settings": self.settings}) + "\n")

    def has(self, case: Case) -> bool:
        """Whether a case was scored, without a failure, from the files as they are now.

        Raises:
          ValueError: another case of this name was.
        """
        line = self._lines.get(case.name)
        if line is not None and line.get("source", "") != case.source:
            raise ValueError(f"{self.path} has a row {case.name} of another case; name another file")
        return line is not None and not line["failed"] and line["fingerprint"] == case.fingerprint()

    def add(self, case: Case, record: Record) -> None:
        """Keeps a case, and writes the CSV, though not more often than every few seconds: call `write` at last."""
        scores = {
            name: {"id": score.organ.id, "slices": score.slices, "predicted": score.dice}
            for name, score in record.scores.items()
        }
        line = {"case": case.name, "source": case.source, "fingerprint": record.fingerprint}
        line |= {"scores": scores, "absent": record.absent, "failed": record.failed}
        with self.account.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines[case.name] = json.loads(json.dumps(line))
        if time.monotonic() - self._written > WRITE_S:
            self.write()

    def write(self) -> None:
        """Writes the CSV: the original's columns, "n/a" where there is no score."""
        rows = [[FIRST, *self.columns]]
        for case in sorted(self._lines):
            means = {row.organ: f"{row.score.mean:.6f}" for row in self._rows(case)}
            rows.append([case, *(means.get(name, NOT_AVAILABLE) for name in self.columns)])
        write_csv(self.path, rows)
        self._written = time.monotonic()

    def ordered(self, *, best_first: bool = False) -> list[Row]:
        """Returns all masks by predicted Dice."""
        rows = [row for case in sorted(self._lines) for row in self._rows(case)]
        return sorted(rows, key=lambda row: row.score.mean, reverse=best_first)

    def write_order(self, order: str) -> Path:
        """Writes the order in which to annotate masks, worst first, or to trust them, best first; returns the file."""
        rows = [["rank", "case", "organ", "predicted_dice"]]
        for place, row in enumerate(self.ordered(best_first=ORDERS[order]), 1):
            rows.append([place, row.case, row.organ, f"{row.score.mean:.6f}"])
        path = self.path.with_name(f"{self.path.stem}.{order}.csv")
        write_csv(path, rows)
        return path

    def write_slices(self) -> Path:
        """Writes a line for every slice; returns the file."""
        rows = [["case", "organ", "slice", "predicted_dice"]]
        for case in sorted(self._lines):
            for row in self._rows(case):
                pairs = zip(row.score.slices, row.score.dice, strict=True)
                rows += [[row.case, row.organ, z, f"{value:.6f}"] for z, value in pairs]
        path = self.path.with_name(f"{self.path.stem}.slices.csv")
        write_csv(path, rows)
        return path

    def _beside(self) -> list[Path]:
        return [self.path.with_name(f"{self.path.stem}.{end}") for end in BESIDE]

    def _rows(self, case: str) -> list[Row]:
        found = []
        for name, entry in self._lines[case]["scores"].items():
            score = MaskScore(organs.ORGANS[entry["id"]], tuple(entry["slices"]), tuple(entry["predicted"]))
            found.append(Row(case, name, score))
        return found

    def _read(self, overwrite: bool) -> None:
        first, *lines = self.account.read_bytes().decode("utf-8", "replace").split("\n")
        try:
            head = json.loads(first[:MAX_LINE])
            settings = head["settings"] if head["jaxseg_score"] == 1 else None
        except (ValueError, KeyError, TypeError):
            settings = None
        if not isinstance(settings, dict):
            raise ValueError(f"{self.account} is no account of `jaxseg score`; name another CSV")
        if overwrite:
            return
        changed = [name for name in self.settings if settings.get(name) != self.settings[name]]
        if changed:
            what = ", ".join(changed)
            raise ValueError(f"{self.path} was written with another {what}; name another file, or --overwrite it")
        for text in lines[:-1]:  # what follows the last line break was cut short
            line = _line(text)
            if line is not None:
                self._lines[line["case"]] = line
        if len(lines) and lines[-1]:
            whole = "\n".join([first, *lines[:-1]]) + "\n"
            with atomic_file(self.account) as temporary:
                temporary.write_text(whole, encoding="utf-8")


def write_csv(path: Path, rows: Sequence[Sequence]) -> None:
    """Writes a CSV as a whole or not at all; cells that a spreadsheet would take for formulas get an apostrophe."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(value) for value in row] for row in rows])
    with atomic_file(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _cell(value: object) -> str:
    text = printable(str(value))
    return f"'{text}" if isinstance(value, str) and text[:1] in ("=", "+", "@") else text


def _line(text: str) -> dict | None:
    """A case's line; None where it is not what `ScoreTable.add` writes, and the case is scored again."""
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
