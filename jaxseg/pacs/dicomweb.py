"""A PACS over DICOMweb: X-rays are found by QIDO-RS and fetched by WADO-RS, results are stored by STOW-RS.

Every answer has a limit of size. Files are written to the disk while they arrive. Texts of the server are not repeated
in errors, since they may name patients.
"""

import contextlib
import datetime
import email.message
import json
import logging
import os
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import requests
from dicomweb_client.api import DICOMwebClient

from jaxseg.files import atomic_file
from jaxseg.masks.source_header import valid_uid
from jaxseg.pacs.exchange import MODALITIES, SOP_CLASSES, Image, Names, Refused, Unavailable

TOKEN, PASSWORD = "JAXSEG_PACS_TOKEN", "JAXSEG_PACS_PASSWORD"  # variables of the environment
_TIMEOUTS_S = (10.0, 120.0)  # to connect, and between two parts of an answer
_LATER = {408, 425, 429, 500, 502, 503, 504, 507}  # statuses that may change
_BUSY = {429, 503, 507}  # those that concern all requests
_MOST_JSON = 64 * 2**20  # bytes of an answer that is not a file
_MOST_HEAD = 64 * 2**10  # bytes around a file in a multipart answer
_PAGE = 100
_PART = 2**18
_ALL_AGAIN_S = 3600.0
_NO_JSON = (
    *(requests.exceptions.InvalidJSONError, json.JSONDecodeError, UnicodeDecodeError),
    *(KeyError, AttributeError, TypeError),  # it is JSON, but not that of DICOM
)
_log = logging.getLogger(__name__)
_STUDY, _SERIES, _SOP, _CLASS, _COUNT = "0020000D", "0020000E", "00080018", "00080016", "00201208"


