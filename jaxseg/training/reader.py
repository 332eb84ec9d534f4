"""Makes batches of examples from records with threads, and handles bad records. It uses only numpy."""

import errno
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

# An OSError with another number is a fault of the machine, so the record is not skipped.
_OF_THE_FILE = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}

_LISTED = 8  # largest number of names in a message

# A pure function of the record and the generator.
Transform = Callable[[dict[str, Any], np.random.Generator], dict[str, np.ndarray]]


class Source(Protocol):
    """Records by number. Source and transform use only numpy and can be pickled: they may run in worker processes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a record, a dict of arrays and plain values; raises ValueError or OSError if it is bad."""

    def name(self, index: int) -> str:
        """Returns the name of the record's file, for error messages."""


class RecordError(ValueError):
    """A record that cannot be used; the message names its file."""


def listed(names: Sequence[str]) -> str:
    """Returns names for a message; of many names only the first ones."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


class Reader:
    """A function from rows of a plan to a batch, with its own threads, which are not pickled.

    Rows are "position" (in the stream, which seeds the transform's generator) and "index" (of the record in the
    source), each (b,) int64, and optionally "weight". A batch holds the stacked arrays of the transform; "index" of the
    record that was read; "wanted", the index that was requested; and "weight" as given. Index and wanted differ if
    `skip` is set and the record was bad: then the next good one of the source is read.
    """

    def __init__(self, source: Source, transform: Transform, *, seed: int, threads: int, skip: bool):
        self.source, self._transform, self._seed = source, transform, seed
        self._threads, self._skip = threads, skip
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="jaxseg-read")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _pool=ThreadPoolExecutor(state["_threads"], thread_name_prefix="jaxseg-read"))

    def __call__(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        pairs = list(zip(rows["position"].tolist(), rows["index"].tolist(), strict=True))
        once = list(dict.fromkeys(pairs))  # copies that fill up a batch are read only once
        made = dict(zip(once, self._pool.map(self._example, once), strict=True))
        batch = self._stacked([made[pair] for pair in pairs])
        return batch | {"weight": rows["weight"]} if "weight" in rows else batch

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _example(self, pair: tuple[int, int]) -> dict[str, np.ndarray]:
        position, wanted = pair
        total = len(self.source)
        index = wanted
        while True:
            try:
                example = self._transform(self.source[index], np.random.default_rng((self._seed, position)))
                return {**example, "index": np.int64(index), "wanted": np.int64(wanted)}
            except (ValueError, OSError) as error:
                name = self.source.name(index)
                problem = RecordError(f"record {index}, {name}: {str(error).removeprefix(f'{Path(name).name}: ')}")
                if not self._skip or (isinstance(error, OSError) and error.errno not in _OF_THE_FILE):
                    raise problem from error
                index = (index + 1) % total
                if index == wanted:
                    raise RecordError(f"none of the {total} records can be used; the last: {problem}") from error

    def _stacked(self, examples: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        shapes = [{key: (np.shape(value), np.asarray(value).dtype) for key, value in x.items()} for x in examples]
        for example, shape in zip(examples, shapes, strict=True):
            if shape != shapes[0]:
                names = [self.source.name(int(x["index"])) for x in (examples[0], example)]
                raise ValueError(f"{names[0]} and {names[1]} cannot be in one batch: {shapes[0]} and {shape}")
        return {key: np.stack([example[key] for example in examples]) for key in examples[0]}
