"""The DIMSE side that receives: X-rays come by C-STORE, which is answered only when the file is safe on the disk.

The sizes of a message are checked while it arrives: a connection that sends more than is allowed is closed. C-ECHO is
answered too. Other requests, and objects that are not X-rays, are refused when the connection is negotiated.
"""

import contextlib
import functools
import io
import logging
import shutil
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from jaxseg.files import atomic_file, is_full, sync
from jaxseg.images.elements import check_elements
from jaxseg.images.picture import ImageError
from jaxseg.images.remarks import without_remarks
from jaxseg.pacs.exchange import SOP_CLASSES, Image, Refused, check_uid
from jaxseg.pacs.state import State

SUCCESS, OUT_OF_RESOURCES, MISMATCH, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000
_MOST_PDU = 2**17  # bytes of one message part, which the other side is asked to keep to
_MOST_HEAD = 2**20  # bytes of a message besides the file
_MOST_CONNECTIONS = 8
_MOST_MESSAGES = 2  # of a connection that wait; senders wait for an answer before they send the next message
_LEAVE_S = 2.0  # for the other sides to close their connections when the worker stops
_RESERVE = 256 * 2**20  # bytes of the disk that stay free
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_log = logging.getLogger(__name__)


class _Mismatch(Refused):
    """A file is not the one that its message states."""


class Listener:
    """Source of a worker, see `jaxseg.pacs.exchange`: its X-rays are those that were received.

    Args:
      state: the state file; received X-rays lie in its folder.
      title: AE title by which it must be called.
      allowed: AE titles that may send; empty: all.
      most_bytes: largest file.
      most_folder_bytes: largest sum of the files that wait.
    """

    def __init__(
        self,
        state: State,
        title: str,
        *,
        allowed: Sequence[str] = (),
        most_bytes: int = 200 * 2**20,
        most_folder_bytes: int = 10 * 2**30,
    ):
        self.state, self.most_bytes, self.most_folder_bytes = state, most_bytes, most_folder_bytes
        self._news = threading.Event()
        self._entity = AE(ae_title=title)
        self._entity.require_called_aet, self._entity.require_calling_aet = True, list(allowed)
        self._entity.maximum_associations, self._entity.maximum_pdu_size = _MOST_CONNECTIONS, _MOST_PDU
        self._entity.add_supported_context(Verification)
        for kind in SOP_CLASSES:
            self._entity.add_supported_context(kind, ALL_TRANSFER_SYNTAXES)

    @contextlib.contextmanager
    def listening(self, host: str, port: int) -> Iterator[int]:
        """Receives X-rays while the body runs; yields the port, which the system chooses if 0 is given.

        Raises:
          OSError: the port cannot be opened.
        """
        handlers: list[Any] = [(evt.EVT_CONN_OPEN, self._bound), (evt.EVT_C_STORE, self._receive)]
        server: Any = self._entity.start_server((host, port), block=False, evt_handlers=handlers)
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()  # first, so that nobody connects any more
            self._disconnect()

    def _disconnect(self) -> None:
        """Ends all connections, also of those who do not answer any more."""
        found = self._entity.active_associations
        established = [association for association in found if association.is_established]
        for association in established:
            association.abort(block=False)
        deadline = time.monotonic() + _LEAVE_S
        for association in established:
            association.join(max(deadline - time.monotonic(), 0.0))
        for association in found:
            channel: Any = association.dul.socket
            if association.is_alive():
                with contextlib.suppress(OSError, AttributeError):  # it is closed already
                    channel.socket.shutdown(socket.SHUT_RDWR)

    def find(self) -> Iterable[Image]:
        """Returns nothing: received X-rays are in the state file already."""
        return ()

    def fetch(self, image: Image, path: Path) -> None:
        """Raises Refused: an X-ray that was received cannot be fetched."""
        raise Refused("its file is no longer here; send it again")

    def wait(self, seconds: float) -> None:
        """Waits for up to the given seconds, or until an X-ray is received."""
        self._news.wait(seconds)
        self._news.clear()

    def _bound(self, event: Any) -> None:
        """Limits what a new connection may send."""
        event.assoc.received = 0
        event.assoc.dul.daemon = True  # its thread must not keep a process alive that stops
        channel = event.assoc.dul.socket
        channel.recv = functools.partial(self._read, event.assoc, channel.recv)

    def _read(self, association: Any, read: Any, size: int) -> bytearray:
        """Reads from a connection; an OSError closes it."""
        association.received += size
        if size > 2 * _MOST_PDU or association.received > self.most_bytes + _MOST_HEAD:
            _log.warning("a connection of %s sends too much and is closed", association.requestor.ae_title)
            raise OSError("more bytes than allowed (--max-file-mb)")
        if association.dimse.msg_queue.qsize() > _MOST_MESSAGES:
            _log.warning("a connection of %s does not wait for answers and is closed", association.requestor.ae_title)
            raise OSError("a message was sent before the last ones were answered")
        return read(size)

    def _receive(self, event: Any) -> int:
        """Stores an X-ray; returns the status of the answer."""
        event.assoc.received = 0
        try:
            content = event.encoded_dataset()
            image = _identified(content, str(event.request.AffectedSOPInstanceUID))
            path, known = self.state.files / f"{image.sop_uid}.dcm", self.state.find(image.sop_uid)
            if known is not None and (known.state == "stored" or (known.state != "failed" and path.exists())):
                return SUCCESS
            if not self._has_room(len(content)):
                _log.warning("an X-ray was refused: the disk or the folder %s is full", self.state.files)
                return OUT_OF_RESOURCES
            with atomic_file(path) as temporary:
                temporary.write_bytes(content)
            sync(self.state.files)
            if not self.state.add(image, "fetched"):
                self.state.retry(image.sop_uid)  # it failed before, and is sent again
        except Refused as error:
            _log.warning("an X-ray was refused: %s", error)
            return MISMATCH if isinstance(error, _Mismatch) else NOT_UNDERSTOOD
        except Exception as error:  # the file or its row is not safe, so the answer must not be success
            _log.warning("an X-ray could not be stored: %s", type(error).__name__)
            _log.debug("", exc_info=True)
            return OUT_OF_RESOURCES if is_full(error) else OUT_OF_RESOURCES + 1
        self._news.set()
        return SUCCESS

    def _has_room(self, size: int) -> bool:
        waiting = 0
        for file in self.state.files.iterdir():
            with contextlib.suppress(FileNotFoundError):  # the worker deletes files meanwhile
                waiting += file.stat().st_size
        free = shutil.disk_usage(self.state.files).free
        return waiting + size <= self.most_folder_bytes and free - size >= _RESERVE


def _identified(content: bytes, stated: str) -> Image:
    """Returns the identifiers in a received file.

    Raises:
      Refused: it cannot be read, an identifier is not valid, or it is another one than the message stated.
    """
    check_uid(stated, "the stated SOPInstanceUID")
    try:
        check_elements(io.BytesIO(content))
        with without_remarks():
            header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=list(_UIDS))
            values = [str(header.get(keyword) or "").strip() for keyword in _UIDS]
    except ImageError as error:
        raise Refused(str(error)) from None
    except Exception as error:  # on damaged files pydicom raises errors of almost any type
        raise Refused(f"its header cannot be read ({type(error).__name__})") from None
    image = Image(*(check_uid(value, keyword) for value, keyword in zip(values, _UIDS, strict=True)))
    if image.sop_uid != stated:
        raise _Mismatch("the file has another SOPInstanceUID than the message stated")
    return image
