"""What a worker has done with every X-ray, in an SQLite file, so that nothing is lost or done twice.

Each X-ray has one row, which goes through the states of `STATES`. A change is on the disk when its method returns, so
the process may be killed at any moment. The files of X-rays in work lie in a folder beside the state file. No tag of a
patient is stored in the rows, only identifiers (UIDs) and reasons.

One worker uses a state file at a time; others may read it.
"""

import contextlib
import dataclasses
import errno
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from jaxseg.files import Locked, only_writer
from jaxseg.pacs.exchange import Image

STATES = ("seen", "fetched", "segmented", "stored", "failed")
FORMAT = 1
LOCK, FILES = "-lock", "-files"  # endings of the lock's file and of the folder beside the state file
_BUSY_S = 20.0
_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE images (
  sop_uid TEXT PRIMARY KEY, study_uid TEXT NOT NULL, series_uid TEXT NOT NULL,
  state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', tries INTEGER NOT NULL DEFAULT 0,
  due REAL NOT NULL DEFAULT 0, seen REAL NOT NULL, changed REAL NOT NULL);
CREATE INDEX waiting ON images (due) WHERE state NOT IN ('stored', 'failed');
CREATE INDEX failures ON images (changed) WHERE state = 'failed';
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """What is known of an X-ray.

    Attributes:
      image: its identifiers.
      state: one of `STATES`.
      reason: why it failed, or why it must be tried again; "" if nothing went wrong.
      tries: number of attempts that were started.
      due: time of the next attempt, in seconds since 1970.
      seen, changed: times at which it was found and at which its state changed last.
    """

    image: Image
    state: str
    reason: str
    tries: int
    due: float
    seen: float
    changed: float


