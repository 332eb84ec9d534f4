"""The log of a run: `metrics.jsonl`, and TensorBoard events if the extra `tensorboard` is installed."""

import contextlib
import json
import math
from pathlib import Path

import jax

from jaxseg.files import atomic_file, parse_json

METRICS_FILE = "metrics.jsonl"


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
            with contextlib.suppress(OSError):  # part of an entry that `write` could not complete
                self._file.close()
            if self._board is not None:
                self._board.close()

    def write(self, split: str, step: int, epoch: int, values: dict[str, float]) -> None:
        """Adds an entry: the values of a split after a step; values that are not finite become null."""
        if not self._writes:
            return
        shown = {name: value if math.isfinite(value) else None for name, value in values.items()}  # JSON has no NaN
        try:
            self._file.write(json.dumps({"split": split, "step": step, "epoch": epoch} | shown) + "\n")
            self._file.flush()
        except OSError as error:  # the error names no file
            raise OSError(error.errno, error.strerror, self._file.name) from None
        for name, value in values.items() if self._board is not None else ():
            self._board.add_scalar(f"{split}/{name}", value, step)


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


def _board(folder: Path, step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
