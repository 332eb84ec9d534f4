"""Downloads one file: resumes after an interruption, checks the file, and puts only complete files into place."""

import dataclasses
import errno
import hashlib
import http.client
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxseg.files import sync
from jaxseg.weights.part import Part, claim

RETRIES = 5  # number of retries after a broken connection
BACKOFF_S = 0.5  # seconds before the first retry; doubled at every further one
CHUNK = 2**17

_PAGE = (
    "the answer is a web page, not the file. Google Drive shows a quota or confirmation page (and some networks a "
    "log-in page): open the link in a browser to see"
)

_log = logging.getLogger(__name__)


class DownloadError(OSError):
    """A download failed; the message has the address, the destination and the reason."""


def download(
    url: str,
    destination: Path,
    *,
    sha256: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    timeout_s: float = 30.0,
    max_bytes: int = 4 * 2**30,
    opener: Callable | None = None,
) -> Path:
    """Downloads a file and moves it to its destination once it is complete.

    Until then the data are in `<name>.part` beside the destination. A later call resumes there if the server still has
    the same file. If several processes request one file, one of them downloads it and the others wait.

    Args:
      url: an http or https address; redirects from https to http are refused.
      destination: the file to write; its folder is created.
      sha256: the SHA-256 that the file must have, in hexadecimal.
      progress: called with the number of bytes done and the total, or None if the server does not send the total.
      timeout_s: longest time without an answer from the server, in seconds.
      max_bytes: a larger file is refused.
      opener: opens a `urllib.request.Request` (with `timeout=`) instead of the built-in opener.

    Returns:
      The destination.

    Raises:
      DownloadError: the file could not be downloaded; the destination is unchanged.
    """
    job = _Job(url, Path(destination), sha256, progress or _silent, timeout_s, max_bytes, opener or _open)
    if not url.lower().startswith(("http://", "https://")):
        raise job.error("only http and https addresses are fetched")
    _claim_and_fetch(job)
    return job.destination


def google_drive_url(file_id: str) -> str:
    """Returns the direct address of the file whose id is in a Google Drive link (`/file/d/<id>/`).

    >>> google_drive_url("1a-B_c")
    'https://drive.usercontent.google.com/download?id=1a-B_c&export=download&confirm=t'
    """
    if not re.fullmatch(r"[\w-]+", file_id, re.ASCII):
        raise ValueError(f"a Google Drive id has letters, digits, - and _, got {file_id!r}: take the part after /d/")
    return f"https://drive.usercontent.google.com/download?id={file_id}&export=download&confirm=t"


@dataclasses.dataclass(frozen=True)
class _Job:
    url: str
    destination: Path
    sha256: str | None
    progress: Callable[[int, int | None], None]
    timeout_s: float
    max_bytes: int
    opener: Callable

    def error(self, reason: str) -> DownloadError:
        return DownloadError(
            f"could not download {self.url} to {self.destination}: {reason}. "
            f"You can also fetch it with a browser and save it as {self.destination}"
        )


class _Cut(Exception):
    """The connection broke; `started` says whether the server had answered."""

    def __init__(self, reason: object, *, started: bool):
        super().__init__(reason)
        self.started = started


def _claim_and_fetch(job: _Job) -> None:
    try:
        job.destination.parent.mkdir(parents=True, exist_ok=True)
        with claim(job.destination) as part:
            if part is None:
                _verify(job, job.destination)
            else:
                _fetch(job, part)
    except DownloadError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise job.error("the disk is full" if full else f"cannot write there ({error})") from error


def _fetch(job: _Job, part: Part) -> None:
    """Downloads until the part is complete, checks it and moves it to the destination."""
    for attempt in range(RETRIES + 1):
        try:
            _attempt(job, part)
            break
        except _Cut as cut:
            if attempt == 0 and not cut.started:
                raise job.error(f"the server cannot be reached ({cut}): check the network and https_proxy") from cut
            if attempt == RETRIES:
                raise job.error(f"gave up after {RETRIES + 1} tries ({cut}); call again to resume there") from cut
            _log.warning("%s: %s; trying again", job.url, cut)
            time.sleep(BACKOFF_S * 2**attempt)
    try:
        _verify(job, part.path)
    except DownloadError:
        part.remove()
        raise
    os.replace(part.path, job.destination)
    part.remove()


