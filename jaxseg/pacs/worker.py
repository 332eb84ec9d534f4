"""The loop of a worker: find X-rays, fetch, segment, store the results, and remember each step.

An X-ray that cannot be segmented, or whose results are refused, fails with its reason and is not tried again. Faults of
the network and of servers are tried again, after times that double. If the PACS does not answer at all, the attempt
does not count, and the worker waits until the PACS answers.
"""

import contextlib
import dataclasses
import functools
import logging
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxseg.anatomy.segment import Prepared
from jaxseg.files import printable, safe_name, sweep, sync
from jaxseg.masks.segmentation import Segmentation
from jaxseg.pacs.exchange import Destination, Image, Refused, Source, Unavailable, check_uid, read_image
from jaxseg.pacs.results import SEG, Results
from jaxseg.pacs.state import Row, State

MOST_TRIES = 10  # attempts that count
FIRST_WAIT_S, LONGEST_WAIT_S = 5.0, 1800.0
_ALONE_AFTER = 2  # an X-ray with more attempts is segmented by itself: it may be the one that ends the process
_log = logging.getLogger(__name__)

Report = Callable[[str, str, str], None]


class Outage(Exception):
    """The PACS does not answer, or files cannot be written here; the message says which.

    Attributes:
      wait_s: seconds that the PACS asks to wait; 0 if it does not say.
    """

    def __init__(self, reason: str, wait_s: float = 0.0):
        super().__init__(reason)
        self.wait_s = wait_s


