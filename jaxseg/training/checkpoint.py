"""Checkpoints of a run, written atomically by Orbax in the background; the newest and the best ones are kept.

A checkpoint holds the whole state, by name, and a record: the position in the data, the score, and a checksum of every
array, because Orbax silently returns wrong numbers if a bit of a file has changed. Sizes, names and checksums are
checked before a restored state is used.
"""

import contextlib
import dataclasses
import gc
import json
import logging
import math
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import sync_global_devices

from jaxseg.interrupts import uninterrupted
from jaxseg.training.learner import State
from jaxseg.weights.orbax_limits import adapt_to_file_system, plain_errors, remove_places, silence_orbax_threads

ITEMS = ("state", "data")
REMOVED = ".jaxseg-removed"  # checkpoints are moved there before removal, so a kill leaves no partial one
HALF_WRITTEN = "[0-9]*.orbax-checkpoint-tmp*"  # left by a kill; Orbax removes them only when it saves the next one


@dataclasses.dataclass(frozen=True)
class _Kept:
    """Tells Orbax which checkpoints to keep: the newest, the best, and all that this run has not written."""

    records: dict[int, dict]
    last: int
    best: int

    def should_preserve(self, checkpoints: Sequence, *, context) -> list[bool]:
        steps = sorted(info.step for info in checkpoints if info.step in self.records)
        ranked = _ranked(self.records, steps)
        removed = set(steps[: -self.last]) - set(ranked[: self.best])
        return [info.step not in removed for info in checkpoints]


