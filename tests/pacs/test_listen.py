"""C-STORE of X-rays, from pynetdicom and dcmtk: what is confirmed lies on the disk, and everything else is refused."""

import contextlib
import io
import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("pynetdicom")

from ohif import until
from pacs_kit import FakePacs, image_of, worker, xray
from pynetdicom import AE
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    Verification,
)
from viewer_tools import program

from jaxseg.images.elements import MAX_ELEMENTS
from jaxseg.pacs import listen
from jaxseg.pacs.listen import Listener
from jaxseg.pacs.state import State

KINDS = (ComputedRadiographyImageStorage, DigitalXRayImageStorageForPresentation, CTImageStorage, Verification)


@pytest.fixture
def state(tmp_path):
    with State(tmp_path / "state") as found:
        yield found


@pytest.fixture
def start(state):
    """Returns a function that starts a listener; it returns the listener and its port."""
    with contextlib.ExitStack() as stack:

        def begin(**options):
            listener = Listener(state, "JAXSEG", **options)
            return listener, stack.enter_context(listener.listening("127.0.0.1", 0))

        yield begin


def connected(port: int, title: str = "MODALITY", called: str = "JAXSEG"):
    entity = AE(ae_title=title)
    for kind in KINDS:
        entity.add_requested_context(kind)
    return entity.associate("127.0.0.1", port, ae_title=called)


def send(port: int, dataset) -> int | None:
    """Sends an object; returns the status, None if the connection ended."""
    association = connected(port)
    assert association.is_established
    status = association.send_c_store(dataset)
    if association.is_established:
        association.release()
    return status.get("Status")


def test_what_is_confirmed_is_on_the_disk_first(state, start, tmp_path, monkeypatch):
    events = []
    sync, add = listen.sync, State.add
    monkeypatch.setattr(listen, "sync", lambda folder: events.append("folder is synced") or sync(folder))
    monkeypatch.setattr(State, "add", lambda *values: events.append("row is added") or add(*values))
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("fsync") or fsync(descriptor))
    _, port = start()
    path = xray(tmp_path)
    assert send(port, pydicom.dcmread(path)) == 0
    assert events == ["fsync", "folder is synced", "fsync", "row is added"]
    image = image_of(path)
    received = pydicom.dcmread(state.files / f"{image.sop_uid}.dcm")
    assert received.PixelData == pydicom.dcmread(path).PixelData
    assert state.find(image.sop_uid).state == "fetched"


def test_received_images_are_segmented_and_sent_on(state, start, tmp_path):
    listener, port = start()
    pacs = FakePacs()
    work, _ = worker(state, pacs)
    work.source, work.wait = listener, listener.wait
    paths = [xray(tmp_path, number) for number in range(3)]
    begin = time.monotonic()
    for path in paths:
        assert send(port, pydicom.dcmread(path)) == 0
    listener.wait(60)  # ends at once: there is news
    assert time.monotonic() - begin < 30
    work.once()
    assert (len(pacs.stored), state.counts()["stored"]) == (3, 3)
    for path in paths:  # sent again
        assert send(port, pydicom.dcmread(path)) == 0
    work.once()
    assert pacs.calls.count("store") == 3
    assert list(state.files.iterdir()) == []


def test_an_image_that_failed_is_tried_again_when_it_is_sent_again(state, start, tmp_path):
    listener, port = start()
    dataset = pydicom.dcmread(xray(tmp_path))
    work, _ = worker(state, FakePacs())
    work.source = listener
    dataset.BodyPartExamined = "HAND"
    assert send(port, dataset) == 0
    work.once()
    assert state.counts()["failed"] == 1
    state.retry()
    work.once()
    assert state.failed()[0].reason == "its file is no longer here; send it again"
    dataset.BodyPartExamined = "CHEST"
    assert send(port, dataset) == 0
    work.once()
    assert state.counts()["stored"] == 1