@dataclasses.dataclass
class Worker:
    """Segments the X-rays of a source and stores the results in a destination.

    Attributes:
      state: the open state file.
      source: where X-rays come from.
      destination: where results are stored.
      results: what is made, with the model.
      any_body_part: whether to segment X-rays of other parts of the body than the chest.
      report: called as (what happened, SOP Instance UID, text): "stored" with notes on the image, "failed" or
        "postponed" with the reason, "outage" without a UID.
      wait: waits for up to the given seconds, and returns earlier if there may be work. During an outage the worker
        sleeps instead, so that new X-rays do not shorten the wait.
    """

    state: State
    source: Source
    destination: Destination
    results: Results
    any_body_part: bool = False
    report: Report = lambda *_: None
    wait: Callable[[float], object] = time.sleep
    _finished: int = 0  # number of X-rays whose results were stored
    _open: set[Image] = dataclasses.field(default_factory=set)  # whose attempts have started and not ended

    def prepare(self) -> None:
        """Ties the state file to the model, removes what a killed worker left in its folder, and compiles the model.

        Raises:
          ValueError: the state file belongs to another model or other settings.
        """
        self.state.bind(**{"model, settings or results": f"{self.results.digest} {' '.join(self.results.kinds)}"})
        sweep(self.state.files)
        for path in self.state.files.iterdir():
            name = path.name.removesuffix(".dcm")
            for kind in self.results.kinds:
                name = name.removesuffix(f".{kind}")
            row = self.state.find(name)
            if row is None or row.state in ("stored", "failed"):
                path.unlink(missing_ok=True)
        self.results.segmenter.compile()

    def run(self, every_s: float) -> None:
        """Works until the process is stopped; looks for new X-rays every `every_s` seconds."""
        misses = 0
        while True:
            begin, before = time.monotonic(), self._finished
            try:
                self.once()
                with _needing_files():
                    due = self.state.next_due()
                misses, pause = 0, every_s - (time.monotonic() - begin)
                pause = pause if due is None else min(pause, due - time.time())
                wait = self.wait
            except Outage as error:
                misses = 1 if self._finished > before else misses + 1
                pause, wait = max(error.wait_s, backoff(misses)), time.sleep
                self.report("outage", "", str(error))
            wait(max(pause, 0.05))

    def once(self) -> None:
        """Looks for new X-rays once, and works on everything that is due.

        Raises:
          Outage: the PACS does not answer, or files cannot be written here.
        """
        try:
            with _needing_files():
                for image in self.source.find():
                    self.state.add(image)
                while rows := self._next():
                    self._work(rows)
                    self._sign()
                self._sign()
        except (Unavailable, Outage) as error:
            with contextlib.suppress(sqlite3.Error):  # the disk may be full
                self._sign(str(error))
            raise Outage(str(error), error.wait_s) from None

    def _sign(self, outage: str = "") -> None:
        """Stores that the worker is alive, for who watches it."""
        self.state.note("outage", outage)
        self.state.note("last sign of life", f"{time.time():.0f}")

    def _next(self) -> list[Row]:
        """Returns the X-rays of the next batch."""
        rows = self.state.due(self.results.segmenter.batch_size)
        risky = next((i for i, row in enumerate(rows) if row.tries >= _ALONE_AFTER), len(rows))
        return rows[: max(risky, 1)]

    def _work(self, rows: Sequence[Row]) -> None:
        """Brings X-rays as far as possible. An attempt that is interrupted does not count."""
        try:
            ready: list[tuple[Row, Prepared]] = []
            for row in rows:
                if row.tries >= MOST_TRIES:
                    self._fail(row, row.reason or "the worker ended at every attempt")
                    continue
                self.state.begin(row.image)
                self._open.add(row.image)
                prepared = self._try(row, functools.partial(self._begin, row))
                ready += [] if prepared is None else [(row, prepared)]
            for row, masks in self._segmented(ready):
                self._try(row, functools.partial(self._conclude, row.image, masks))
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # the disk may be full
                for image in self._open:
                    self.state.uncount(image)
            raise
        finally:
            self._open.clear()

    def _try(self, row: Row, step: Callable[[], Any]) -> Any:
        """Returns the result of a step; None if it fails, after which the X-ray has failed or waits.

        Raises:
          Outage: the PACS does not answer, or files cannot be written here.
        """
        try:
            with _needing_files():
                return step()
        except Outage:
            raise
        except Unavailable as error:
            self._check_outage(row, error)
            if row.tries + 1 >= MOST_TRIES:
                self._fail(row, f"{error} (at {MOST_TRIES} attempts)")
            else:
                self.state.postpone(row.image, str(error), time.time() + max(error.wait_s, backoff(row.tries + 1)))
                self._open.discard(row.image)
                self.report("postponed", row.image.sop_uid, str(error))
        except Exception as error:
            _log.debug("%s failed", row.image.sop_uid, exc_info=True)
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            self._fail(row, kind + printable(" ".join(str(error).split())))
        return None

    def _check_outage(self, row: Row, error: Unavailable) -> None:
        """Raises Outage if the PACS does not work for any X-ray now; the others then go before this one."""
        try:
            if error.for_all:
                raise error
            self.destination.check()
        except Unavailable as outage:
            self.state.postpone(row.image, str(error), time.time())
            raise Outage(str(outage), outage.wait_s) from None

    def _begin(self, row: Row) -> Prepared | None:
        """Returns an X-ray as the network takes it; None if its results need not be made any more."""
        image, path = row.image, self._path(row.image)
        for uid in dataclasses.astuple(image):
            check_uid(uid, "an identifier of the X-ray")
        if row.state == "segmented" and self._made(image)[SEG].exists():
            self._store(image)
            return None
        if all(self._is_stored(image, kind) for kind in self.results.kinds):
            self._finish(image)
            return None
        if not path.exists():
            self.source.fetch(image, path)
            self.state.move(image, "fetched")
        if read_image(path, any_body_part=self.any_body_part) != image:
            raise Refused("the file has other identifiers than the PACS stated")
        return self.results.segmenter.prepare(path)

    def _segmented(self, ready: list[tuple[Row, Prepared]]) -> list[tuple[Row, Segmentation]]:
        """Returns X-rays with their masks. If a batch fails, its X-rays are segmented one by one."""
        predict = self.results.segmenter.predict
        if len(ready) > 1:
            try:
                found = predict([prepared for _, prepared in ready])
                return [(row, masks) for (row, _), masks in zip(ready, found, strict=True)]
            except Exception:
                _log.debug("a batch failed", exc_info=True)
        masks = [(row, self._try(row, functools.partial(predict, [prepared]))) for row, prepared in ready]
        return [(row, found[0]) for row, found in masks if found is not None]

    def _conclude(self, image: Image, masks: Segmentation) -> None:
        """Writes and stores the results of an X-ray."""
        path = self._path(image)
        notes = self.results.write(path, path.with_name(image.sop_uid), masks)
        sync(self.state.files)
        self.state.move(image, "segmented")
        self._store(image, [*masks.notes, *notes])

    def _store(self, image: Image, notes: Sequence[str] = ()) -> None:
        """Stores the results that the destination lacks, the SEG last."""
        for kind, path in self._made(image).items():
            if path.exists() and not self._is_stored(image, kind):  # there may be no report
                self.destination.store(path)
        self._finish(image, notes)

    def _is_stored(self, image: Image, kind: str) -> bool:
        return self.destination.holds(image.study_uid, self.results.names(image.sop_uid, kind))

    def _finish(self, image: Image, notes: Sequence[str] = ()) -> None:
        self.state.move(image, "stored")
        self._open.discard(image)
        self._finished += 1
        self._forget(image)
        each = dict.fromkeys(note.removeprefix(f"{image.sop_uid}.dcm: ") for note in notes)  # each note once
        self.report("stored", image.sop_uid, "; ".join(each))

    def _fail(self, row: Row, reason: str) -> None:
        reason = reason.removeprefix(f"{row.image.sop_uid}.dcm: ")
        self.state.fail(row.image, reason)
        self._open.discard(row.image)
        self._forget(row.image)
        self.report("failed", row.image.sop_uid, reason)

    def _forget(self, image: Image) -> None:
        """Removes the files of an X-ray."""
        for file in (self._path(image), *self._made(image).values()):
            file.unlink(missing_ok=True)

    def _path(self, image: Image) -> Path:
        return self.state.files / f"{safe_name(image.sop_uid)}.dcm"

    def _made(self, image: Image) -> dict[str, Path]:
        """Returns the paths of the results of an X-ray."""
        return self.results.paths(self.state.files / safe_name(image.sop_uid))


@contextlib.contextmanager
def _needing_files() -> Iterator[None]:
    """Raises Outage if a file, or the state file, cannot be read or written."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise Outage(f"a file cannot be read or written: {getattr(error, 'strerror', '') or error}") from error


def backoff(tries: int) -> float:
    """Returns the seconds to wait after a number of failed attempts: they double; up to a half is random.

    >>> 5 <= backoff(1) <= 7.5, 10 <= backoff(2) <= 15, backoff(100) <= 2700
    (True, True, True)
    """
    wait = min(FIRST_WAIT_S * 2 ** min(tries - 1, 20), LONGEST_WAIT_S)
    return wait * random.uniform(1.0, 1.5)