def _attempt(job: _Job, part: Part) -> None:
    """Requests the missing bytes and appends them to the part."""
    notes, offset = part.notes(), part.size()
    if notes.get("url") != job.url or not (notes["validator"] or job.sha256) or offset > notes["total"]:
        offset = 0
    if offset and offset == notes["total"]:
        return  # an earlier process ended between the last byte and the move
    with _request(job, notes, offset) as response:
        if response.status == 200:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() and "Transfer-Encoding" not in response.headers else None
            offset, notes = 0, {"url": job.url, "validator": _validator(response), "total": total}
        _refuse_unwanted(job, part, response, notes["total"])
        _append(job, part, response, offset, notes)


def _request(job: _Job, notes: dict, offset: int) -> Any:
    """Returns the open response: 206 from the offset on, or 200 from the start."""
    headers = {"User-Agent": "jaxseg", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if notes["validator"]:
            headers["If-Range"] = notes["validator"]
    try:
        response = job.opener(urllib.request.Request(job.url, headers=headers), timeout=job.timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if offset and error.code == 416:
            return _request(job, notes, 0)
        reason = f"the server answers {error.code} {error.msg}"
        if error.code in (429, 500, 502, 503, 504):
            raise _Cut(reason, started=True) from error
        raise job.error(reason) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise _Cut(getattr(error, "reason", error), started=False) from error
    if response.status == 200 or (offset and response.status == 206 and _resumes(response, notes, offset)):
        return response
    response.close()
    if offset:
        return _request(job, notes, 0)
    raise job.error(f"the server answers {response.status} where 200 was expected")


def _resumes(response: Any, notes: dict, offset: int) -> bool:
    """Returns whether a partial answer starts at the offset and belongs to the version that the part started with."""
    content_range = response.headers.get("Content-Range", "")
    same = _validator(response) in ("", notes["validator"]) or not notes["validator"]
    return same and content_range.startswith(f"bytes {offset}-") and content_range.endswith(f"/{notes['total']}")


def _validator(response: Any) -> str:
    """Returns an identifier of the version of the file: its strong entity tag, or else its date."""
    tag = response.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _refuse_unwanted(job: _Job, part: Part, response: Any, total: int | None) -> None:
    if response.headers.get("Content-Type", "").lower().startswith("text/html"):
        raise job.error(_PAGE)
    if total is None:
        return
    if total > job.max_bytes:
        raise job.error(f"it has {total:,} bytes and at most {job.max_bytes:,} are accepted (max_bytes)")
    needed, free = total - part.size(), shutil.disk_usage(part.path.parent).free
    if needed > free:
        raise job.error(f"the disk is full: {needed:,} more bytes are needed and {free:,} are free")


def _append(job: _Job, part: Part, response: Any, offset: int, notes: dict) -> None:
    total = notes["total"]
    chunk = _read(response)
    if offset == 0:
        if chunk[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html")):
            raise job.error(_PAGE)
        part.restart(notes)
    done = offset
    job.progress(done, total)
    with part.path.open("ab") as file:
        while chunk:
            done += len(chunk)
            if done > (job.max_bytes if total is None else total):
                part.remove()
                raise job.error(f"it is longer than announced, or than the {job.max_bytes:,} bytes of max_bytes")
            file.write(chunk)
            job.progress(done, total)
            chunk = _read(response)
        file.flush()
        sync(file.fileno())
    if done < (total or 1):
        raise _Cut(f"the connection was cut after {done:,} of {total or 'an unknown number of'} bytes", started=True)


def _read(response: Any) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"the connection was cut: {error}", started=True) from error


def _verify(job: _Job, path: Path) -> None:
    if job.sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != job.sha256.lower():
        raise job.error(f"its sha256 is {found} and must be {job.sha256}: it was damaged or replaced; try again")


def _open(request: urllib.request.Request, timeout: float) -> Any:
    """Opens only http and https; urllib's own opener accepts file: and ftp: too."""
    director = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        _Redirects,
    ):
        director.add_handler(handler())
    return director.open(request, timeout=timeout)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and from https to https only."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        secure = req.full_url.lower().startswith("https://")
        if not newurl.lower().startswith("https://" if secure else ("http://", "https://")):
            raise urllib.error.HTTPError(req.full_url, code, f"and leads to {newurl}, refused", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _silent(done: int, total: int | None) -> None:
    pass