def test_a_full_disk_and_a_full_folder_are_out_of_resources(state, start, tmp_path, monkeypatch):
    _, port = start(most_folder_bytes=6000)
    first, second = pydicom.dcmread(xray(tmp_path, 0)), pydicom.dcmread(xray(tmp_path, 1))
    assert [send(port, first), send(port, second)] == [0, 0xA700]
    _, port = start()
    monkeypatch.setattr(listen, "_RESERVE", 2**62)
    assert send(port, second) == 0xA700
    monkeypatch.setattr(listen, "_RESERVE", 0)
    write = Path.write_bytes

    def full(path, content):
        write(path, content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert send(port, second) == 0xA700
    monkeypatch.undo()
    assert [path.name for path in state.files.iterdir()] == [f"{first.SOPInstanceUID}.dcm"]
    assert state.counts()["fetched"] == 1
    assert send(port, second) == 0


def test_a_row_that_cannot_be_written_is_no_success(state, start, tmp_path, monkeypatch):
    _, port = start()

    def broken(*_):
        raise RuntimeError

    monkeypatch.setattr(State, "add", broken)
    assert send(port, pydicom.dcmread(xray(tmp_path))) == 0xA701


@pytest.mark.parametrize("uid", ["../../evil", "1.2/../3", "1..2", "1.2.03", ""])
def test_identifiers_that_are_no_uids_are_refused(state, start, tmp_path, uid):
    _, port = start()
    dataset = pydicom.dcmread(xray(tmp_path))
    with pydicom.config.disable_value_validation():
        dataset.SOPInstanceUID = uid
        assert send_as(port, dataset, uid) in (listen.NOT_UNDERSTOOD, None)  # None: the connection is closed
    assert list(state.files.iterdir()) == []
    assert sum(state.counts().values()) == 0
    assert send(port, pydicom.dcmread(xray(tmp_path))) == 0  # others are served


def test_another_identifier_in_the_file_is_a_mismatch(state, start, tmp_path):
    _, port = start()
    dataset = pydicom.dcmread(xray(tmp_path))
    assert send_as(port, dataset, "1.2.3.5") == listen.MISMATCH
    assert list(state.files.iterdir()) == []


def send_as(port: int, dataset, uid: str) -> int | None:
    """Sends an object under a SOP Instance UID that need not be valid; returns the status as `send` does."""
    association = connected(port)
    context = next(c for c in association.accepted_contexts if c.abstract_syntax == dataset.SOPClassUID)
    syntax, message = context.transfer_syntax[0], C_STORE()
    message.MessageID, message.Priority = 1, 2
    message.AffectedSOPClassUID = dataset.SOPClassUID
    message._affected_sop_instance_uid = pydicom.uid.UID(uid, validation_mode=pydicom.config.IGNORE)
    message.DataSet = io.BytesIO(encode(dataset, syntax.is_implicit_VR, syntax.is_little_endian))
    association._reactor_checkpoint.clear()  # as pynetdicom does while it waits for an answer
    association.dimse.send_msg(message, context.context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    if association.is_established:
        association.release()
    return None if answer is None else answer.Status


def test_a_message_that_is_too_large_ends_the_connection(state, start, tmp_path):
    _, port = start(most_bytes=10_000)
    dataset = pydicom.dcmread(xray(tmp_path, 0, size=(1200, 1000)))
    assert send(port, dataset) is None
    assert list(state.files.iterdir()) == []
    assert send(port, pydicom.dcmread(xray(tmp_path, 1))) == 0  # others are served


def test_a_part_that_claims_gigabytes_is_not_read(state, start):
    _, port = start()
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(b"\x01\x00\xff\xff\xff\xff" + b"x" * 1000)
        peer.settimeout(10)
        while peer.recv(1000):
            pass  # until it is closed


def test_a_sender_that_does_not_wait_for_answers_is_disconnected(state, start, tmp_path, monkeypatch):
    answered, store = threading.Event(), listen._identified
    monkeypatch.setattr(listen, "_identified", lambda *values: answered.wait(60) and store(*values))
    listener, port = start()
    association = connected(port)
    (receiver,) = listener._entity.active_associations
    dataset = pydicom.dcmread(xray(tmp_path))
    context = next(c for c in association.accepted_contexts if c.abstract_syntax == dataset.SOPClassUID)
    for number in range(20):
        message = C_STORE()
        message.MessageID, message.Priority = number + 1, 2
        message.AffectedSOPClassUID, message.AffectedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
        message.DataSet = io.BytesIO(encode(dataset, *implicit_and_little(context)))
        association.dimse.send_msg(message, context.context_id)
    try:
        until(lambda: not association.is_established, "the connection is closed", 20)
        assert receiver.dimse.msg_queue.qsize() <= listen._MOST_MESSAGES + 2  # and the one that says that it ended
    finally:
        answered.set()


def implicit_and_little(context) -> tuple[bool, bool]:
    syntax = context.transfer_syntax[0]
    return syntax.is_implicit_VR, syntax.is_little_endian


def test_a_file_with_a_flood_of_elements_is_refused(state, start, tmp_path):
    _, port = start()
    path = xray(tmp_path)
    content = path.read_bytes()
    place = content.index(b"\x28\x00\x02\x00US")
    flood = struct.pack("<HH2sH", 0x27, 0x1000, b"SH", 0) * (MAX_ELEMENTS + 1)
    with pytest.raises(listen.Refused, match=f"more than {MAX_ELEMENTS:,} elements"):
        listen._identified(content[:place] + flood + content[place:], image_of(path).sop_uid)


def test_files_that_the_worker_deletes_meanwhile_do_not_count(state, start, tmp_path, monkeypatch):
    _, port = start()
    gone = state.files / "gone.dcm"
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: [*listed(path), gone])
    exists = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda path: path == gone or exists(path))
    assert send(port, pydicom.dcmread(xray(tmp_path))) == 0


