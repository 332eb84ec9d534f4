"""What a search found: its trials as a table for people, `trials.csv`, `best.yaml` and a picture."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxseg.draw.save import save_picture
from jaxseg.files import atomic_file
from jaxseg.training.config.config import read_config, write_config
from jaxseg.tuning.coordinates import Axis, parallel_coordinates
from jaxseg.tuning.space import Parameter

TABLE_FILE, BEST_FILE, PICTURE_FILE = "trials.csv", "best.yaml", "coordinates.png"
COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Attributes:
      number: from 0.
      state: "complete"; "pruned": cut short, since others were better or the loss was not finite; "failed": the
        settings do not go together, with the data or with the memory.
      value: the best validation; of a pruned trial, its last; None: there is none.
      values: setting -> number or choice.
      note: why it is not complete, or whose result it has.
    """

    number: int
    state: str
    value: float | None
    values: Mapping[str, float | int | str]
    note: str = ""

    @property
    def name(self) -> str:
        """The name of its run in the folder `trials`."""
        return f"{self.number:04d}"


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
      target: name of the number of which the highest is best.
      trials: all that have ended; complete ones first, the best ahead, of equal ones the earliest.
    """

    target: str
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial | None:
        """The best complete trial; None: no trial is complete."""
        return self.trials[0] if self.trials and self.trials[0].state == COMPLETE else None


def ranked(target: str, trials: Sequence[Trial]) -> Found:
    """Returns trials in the order of `Found`; pruned and failed ones as they came."""
    complete = sorted((t for t in trials if t.state == COMPLETE), key=lambda t: (-t.value, t.number))
    return Found(target, (*complete, *sorted((t for t in trials if t.state != COMPLETE), key=lambda t: t.number)))


def table(found: Found, count: int = 5) -> str:
    """Returns the best trials as lines of columns, and how many there are of each state."""
    complete = [trial for trial in found.trials if trial.state == COMPLETE]
    rows = [["trial", found.target, *(complete[0].values if complete else ())]]
    rows += [[t.name, f"{t.value:.4f}", *map(shown, t.values.values())] for t in complete[:count]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    states = [(state, sum(t.state == state for t in found.trials)) for state in (COMPLETE, PRUNED, FAILED)]
    return "\n".join([*lines, ", ".join(f"{number} {state}" for state, number in states if number)])


def shown(value: float | int | str) -> str:
    """Returns a value as a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_results(folder: Path, runs: Path, found: Found, space: Sequence[Parameter]) -> None:
    """Writes `trials.csv`, and where there are trials with values `coordinates.png`, and `best.yaml` of the best.

    Args:
      folder: of the search.
      runs: of the runs of its trials.
      found: all that have ended.
      space: what was searched for.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    paths = [parameter.path for parameter in space]
    writer.writerow(["trial", "state", found.target, *paths, "note"])
    for trial in sorted(found.trials, key=lambda trial: trial.number):
        value = "" if trial.value is None else repr(trial.value)
        writer.writerow([trial.name, trial.state, value, *(trial.values[path] for path in paths), trial.note])
    with atomic_file(folder / TABLE_FILE) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    if found.best:
        write_config(read_config(runs / found.best.name / "config.yaml"), folder / BEST_FILE)
    drawn = [trial for trial in found.trials if trial.value is not None]
    if drawn:
        save_picture(_picture(found.target, drawn, space), folder / PICTURE_FILE)


def _picture(target: str, drawn: Sequence[Trial], space: Sequence[Parameter]):
    axes = [Axis(p.path, tuple(t.values[p.path] for t in drawn), p.low, p.high, p.log, p.choices) for p in space]
    axes.append(Axis(target, tuple(trial.value for trial in drawn)))
    short = sum(trial.state != COMPLETE for trial in drawn)
    title = f"{len(drawn)} trials" + (f", {short} of them cut short (thin)" if short else "")
    return parallel_coordinates(axes, title=title, faint=[trial.state != COMPLETE for trial in drawn])
