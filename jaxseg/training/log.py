"""The log of a run: `metrics.jsonl`, and TensorBoard events if the extra `tensorboard` is installed."""

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from jaxseg.files import atomic_file, naming, parse_json

METRICS_FILE = "metrics.jsonl"
WORST = 3  # number of classes that `headline` names


class Log:
    """Writes one JSON line per entry, without delay; only the first host writes. It is a context manager.

    Args:
      folder: folder of the run.
      step: the step at which a run starts or resumes; later entries of the file are dropped.
    """

    def __init__(self, folder: Path, step: int):
        self._writes = jax.process_index() == 0
        if not self._writes:
            return
        path = folder / METRICS_FILE
        kept = [entry for entry in read_metrics(path) if entry["step"] <= step]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board = _board(folder, step)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        if self._writes:
            for file in (self._file, self._board):
                with contextlib.suppress(OSError):  # part of an entry that `write` could not complete
                    if file is not None:
                        file.close()

    def write(self, split: str, step: int, epoch: int, values: dict[str, float]) -> None:
        """Adds an entry: the values of a split after a step; values that are not finite become null."""
        if not self._writes:
            return
        shown = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        with naming(Path(self._file.name)):
            self._file.write(json.dumps({"split": split, "step": step, "epoch": epoch} | shown) + "\n")
            self._file.flush()
        if self._board is not None:
            self._board.write(split, step, values)


def headline(scores: Mapping[str, float]) -> dict[str, float]:
    """Returns the scores of all classes together, and the lowest ones of single classes.

    Args:
      scores: such as {"dice": 0.8, "dice heart": 0.7, ...}. A name that begins with another name and a space is the
        score of a single class. Only classes of the first kind of score are ranked.

    >>> headline({"dice": 0.7, "dice a": 0.9, "dice b": 0.5, "dice c": 0.6, "dice d": 0.8})
    {'dice': 0.7, 'dice b': 0.5, 'dice c': 0.6, 'dice d': 0.8}
    """
    together, _, worst = _parted(scores)
    return together | worst


def brief(scores: Mapping[str, float]) -> str:
    """Returns the scores of `headline` as one line.

    >>> brief({"dice": 0.7, "dice left lung": 0.9, "dice heart": 0.5})
    'dice 0.7000; lowest: heart 0.5000, left lung 0.9000'
    """
    together, kind, worst = _parted(scores)
    text = ", ".join(f"{name} {value:.4f}" for name, value in together.items())
    lowest = ", ".join(f"{name.removeprefix(f'{kind} ')} {value:.4f}" for name, value in worst.items())
    return f"{text}; lowest: {lowest}" if worst else text


def _parted(scores: Mapping[str, float]) -> tuple[dict[str, float], str, dict[str, float]]:
    """Returns the scores of all classes together, the kind by which classes are ranked, and its lowest scores."""
    members = {kind: [name for name in scores if name.startswith(f"{kind} ")] for kind in scores}
    single = {name for names in members.values() for name in names}
    kind = next((kind for kind, names in members.items() if names), "")
    known = [name for name in members.get(kind, ()) if not math.isnan(scores[name])]
    worst = sorted(known, key=lambda name: scores[name])[:WORST]
    together = {name: value for name, value in scores.items() if name not in single}
    return together, kind, {name: scores[name] for name in worst}


def read_metrics(path: Path) -> list[dict]:
    """Returns the entries of a `metrics.jsonl`; an unfinished last line is left out.

    Raises:
      ValueError: another line is damaged.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    entries = []
    for number, line in enumerate(lines[:-1], 1):  # the text after the last line break may be an unfinished line
        try:
            entry = parse_json(line)
            entries.append(entry | {"step": int(entry["step"])})
        except (ValueError, KeyError, TypeError, OverflowError):
            start = line[:80].decode("utf-8", "replace")
            raise ValueError(f"{path}, line {number}: this is not an entry of a run: {start!r}") from None
    return entries


class _Board:
    """TensorBoard events, written without the thread of tensorboardX, which would not report a full disk.

    The name of the file, events.out.tfevents.TIME.jaxseg, has no name of the machine, which tensorboardX would add.

    Args:
      folder: folder of the run.
      step: later events of earlier files are dropped.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX.event_file_writer import RecordWriter  # this module imports all that the others need
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        self._path = folder / "tensorboard" / f"events.out.tfevents.{int(time.time())}.jaxseg"
        self._path.parent.mkdir(exist_ok=True)
        self._writer = RecordWriter(str(self._path))
        start = SessionLog(status=SessionLog.START)
        self._append({"file_version": "brain.Event:2"}, {"session_log": start}, step=step + 1)

    def write(self, split: str, step: int, values: dict[str, float]) -> None:
        """Adds the values of a split after a step."""
        self._append(
            *({"summary": self._scalar(f"{split}/{name}", value)} for name, value in values.items()), step=step
        )

    def close(self) -> None:
        self._writer.close()

    def _append(self, *events: dict, step: int) -> None:
        with naming(self._path):
            for event in events:
                self._writer.write(self._event(wall_time=time.time(), step=step, **event).SerializeToString())
            self._writer.flush()


def _board(folder: Path, step: int) -> _Board | None:
    """Returns the events of a run; None if tensorboardX is not installed."""
    try:
        return _Board(folder, step)
    except ImportError:
        return None
