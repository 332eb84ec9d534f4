"""The DIMSE side that sends: results go to a PACS by C-STORE.

A PACS keeps one object per SOP Instance UID, and results have the same UID whenever they are made again. So a result
that is sent twice, because a connection broke before the answer, is stored once.
"""

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import pydicom
from pydicom.uid import (
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from jaxseg.pacs.exchange import Names, Refused, Unavailable

_CLASSES = (SegmentationStorage, SecondaryCaptureImageStorage, ComprehensiveSRStorage)
_PLAIN = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
_TITLE = re.compile(r"[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?")
_DUPLICATE = 0x0111  # the object is there already
_CONNECT_S, _ANSWER_S = 10.0, 120.0


@dataclasses.dataclass(frozen=True)
class Address:
    """Where an application entity listens: its title, host and port."""

    title: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.title}@{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Returns the address of an application entity.

    Args:
      text: such as PACS@127.0.0.1:4242 or PACS@[::1]:4242.

    Raises:
      ValueError: it has another form, or the title or port is not possible.

    >>> parse_address("PACS@127.0.0.1:4242")
    Address(title='PACS', host='127.0.0.1', port=4242)
    """
    parts = re.fullmatch(r"([^@]+)@(\[[0-9A-Fa-f:.]+\]|[^@:\[\]\s]+):(\d{1,5})", text.strip())
    if parts is None or not 1 <= int(parts[3]) <= 65535:
        raise ValueError(f"{text!r} is not an address: write TITLE@host:port, such as PACS@127.0.0.1:4242")
    return Address(check_title(parts[1]), parts[2].strip("[]"), int(parts[3]))


def check_title(title: str) -> str:
    """Returns the title of an application entity.

    Raises:
      ValueError: it is not from 1 to 16 printable ASCII characters without a backslash.
    """
    if not _TITLE.fullmatch(title):
        raise ValueError(f"{title!r} is not an AE title: use 1 to 16 letters, digits and signs, without a backslash")
    return title


class Sender:
    """Destination of a worker, see `jaxseg.pacs.exchange`.

    Args:
      address: of the PACS.
      title: our own title.
    """

    def __init__(self, address: Address, title: str):
        self.address, self.title = address, title

    def holds(self, study_uid: str, names: Names) -> bool:
        """Returns False: C-STORE has no question for what is stored, and storing twice changes nothing."""
        return False

    def store(self, path: Path) -> None:
        """Stores the file of a result."""
        dataset = pydicom.dcmread(path)
        with self._association() as association:
            contexts = [c for c in association.accepted_contexts if c.abstract_syntax == dataset.SOPClassUID]
            if not contexts:
                raise Refused(f"{self.address} does not accept objects of the class {dataset.SOPClassUID.name}")
            accepted = {str(context.transfer_syntax[0]) for context in contexts}
            if str(dataset.file_meta.TransferSyntaxUID) not in accepted:
                _unpack(dataset)
            try:
                with self._connected():
                    answer = association.send_c_store(dataset)
            except ValueError:
                raise Refused(f"{self.address} accepts {dataset.SOPClassUID.name} in no form that jaxseg has") from None
            self._check_status(answer)

    def check(self) -> None:
        """Raises Unavailable if the PACS does not accept a connection now, or does not answer C-ECHO."""
        with self._association() as association:
            if all(context.abstract_syntax != Verification for context in association.accepted_contexts):
                return  # it has no C-ECHO, but it answers
            with self._connected():
                answer = association.send_c_echo()
            if not answer:
                raise Unavailable(f"{self.address} did not answer C-ECHO")

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        """Raises Unavailable if the connection has ended, which pynetdicom reports as RuntimeError."""
        try:
            yield
        except RuntimeError:
            raise Unavailable(f"{self.address} ended the connection") from None

    def _check_status(self, answer: pydicom.Dataset) -> None:
        status = answer.get("Status")
        if status is None:
            raise Unavailable(f"{self.address} did not answer, or ended the connection")
        if status in (0, _DUPLICATE) or 0xB000 <= status <= 0xBFFF:  # the last ones are warnings: stored with changes
            return
        reason = f"{self.address} answered C-STORE with status {status:04X}"
        if 0xA700 <= status <= 0xA7FF:
            raise Unavailable(f"{reason} (out of resources)", for_all=True)
        raise Refused(reason)

    @contextlib.contextmanager
    def _association(self) -> Iterator[Association]:
        """Yields a connection, which is closed afterwards."""
        entity = AE(ae_title=self.title)
        entity.connection_timeout, entity.acse_timeout = _CONNECT_S, _CONNECT_S
        entity.dimse_timeout = entity.network_timeout = _ANSWER_S
        entity.add_requested_context(Verification)
        for kind in _CLASSES:
            entity.add_requested_context(kind, _PLAIN)
            entity.add_requested_context(kind, RLELossless)
        association = entity.associate(self.address.host, self.address.port, ae_title=self.address.title)
        if association.is_rejected:
            raise Unavailable(f"{self.address} rejects {self.title}: check the AE titles and hosts that it knows")
        if not association.is_established:
            raise Unavailable(f"{self.address} cannot be reached, or accepts no object of jaxseg")
        try:
            yield association
        finally:
            if association.is_established:
                association.release()


def _unpack(dataset: pydicom.Dataset) -> None:
    """Changes an object of run lengths into one of plain bytes."""
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        dataset.decompress(generate_instance_uid=False)
