"""Files that are written completely or not at all, text and JSON of unknown origin, safe file names, and hashes.

Network shares, FUSE and containers have file systems without permissions, locks, or synchronisation of folders. What a
file system lacks is left out there; every other error is raised.
"""

import codecs
import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_UMASK = os.umask(0)  # can only be read by setting it
os.umask(_UMASK)
# What file systems answer to a call that they do not have.
_LACKING = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.ENOTTY}
# A disk, a quota or a file that cannot take another byte: no other file of the run could be written either.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32 LE begins like UTF-16 LE
MAX_JSON = 2**28  # bytes
_HASHED = 2**25  # bytes that are read at once to compute a digest
_PART = 2**18  # bytes in one call of `read`, which takes memory for all that it may return


class Locked(ValueError):
    """Another process holds a lock."""


@contextlib.contextmanager
def only_writer(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Holds a lock on a folder or a file while the body runs.

    The operating system releases the lock when the process ends, also if it is killed. If the operating system or the
    file system has no locks, nothing is locked.

    Args:
      path: an existing folder or file.
      shared: whether several processes may hold the lock, provided that all of them share it.

    Raises:
      Locked: another process holds the lock.
      OSError: the path cannot be opened.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # NFS locks only files that can be written
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise Locked(f"another run is writing into {path}; wait until it ends, or name another folder") from None
    except OSError:
        pass
    try:
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Makes an OSError of the body name the file that the user knows: not a temporary file, and not no file.

    Raises:
      OSError: as the body; it has a number, also if NumPy could not write a whole array, which it reports without one.
    """
    try:
        yield
    except OSError as error:
        number = error.errno or (errno.ENOSPC if "requested and" in str(error) else None)
        if number and (error.filename is None or "/.jaxseg-" in str(error.filename)):
            raise OSError(number, error.strerror or os.strerror(number), str(path)) from error
        raise


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; when the body ends, its file is synced and renamed to `path`.

    If the body raises an exception, the temporary file is removed and an existing file at `path` stays unchanged.

    Raises:
      OSError: the file cannot be written; the error names `path`.
    """
    with naming(path):
        handle, name = tempfile.mkstemp(prefix=_prefix(), suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            sync(temporary)
            with _if_possible():
                temporary.chmod(0o666 & ~_UMASK)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path`; when the body ends, its files are synced and it is renamed to `path`.

    An existing folder or file at `path` is replaced. If the body raises an exception, it stays unchanged.

    Raises:
      OSError: the folder cannot be written; the error names `path`.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=_prefix(), dir=path.parent))
        old = temporary.with_name(temporary.name + "-old")
        try:
            yield temporary
            for file in (*temporary.rglob("*"), temporary):
                sync(file)
            with _if_possible():
                temporary.chmod(0o777 & ~_UMASK)
            if os.path.lexists(path):
                os.replace(path, old)
            os.replace(temporary, path)
        finally:
            if os.path.lexists(old) and not os.path.lexists(path):
                os.replace(old, path)
            _remove(temporary)
            _remove(old)


def sync(file: Path | int) -> None:
    """Waits until a file or a folder is on the disk, if its file system can do that.

    Args:
      file: a path, or the descriptor of an open file.

    Raises:
      OSError: the file cannot be stored, for example on a full disk, or does not exist.
    """
    if isinstance(file, int):
        with _if_possible():
            os.fsync(file)
        return
    with _if_possible():  # some file systems synchronise only files that are open for writing
        writable = not file.is_dir() and os.access(file, os.W_OK)
        descriptor = os.open(file, os.O_RDWR if writable else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def can_sync(folder: Path) -> bool:
    """Returns whether the file system of a folder can synchronise folders; some network shares cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        return error.errno not in _LACKING
    finally:
        os.close(descriptor)
    return True


def is_full(error: BaseException | None) -> bool:
    """Returns whether an error, or the error that caused it, means that no more can be written: a full disk or quota.

    >>> is_full(OSError(errno.ENOSPC, "No space left on device"))
    True
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def user_cache() -> Path | None:
    """Returns jaxseg's folder for what it keeps between runs: `$JAXSEG_HOME`, else `jaxseg` in the user's cache folder.

    Weights, compiled programs and the answers of trials are kept there. Returns None if neither is known, as in a
    container that runs with a user number without a name.
    """
    if os.environ.get("JAXSEG_HOME"):
        return Path(os.path.expanduser(os.environ["JAXSEG_HOME"]))
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(os.path.join("~", ".cache"))
    return None if cache.startswith("~") else Path(cache) / "jaxseg"


def walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yields each folder of a tree with the names of its folders and files, as `os.walk` does.

    Links to folders are followed, each real folder once, since links may lead in circles. Names of folders that the
    caller removes from the list are not entered.

    Raises:
      OSError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for name, folders, names in os.walk(root, onerror=fail, followlinks=True):
        folder = Path(name)
        if folder.resolve() in seen:
            folders.clear()
            continue
        seen.add(folder.resolve())
        yield folder, folders, names


def sweep(folder: Path) -> None:
    """Removes the temporary files that killed processes of this machine left in a folder."""
    for path in folder.glob(f".jaxseg-{_HOST}-*"):
        process = path.name.split("-")[2]
        if process.isdecimal() and not _alive(int(process)):
            _remove(path)


def text_of(content: bytes) -> str:
    r"""Returns text of unknown origin that is stored as UTF-8, with or without a byte order mark.

    Raises:
      ValueError: it has another encoding.

    >>> text_of(b"\xef\xbb\xbfheart")
    'heart'
    """
    if content.startswith(_WIDE):
        raise ValueError("the text is stored as UTF-16 or UTF-32; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"the text is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def parse_json(content: bytes, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Returns JSON of unknown origin, see `text_of`.

    Args:
      content: the bytes of the text.
      pairs: makes the value of every JSON object from its (name, value) pairs; None: dict.

    Raises:
      ValueError: it is not JSON, has another encoding than UTF-8, or is nested too deeply.

    >>> parse_json(b"[1, 2]")
    [1, 2]
    """
    try:
        return json.loads(text_of(content), object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError("its lists and objects are nested too deeply") from None
    except ValueError as error:
        if "integer string conversion" in str(error):  # Python's advice is for programmers
            raise ValueError("it has a number with thousands of digits") from None
        raise


def read_json(path: Path, *, most: int = MAX_JSON) -> Any:
    """Returns the content of a JSON file of unknown origin.

    Args:
      path: the file, in UTF-8 with or without a byte order mark.
      most: largest size of the file in bytes; a larger file is not read.

    Raises:
      ValueError: the file is larger, is not JSON, or is nested too deeply; the error does not name the file.
      OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return parse_json(read_most(file, most))


def read_most(file: IO[bytes], most: int) -> bytes:
    """Returns the content of an open file, for which memory is taken only as it is read.

    Args:
      file: the file, opened in binary mode.
      most: largest number of bytes; not much more is read.

    Raises:
      ValueError: there are more; the error does not name the file.
      OSError: the file cannot be read.
    """
    content = bytearray()
    while part := file.read(_PART):
        content += part
        if len(content) > most:
            raise ValueError(f"it has more than {most:,} bytes")
    return bytes(content)


def printable(text: str) -> str:
    r"""Returns text of unknown origin in a form that is safe to show: control characters become escapes.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def relative(folder: Path, path: str) -> str:
    """Returns a path relative to a folder, so that a file in the folder does not name the place of both on a machine.

    Args:
      folder: the folder; links to it are followed.
      path: an absolute path without links.
    """
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        return path


def resolved(folder: Path, path: str) -> str:
    """Returns the absolute path that `relative` has made relative; an absolute one is returned as it is."""
    return os.path.normpath(folder.resolve() / path)


def safe_name(text: str) -> str:
    """Returns text as one file name of at most 200 bytes, without separators, control characters, or dots at its ends.

    >>> safe_name("../masks/heart")
    '_masks_heart'
    """
    name = re.sub(r"[\x00-\x1f\x7f-\x9f/\\]", "_", text).strip(" .") or "_"
    return name.encode("utf-8", "replace")[:200].decode("utf-8", "ignore").rstrip(" .")


def sha256(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file, or of the sorted file names and contents of a folder."""
    state, started = _started.pop(path, (None, None))
    if started is not None:
        digest = started.result()
        if state == _state(path):
            return digest
    return _sha256(path)


def start_sha256(path: Path, thread: concurrent.futures.Executor) -> None:
    """Starts to compute the `sha256` of a path in another thread, for the next call with this path.

    That call computes it again if the path has changed meanwhile.
    """
    _started[path] = _state(path), thread.submit(_sha256, path)


_started: dict[Path, tuple[list, concurrent.futures.Future[str]]] = {}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            _add_content(digest, file)
        return digest.hexdigest()
    for file in _files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_sha256(file)}\n".encode())
    return digest.hexdigest()


def _add_content(digest: Any, file: IO[bytes]) -> None:
    """Adds the content of a file to a digest, in few calls: between calls, other threads keep this one waiting."""
    part = memoryview(bytearray(min(_HASHED, os.fstat(file.fileno()).st_size + 1)))
    while count := file.readinto(part):  # type: ignore[attr-defined]
        digest.update(part[:count])


def _files(path: Path) -> list[Path]:
    """Returns a file itself, or all files of a folder and its sub-folders."""
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


def _state(path: Path) -> list[tuple]:
    """Returns what changes with the content of a file or a folder, as long as nobody sets the times of files."""
    states = ((file, file.stat()) for file in _files(path))
    return [(file, state.st_ino, state.st_size, state.st_mtime_ns) for file, state in states]


def _prefix() -> str:
    return f".jaxseg-{_HOST}-{os.getpid()}-"


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _remove(path: Path) -> None:
    """Removes a file, a link or a folder, if it exists and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _if_possible() -> Iterator[None]:
    """Ignores the errors with which a file system answers to a call that it does not have."""
    try:
        yield
    except OSError as error:
        if error.errno not in _LACKING:
            raise