class State:
    """The state file. Its methods may be called from several threads.

    Args:
      path: of the file; it is created if it does not exist, unless it is only read.
      read_only: whether rows are only read, or set back by `retry`; a worker may use the file meanwhile.

    Raises:
      ValueError: the file is not a state file, or of a newer version. Locked: another worker uses it.
      OSError: the file cannot be opened or created.
    """

    def __init__(self, path: Path, *, read_only: bool = False):
        self.path = path
        self._exit = contextlib.ExitStack()
        self._lock = threading.Lock()
        if read_only and not path.is_file():
            reason = "there is no such state file; jaxseg pacs watch and listen make one"
            raise FileNotFoundError(errno.ENOENT, reason, str(path))
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        try:
            self._open()
        except BaseException:
            self._exit.close()
            raise
        if not read_only:
            self.files.mkdir(mode=0o700, exist_ok=True)

    @property
    def files(self) -> Path:
        """The folder of the X-rays and results in work; only the user may enter it."""
        return self.path.with_name(self.path.name + FILES)

    def close(self) -> None:
        """Closes the file and releases the lock."""
        self._exit.close()

    def __enter__(self) -> "State":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def bind(self, **about: str) -> None:
        """Ties the file to the weights, settings and addresses of its worker.

        Raises:
          ValueError: the file belongs to others.
        """
        with self._changing() as base:
            known = dict(base.execute("SELECT name, value FROM about"))
            for name, value in about.items():
                if known.get(name, value) != value:
                    raise ValueError(
                        f"{self.path} belongs to another {name}; name a new file with --state, so that results are not "
                        "mixed (what the PACS already holds is not made again)"
                    )
            base.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())

    def note(self, name: str, value: str) -> None:
        """Stores a remark on the worker, such as the time of its last round."""
        with self._changing() as base:
            base.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (name, value))

    def about(self) -> dict[str, str]:
        """Returns the remarks of `bind` and `note` by name."""
        with self._lock:
            return dict(self._base.execute("SELECT name, value FROM about"))

    def add(self, image: Image, state: str = "seen") -> bool:
        """Adds an X-ray; returns whether it was new. A known one stays as it is."""
        with self._changing() as base:
            now = time.time()
            values = (image.sop_uid, image.study_uid, image.series_uid, state, now, now, now)
            columns = "sop_uid, study_uid, series_uid, state, due, seen, changed"
            made = base.execute(f"INSERT OR IGNORE INTO images ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            return made.rowcount > 0

    def find(self, sop_uid: str) -> Row | None:
        """Returns the row of an X-ray; None if it is not known."""
        found = self._rows("WHERE sop_uid = ?", sop_uid)
        return found[0] if found else None

    def due(self, most: int) -> list[Row]:
        """Returns up to `most` X-rays to work on now, those that wait longest first."""
        return self._rows(
            "WHERE state NOT IN ('stored', 'failed') AND due <= ? ORDER BY due, seen LIMIT ?", time.time(), most
        )

    def next_due(self) -> float | None:
        """Returns the time of the next attempt, in seconds since 1970; None if nothing waits."""
        with self._lock:
            query = "SELECT min(due) FROM images WHERE state NOT IN ('stored', 'failed')"
            return self._base.execute(query).fetchone()[0]

    def begin(self, image: Image) -> None:
        """Counts an attempt before it starts, so that an X-ray that ends the process is not tried forever."""
        self._set(image, "tries = tries + 1")

    def move(self, image: Image, state: str) -> None:
        """Sets the state of an X-ray."""
        self._set(image, "state = ?, reason = ''", state)

    def uncount(self, image: Image) -> None:
        """Takes back `begin`, for an attempt that was interrupted through no fault of the X-ray."""
        self._set(image, "tries = max(tries - 1, 0)")

    def postpone(self, image: Image, reason: str, due: float) -> None:
        """Sets the time of the next attempt, and why there must be one."""
        self._set(image, "reason = ?, due = ?", reason, due)

    def fail(self, image: Image, reason: str) -> None:
        """Gives up an X-ray, with the reason."""
        self._set(image, "state = 'failed', reason = ?", reason)

    def retry(self, sop_uid: str | None = None) -> int:
        """Sets failed X-rays back, so that they are tried again; returns their number.

        Args:
          sop_uid: of one X-ray; None: all that failed.
        """
        with self._changing() as base:
            which, values = ("", ()) if sop_uid is None else (" AND sop_uid = ?", (sop_uid,))
            now = time.time()
            query = f"UPDATE images SET state = 'seen', tries = 0, due = ?, changed = ? WHERE state = 'failed'{which}"
            return base.execute(query, (now, now, *values)).rowcount

    def counts(self) -> dict[str, int]:
        """Returns the number of X-rays in each state of `STATES`."""
        with self._lock:
            found = dict(self._base.execute("SELECT state, count(*) FROM images GROUP BY state"))
        return {state: found.get(state, 0) for state in STATES}

    def failed(self, most: int = -1) -> list[Row]:
        """Returns the X-rays that failed, the last first."""
        return self._rows("WHERE state = 'failed' ORDER BY changed DESC LIMIT ?", most)

    def waiting(self, most: int = -1) -> list[Row]:
        """Returns the X-rays that are not finished, the next first."""
        return self._rows("WHERE state NOT IN ('stored', 'failed') ORDER BY due LIMIT ?", most)

    def _set(self, image: Image, what: str, *values: object) -> None:
        with self._changing() as base:
            query = f"UPDATE images SET {what}, changed = ? WHERE sop_uid = ?"
            base.execute(query, (*values, time.time(), image.sop_uid))

    def _rows(self, where: str, *values: object) -> list[Row]:
        columns = "study_uid, series_uid, sop_uid, state, reason, tries, due, seen, changed"
        with self._lock:
            found = self._base.execute(f"SELECT {columns} FROM images {where}", values).fetchall()
        return [Row(Image(*row[:3]), *row[3:]) for row in found]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Yields the connection in a transaction, which is on the disk when the body has ended."""
        with self._lock, self._base:
            self._base.execute("BEGIN IMMEDIATE")
            yield self._base

    def _take_lock(self) -> None:
        # A separate file: closing another descriptor of SQLite's file would drop the locks that SQLite holds on it.
        lock = self.path.with_name(self.path.name + LOCK)
        lock.touch(mode=0o600)
        try:
            self._exit.enter_context(only_writer(lock))
        except Locked:
            raise Locked(f"another worker uses {self.path}; name another file with --state") from None

    def _open(self) -> None:
        if not self.path.exists():
            self.path.touch(mode=0o600)
        try:
            self._base = sqlite3.connect(
                self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=32
            )
            self._exit.callback(self._base.close)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")
            version = self._base.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                if self._base.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                    raise ValueError(f"{self.path} is a database of another program; name another file with --state")
                self._base.executescript(f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {FORMAT}; COMMIT;")
            elif version != FORMAT:
                raise ValueError(f"{self.path} was made by a newer jaxseg; update this one, or name another file")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} cannot be used as a state file: {error}") from None