class Dicomweb:
    """Source and destination of a worker, see `jaxseg.pacs.exchange`.

    Args:
      url: address of the DICOMweb service, such as http://127.0.0.1:8042/dicom-web.
      since: how old a study may be: a number of days, a first date, or None for all studies.
      user: name for HTTP Basic authentication; the password is in the environment. Without a name and a token, the
        user's netrc file applies.
      ca: file of certificates that the server's certificate is checked with; None: those that requests knows.
      most_bytes: largest file of an X-ray.

    Raises:
      ValueError: the address or the credentials cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        since: int | datetime.date | None = None,
        user: str | None = None,
        ca: Path | None = None,
        most_bytes: int = 200 * 2**20,
    ):
        self.url, self.since, self.most_bytes = check_url(url), since, most_bytes
        self._session = _Session(_credentials(user), ca)
        self._client = DICOMwebClient(self.url, session=self._session, chunk_size=2**31)
        self._client.set_http_retry_params(retry=False)  # the worker decides when to try again
        self._counts: dict[str, Any] = {}  # study -> number of its objects when it was read
        self._all_again = 0.0

    def find(self) -> Iterator[Image]:
        """Yields the X-rays of studies that are new or have changed; once in an hour, those of all studies."""
        if time.monotonic() > self._all_again:
            self._counts, self._all_again = {}, time.monotonic() + _ALL_AGAIN_S
        for modality in MODALITIES:
            filters = {"ModalitiesInStudy": modality} | self._dates()
            for study in self._pages(_STUDY, filters, self._client.search_for_studies):
                uid, count = _value(study, _STUDY), _value(study, _COUNT)
                if valid_uid(str(uid)) is None:
                    _log.warning("a study is left out: its StudyInstanceUID is not valid")
                elif count is None or self._counts.get(uid) != count:
                    yield from self._images(uid)
                    self._counts[uid] = count

    def fetch(self, image: Image, path: Path) -> None:
        """Writes the file of an X-ray."""
        place = f"{self.url}/studies/{image.study_uid}/series/{image.series_uid}/instances/{image.sop_uid}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        options: dict[str, Any] = {"headers": {"Accept": accept}, "stream": True}
        with (
            _translated("fetching the X-ray"),
            atomic_file(path) as temporary,
            temporary.open("w+b") as file,
            self._session.get(place, **options) as answer,
        ):
            answer.raise_for_status()
            _copy(answer, file, self.most_bytes + _MOST_HEAD)
            kind = answer.headers.get("Content-Type", "")
            if kind.lower().startswith("multipart/"):
                _unwrap(file, kind)

    def holds(self, study_uid: str, names: Names) -> bool:
        """Returns whether the PACS holds a result."""
        filters = {"SOPInstanceUID": names.sop_uid}
        with _translated("asking for results", searching=True):
            try:
                found = self._client.search_for_instances(study_uid, names.series_uid, search_filters=filters)
            except requests.HTTPError as error:
                if _status(error) == 404:  # some servers say so of a series that they do not hold
                    return False
                raise
            return any(_value(entry, _SOP) == names.sop_uid for entry in found)

    def store(self, path: Path) -> None:
        """Stores the file of a result, and makes sure that the PACS holds it."""
        dataset = pydicom.dcmread(path)
        study_uid, names = str(dataset.StudyInstanceUID), Names(dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        try:
            with _translated("storing a result"):
                answer = self._client.store_instances([dataset], study_uid)
            _check_answer(answer)
        except Refused:
            if not self.holds(study_uid, names):  # some servers refuse what they have
                raise
            return
        if not answer.get("ReferencedSOPSequence") and not self.holds(study_uid, names):
            raise Unavailable("the PACS did not confirm that it stored the result")

    def check(self) -> None:
        """Raises Unavailable if the PACS does not answer now."""
        with _translated("asking the PACS", searching=True):
            self._client.search_for_studies(limit=1)

    def _dates(self) -> dict[str, str]:
        if self.since is None:
            return {}
        first = self.since
        if isinstance(first, int):
            first = datetime.date.today() - datetime.timedelta(days=first)
        return {"StudyDate": f"{first:%Y%m%d}-"}

    def _images(self, study_uid: str) -> Iterator[Image]:
        def search(**options: Any) -> list[dict]:
            return self._client.search_for_instances(study_uid, fields=["SOPClassUID"], **options)

        for entry in self._pages(_SOP, {}, search):
            if _value(entry, _CLASS) in (None, *SOP_CLASSES):  # if it is missing, the file itself says
                yield Image(study_uid, str(_value(entry, _SERIES)), str(_value(entry, _SOP)))

    def _pages(self, tag: str, filters: dict[str, str], search: Any) -> Iterator[dict]:
        """Yields the entries of all pages, each once; a server that repeats a page does not keep it waiting forever."""
        seen: set[str] = set()
        offset = 0
        while True:
            with _translated("asking for X-rays", searching=True):
                page = search(search_filters=filters, limit=_PAGE, offset=offset)
                if any(_value(entry, tag) is None for entry in page):
                    raise TypeError("an entry without its identifier")
            new = [entry for entry in page if _value(entry, tag) not in seen]
            if not new:
                return
            seen |= {_value(entry, tag) for entry in new}
            offset += len(page)
            yield from new


class _Session(requests.Session):
    """A session whose answers are bounded, and whose certificates are checked with the chosen file."""

    def __init__(self, auth: Any, ca: Path | None):
        super().__init__()
        self.auth, self._ca = auth, ca
        self.headers.update({"Accept-Encoding": "identity", "User-Agent": "jaxseg"})

    def request(self, method: str, url: str, **options: Any) -> requests.Response:  # type: ignore[override]
        options["timeout"] = _TIMEOUTS_S
        if self._ca is not None:
            options["verify"] = str(self._ca)  # given here, since the environment overrules the session's own value
        whole = not options.get("stream")
        answer = super().request(method, url, **(options | {"stream": True}))
        if whole:
            with answer:
                content = bytearray()
                for part in answer.iter_content(_PART):
                    content += part
                    if len(content) > _MOST_JSON:
                        raise Unavailable(f"an answer of the PACS has more than {_MOST_JSON:,} bytes")
                answer._content = bytes(content)
        return answer


class _Bearer(requests.auth.AuthBase):
    """Sends a token; requests removes it when a server redirects to another host."""

    def __init__(self, token: str):
        self.token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request


def check_url(url: str) -> str:
    """Returns the address of a DICOMweb service without a slash at its end.

    Raises:
      ValueError: it is not an address with http or https, or it holds a password.

    >>> check_url("http://127.0.0.1:8042/dicom-web/")
    'http://127.0.0.1:8042/dicom-web'
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is not the address of a DICOMweb service, such as http://127.0.0.1:8042/dicom-web")
    if parts.username or parts.password:
        raise ValueError(f"the address holds a name or password: use --user and {PASSWORD}, or {TOKEN}")
    return url.rstrip("/")


def is_exposed(url: str) -> bool:
    """Returns whether an address sends credentials without encryption to another machine.

    >>> is_exposed("http://127.0.0.1:8042"), is_exposed("http://pacs.local"), is_exposed("https://pacs.local")
    (False, True, False)
    """
    parts = urllib.parse.urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