class Checkpoints:
    """The checkpoints in a folder; a context manager that waits for unfinished writes.

    Args:
      folder: folder of the checkpoints; created if it does not exist.
      keep_last: number of the newest checkpoints to keep.
      keep_best: number of the checkpoints with the highest scores to keep as well; the best one is always kept.
      background: whether to write while the training continues.
      read_only: whether to write and remove nothing, not even the unfinished checkpoint of another process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep_last: int = 2,
        keep_best: int = 1,
        background: bool = True,
        read_only: bool = False,
    ):
        silence_orbax_threads()
        self._records: dict[int, dict] = {}
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Kept(self._records, keep_last, max(keep_best, 1)),
            enable_async_checkpointing=background and not read_only,
            create=not read_only,
            todelete_subdir=REMOVED,
            read_only=read_only,
        )
        self.folder, self._read_only = folder.resolve(), read_only
        if not read_only:
            self.folder.mkdir(parents=True, exist_ok=True)
            adapt_to_file_system(self.folder)
        self._sweep(HALF_WRITTEN)
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=ITEMS)
        for step in self.steps():
            record = self._read_record(step)
            if record is not None:
                self._records[step] = record

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            with uninterrupted(), clear_when_full("a checkpoint", self.folder):
                self._manager.close()
                self._sweep()
        except OSError:
            if kind is None:  # otherwise it would hide the error that ended the run
                raise

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints in ascending order."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """Returns the step with the highest score, the first one of equal scores; None if none has a score."""
        ranked = _ranked(self._records, self.steps())
        return ranked[0] if ranked else None

    def best_score(self) -> float:
        """Returns the highest score; minus infinity if there is none."""
        best = self.best()
        return -math.inf if best is None else self._records[best]["score"]

    def save(self, step: int, state: State, position: dict, *, score: float | None = None) -> None:
        """Starts to write the checkpoint of a step; the state may be donated as soon as this returns.

        Raises:
          OSError: this checkpoint or the one before it could not be written; older ones are unchanged.
        """
        named = _named(state)
        known = score is not None and math.isfinite(score)
        record = {"position": position, "score": float(score) if known else None, "crc32": _checksums(named)}
        record["own_crc32"] = _own_checksum(record)
        items = ocp.args.Composite(state=ocp.args.StandardSave(named), data=ocp.args.JsonSave(record))
        self._records[step] = record
        with uninterrupted(), clear_when_full("a checkpoint", self.folder):
            self._manager.wait_until_finished()  # no checkpoint is moved there while the folder is cleaned
            self._sweep()
            self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Waits until everything is written; raises the errors of `save`."""
        with uninterrupted(), clear_when_full("a checkpoint", self.folder):
            self._manager.wait_until_finished()
            self._sweep()

    def restore(self, step: int, target: State) -> tuple[State, dict]:
        """Returns the state and the position in the data of a step.

        Args:
          target: a state with the wanted shapes, dtypes and shardings; arrays or `jax.ShapeDtypeStruct`.

        Raises:
          ValueError: the checkpoint is damaged or belongs to another model or optimizer.
        """
        wanted = _paths(target)
        with _left_behind():
            found = self._attempt(step, wanted)
        if isinstance(found, str):
            raise ValueError(f"the checkpoint of step {step} is damaged or belongs to another model: {found}")
        leaves = [found[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(target), leaves), self._records[step]["position"]

    def restore_latest(self, target: State, tell: Callable[[str], None]) -> tuple[int, State, dict] | None:
        """Returns step, state and position of the newest checkpoint that can be read; None if there are no checkpoints.

        Newer ones that are damaged are reported and moved to `damaged-<step>` beside the checkpoints.

        Raises:
          ValueError: there are checkpoints but none can be read; they are not moved.
        """
        problems: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                found = self.restore(step, target)
            except ValueError as error:
                problems[step] = str(error)
                continue
            for damaged, problem in problems.items():
                place = self._set_aside(damaged)
                tell(f"{problem}; it was moved to {place}, and the one before it is used")
            return step, *found
        if problems:
            raise ValueError(f"no checkpoint in {self.folder} can be read: {next(iter(problems.values()))}")
        return None

    def _sweep(self, *more: str) -> None:
        """Removes old checkpoints, all files that match the patterns, and the path of the folder from files of Orbax.

        After a kill, the next run does it. No checkpoint may be in work.
        """
        if not self._read_only and jax.process_index() == 0:
            for pattern in (REMOVED, *more):
                for place in self.folder.glob(pattern):
                    shutil.rmtree(place, ignore_errors=True)
            for place in self.folder.glob("[0-9]*"):
                remove_places(place)

    def _attempt(self, step: int, wanted: dict) -> dict[str, jax.Array] | str:
        """Returns the arrays of a step, or the reason why they cannot be used; no reference to the error is kept."""
        abstract = {k: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for k, x in wanted.items()}
        record = self._read_record(step)
        if record is None:
            return "its record cannot be read"
        self._records[step] = record
        try:
            items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
            state = self._manager.restore(step, args=items)["state"]
        except Exception as error:  # Orbax, TensorStore and JSON raise almost any exception for damaged files
            return " ".join(str(error).split())[:200] or type(error).__name__
        if state.keys() != wanted.keys() or any(state[k].shape != wanted[k].shape for k in wanted):
            return "other names or shapes"
        return state if _checksums(state) == record["crc32"] else "its arrays differ from those that were written"

    def _set_aside(self, step: int) -> Path:
        """Moves a checkpoint out of the folder to a free name and returns its place."""
        places = (self.folder.parent / f"damaged-{step}{again}" for again in ("", *(f"-{i}" for i in range(2, 1000))))
        place = next(place for place in places if not place.exists())
        if jax.process_count() > 1:
            sync_global_devices("the place was chosen")
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(place)
        if jax.process_count() > 1:
            sync_global_devices("the checkpoint was moved")
        self._records.pop(step, None)
        self._manager.reload()
        return place

    def _read_record(self, step: int) -> dict | None:
        """Returns the record that was stored beside a state; None if it cannot be read."""
        try:
            record = self._manager.restore(step, args=ocp.args.Composite(data=ocp.args.JsonRestore()))["data"]
        except Exception:  # as in `_attempt`, which reports it when this checkpoint is restored
            return None
        whole = isinstance(record, dict) and record.get("own_crc32") == _own_checksum(record)
        return record if whole else None


def has_checkpoint(folder: Path) -> bool:
    """Returns whether a folder of checkpoints holds one, damaged or not."""
    return folder.is_dir() and ocp.utils.any_checkpoint_step(folder) is not None


@contextlib.contextmanager
def clear_when_full(what: str, place: Path) -> Iterator[None]:
    """Turns a multi-line error of Orbax into a one-line error if a file cannot be written, for instance on a full disk.

    Raises:
      OSError: for any error.
    """
    try:
        with plain_errors():
            yield
    except OSError as error:
        text = error.strerror or error
        raise OSError(f"{what} could not be written to {place}: {text}; the checkpoints before it are kept") from error


@contextlib.contextmanager
def _left_behind() -> Iterator[None]:
    """Silently cleans up the unfinished work that Orbax leaves behind if a file is damaged."""
    logger = logging.getLogger("asyncio")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
            gc.collect()
        finally:
            logger.setLevel(level)


def _named(state: State) -> dict[str, jax.Array]:
    """Returns the arrays of a state by their paths; NumPy's scalars become arrays."""
    named = _paths(state)
    return {name: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for name, leaf in named.items()}


def _paths(state: State) -> dict:
    """Returns the leaves of a state by their paths, which do not depend on containers or classes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    named = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two arrays of the state have the same name")
    return named


def _checksums(named: dict[str, jax.Array]) -> dict[str, int]:
    """Returns the CRC-32 of each array's bytes; every host has the whole arrays."""
    found = {}
    for name, array in named.items():
        whole = array.addressable_shards[0].data if isinstance(array, jax.Array) else array
        found[name] = zlib.crc32(np.ascontiguousarray(whole).reshape(-1).view(np.uint8))
    return found


def _own_checksum(record: dict) -> int:
    """Returns the CRC-32 of the content of a record."""
    said = {name: value for name, value in record.items() if name != "own_crc32"}
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())


def _ranked(records: dict[int, dict], steps: Sequence[int]) -> list[int]:
    """Returns the steps that have a score, from the highest score to the lowest, equal ones in order."""
    scores = {step: records[step]["score"] for step in steps if step in records}
    return sorted((s for s in scores if scores[s] is not None), key=lambda step: (-scores[step], step))