@pytest.mark.parametrize("sent", [None, b"", b"\x01\x00\x00\x00\x10\x00half of a message"])
def test_a_listener_stops_although_a_connection_is_open(state, sent):
    listener = Listener(state, "JAXSEG")
    with contextlib.ExitStack() as peers:
        with listener.listening("127.0.0.1", 0) as port:
            if sent is None:
                association = connected(port)
            else:
                peers.enter_context(socket.create_connection(("127.0.0.1", port), 5)).sendall(sent)
                until(lambda: listener._entity.active_associations, "the connection is accepted", 10)
            receivers = listener._entity.active_associations
            begin = time.monotonic()
        assert time.monotonic() - begin < 10
        assert len(receivers) == 1
        # Those who have not said who they are may be waited for, but only by threads that let the process end.
        assert all(receiver.daemon and receiver.dul.daemon for receiver in receivers)
        if sent is None:
            until(lambda: not association.is_established, "the other side notices it", 10)
            until(lambda: not receivers[0].is_alive(), "the thread ends", 10)


def test_only_allowed_titles_may_send(state, start, tmp_path):
    _, port = start(allowed=["MODALITY", "PACS"])
    assert send(port, pydicom.dcmread(xray(tmp_path))) == 0
    assert connected(port, "STRANGER").is_rejected
    assert connected(port, "PACS", called="OTHER").is_rejected


def test_other_classes_are_refused(state, start, tmp_path):
    _, port = start()
    association = connected(port)
    accepted = {context.abstract_syntax for context in association.accepted_contexts}
    association.release()
    assert accepted == set(KINDS) - {CTImageStorage}


@pytest.mark.system("storescu", "echoscu")
def test_dcmtk_sends_images_of_several_forms(state, start, tmp_path):
    _, port = start(allowed=["STORESCU", "ECHOSCU"])
    address = ["-aec", "JAXSEG", "127.0.0.1", str(port)]
    subprocess.run([program("echoscu"), *address], check=True, timeout=30)
    paths = [xray(tmp_path, number, bits=8 + 4 * (number % 2)) for number in range(3)]
    dataset = pydicom.dcmread(paths[0])
    dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    dataset.save_as(paths[0])
    subprocess.run([program("storescu"), "-xr", *address, paths[0]], check=True, timeout=30)
    subprocess.run([program("storescu"), *address, *paths[1:]], check=True, timeout=30)
    pacs = FakePacs()
    work, _ = worker(state, pacs)
    work.once()
    assert (state.counts()["stored"], len(pacs.stored)) == (3, 3)


@pytest.mark.system("storescu")
def test_dcmtk_learns_that_the_disk_is_full(state, start, tmp_path, monkeypatch):
    _, port = start(most_folder_bytes=1)
    command = [program("storescu"), "-v", "-aec", "JAXSEG", "127.0.0.1", str(port), xray(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "OutOfResources" in (done.stdout + done.stderr).replace(" ", "")