def _credentials(user: str | None) -> Any:
    token, password = os.environ.get(TOKEN, ""), os.environ.get(PASSWORD)
    if user and token:
        raise ValueError(f"a user and {TOKEN} are given; use one of them")
    if user and password is None:
        raise ValueError(f"the password of {user} is missing: set {PASSWORD}, or use a netrc file without --user")
    if token:
        return _Bearer(token)
    return (user, password) if user else None


@contextlib.contextmanager
def _translated(what: str, *, searching: bool = False) -> Iterator[None]:
    """Turns errors of HTTP into Unavailable or Refused; the texts of the server are left out.

    A search that is refused says nothing about an X-ray, so it is Unavailable too.
    """
    try:
        yield
    except requests.HTTPError as error:
        status = _status(error)
        reason = f"{what}: the PACS answered with HTTP status {status}"
        if status in _LATER:
            raise Unavailable(reason, _wait_s(error), for_all=status in _BUSY) from None
        if status in (401, 403):
            raise Unavailable(f"{reason}; check --user, {PASSWORD} and {TOKEN}") from None
        raise (Unavailable if searching else Refused)(reason) from None
    except _NO_JSON:
        raise Unavailable(f"{what}: the answer of the PACS is not DICOM JSON") from None
    except requests.exceptions.SSLError:
        reason = "the certificate of the PACS cannot be checked; name its authority by --ca"
        raise Unavailable(f"{what}: {reason}") from None
    except requests.RequestException as error:
        raise Unavailable(f"{what}: {_cause(error)}") from None


def _check_answer(answer: pydicom.Dataset) -> None:
    """Raises if the answer to STOW-RS says that the object was not stored."""
    failed = answer.get("FailedSOPSequence") or []
    if not failed:
        return
    code = int(failed[0].get("FailureReason") or 0)
    if 0xA700 <= code < 0xA800:
        raise Unavailable(f"the PACS has no room for the result (reason {code:04X})", for_all=True)
    raise Refused(f"the PACS refused the result (reason {code:04X})")


def _status(error: requests.HTTPError) -> int:
    return 0 if error.response is None else error.response.status_code


def _wait_s(error: requests.HTTPError) -> float:
    """Returns the seconds of `Retry-After`, at most five minutes."""
    given = "" if error.response is None else error.response.headers.get("Retry-After", "")
    return min(float(given), 300.0) if given.isdecimal() and len(given) < 6 else 0.0


def _cause(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return "the PACS did not answer in time"
    if isinstance(error, requests.ConnectionError) and "refused" in str(error):
        return "the PACS refused the connection"
    return "the connection to the PACS failed"


def _copy(answer: requests.Response, file: Any, most: int) -> None:
    total = 0
    for part in answer.iter_content(_PART):
        total += len(part)
        if total > most:
            raise Refused(f"the file has more than {most - _MOST_HEAD:,} bytes (--max-file-mb)")
        file.write(part)


def _unwrap(file: Any, kind: str) -> None:
    """Keeps only the first part of a multipart answer in its file.

    Raises:
      Unavailable: the answer was cut short. Refused: it has no part.
    """
    message = email.message.Message()
    message["Content-Type"] = kind
    boundary = (message.get_boundary() or "").encode()
    file.seek(0)
    head = file.read(_MOST_HEAD)
    start = head.find(b"--" + boundary)
    start = head.find(b"\r\n\r\n", start) if start >= 0 else -1
    if start < 0:
        raise Refused("the answer of the PACS has no file in it")
    size = file.seek(0, os.SEEK_END)
    tail_at = max(start + 4, size - _MOST_HEAD)
    file.seek(tail_at)
    end = file.read().rfind(b"\r\n--" + boundary)
    if end < 0:
        raise Unavailable("the answer of the PACS was cut short")
    _shift(file, start + 4, tail_at + end)


def _shift(file: Any, start: int, end: int) -> None:
    """Moves the bytes from `start` to `end` to the beginning of a file, and cuts the rest."""
    done = 0
    while start + done < end:
        file.seek(start + done)
        part = file.read(min(_PART, end - start - done))
        file.seek(done)
        file.write(part)
        done += len(part)
    file.truncate(done)


def _value(entry: dict, tag: str) -> Any:
    """Returns the first value of a tag in DICOM JSON; None if it has none.

    Raises:
      AttributeError, TypeError, KeyError: it is not DICOM JSON.
    """
    values = entry.get(tag, {}).get("Value") or [None]
    return values[0]
