"""C-STORE of results to dcmtk and to servers with chosen answers; what every answer means for the worker."""

import contextlib
import functools
import subprocess

import pydicom
import pytest

pytest.importorskip("pynetdicom")

from ohif import free_port, until
from pacs_kit import FakeSegmenter, image_of, xray
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification
from viewer_tools import program

from jaxseg.pacs.exchange import Refused, Unavailable
from jaxseg.pacs.results import Results
from jaxseg.pacs.send import Address, Sender, check_title, parse_address


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns the files of results: of a SEG with single bits, of one with run lengths, and of a picture."""
    folder, segmenter = tmp_path_factory.mktemp("made"), FakeSegmenter()
    results, found = Results(segmenter, capture=True), {}
    for number, size in enumerate(((64, 56), (61, 47))):
        path = xray(folder, number, size=size)
        base = folder / image_of(path).sop_uid
        results.write(path, base, segmenter.predict([segmenter.prepare(path)])[0])
        found[number] = results.paths(base)
    return {"bits": found[0]["seg"], "runs": found[1]["seg"], "capture": found[0]["capture"]}


@contextlib.contextmanager
def server(*, status: int = 0, kinds=None, echo: bool = True, titles=()):
    """Runs an SCP with a chosen answer; yields its address and what it received."""
    entity, received = AE(ae_title="PACS"), []
    entity.supported_contexts = AllStoragePresentationContexts if kinds is None else kinds
    entity.require_calling_aet = list(titles)
    if echo:
        entity.add_supported_context(Verification)

    def store(event):
        received.append(event.request.AffectedSOPInstanceUID)
        return status

    running = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield Address("PACS", "127.0.0.1", running.server_address[1]), received
    finally:
        running.shutdown()


@pytest.mark.parametrize("kind", ["bits", "runs", "capture"])
def test_every_result_is_sent_also_to_who_takes_only_plain_forms(made, kind):
    with server() as (address, received):  # pynetdicom's default contexts have no run lengths
        Sender(address, "JAXSEG").store(made[kind])
        assert received == [pydicom.dcmread(made[kind]).SOPInstanceUID]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (0x0000, None),
        (0xB000, None),
        (0x0111, None),
        (0xA700, Unavailable),
        (0xA900, Refused),
        (0xC123, Refused),
        (0x0124, Refused),
    ],
)
def test_what_a_status_means(made, status, error):
    expected = contextlib.nullcontext() if error is None else pytest.raises(error, match=f"{status:04X}")
    with server(status=status) as (address, _), expected:
        Sender(address, "JAXSEG").store(made["bits"])


def test_faults_of_the_connection(made):
    with pytest.raises(Unavailable, match="cannot be reached"):
        Sender(Address("PACS", "127.0.0.1", free_port()), "JAXSEG").check()
    with server(titles=["OTHER"]) as (address, _), pytest.raises(Unavailable, match="rejects JAXSEG: check the AE"):
        Sender(address, "JAXSEG").store(made["bits"])
    with server(kinds=AllStoragePresentationContexts[:1]) as (address, _), pytest.raises(Refused, match="not accept"):
        Sender(address, "JAXSEG").store(made["bits"])
    for echo in (True, False):  # without C-ECHO, an accepted connection is an answer
        with server(echo=echo) as (address, _):
            Sender(address, "JAXSEG").check()


@pytest.mark.parametrize("call", ["send_c_store", "send_c_echo"])
def test_a_connection_that_ends_before_the_request_can_be_tried_again(made, call, monkeypatch):
    original = getattr(Association, call)

    def ends(association, *values):
        association.abort()
        return original(association, *values)

    monkeypatch.setattr(Association, call, ends)
    with server() as (address, _):
        sender = Sender(address, "JAXSEG")
        act = sender.check if call == "send_c_echo" else functools.partial(sender.store, made["bits"])
        with pytest.raises(Unavailable, match="ended the connection"):
            act()


@pytest.mark.system("storescp")
@pytest.mark.parametrize("options", [[], ["+xr"]])
def test_dcmtk_receives_the_results(made, tmp_path, options):
    port = free_port()
    command = [program("storescp"), *options, "-aet", "PACS", "-od", tmp_path, str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        sender = Sender(Address("PACS", "127.0.0.1", port), "JAXSEG")

        def answers() -> bool:
            with contextlib.suppress(Unavailable):
                sender.check()
                return True
            return False

        until(answers, "storescp answers", 20)
        for path in made.values():
            sender.store(path)
            sender.store(path)
    finally:
        process.kill()
        process.wait()
    from highdicom.seg import segread

    found = {str(pydicom.dcmread(path).SOPInstanceUID): path for path in tmp_path.iterdir()}
    assert len(found) == len(list(tmp_path.iterdir())) == 3
    for kind in ("bits", "runs"):
        wanted = segread(made[kind])
        again = segread(found[str(wanted.SOPInstanceUID)])
        assert (again.pixel_array == wanted.pixel_array).all()


def test_addresses():
    assert str(parse_address("PACS@[::1]:104")) == "PACS@[::1]:104"
    assert parse_address("MY PACS@host.local:104").title == "MY PACS"
    for text in ("PACS", "PACS@host", "PACS@host:0", "PACS@host:70000", "@host:1", "P@S@host:1", "PACS@ho st:1", ""):
        with pytest.raises(ValueError, match=r"TITLE@host:port|not an AE title"):
            parse_address(text)
    for title in ("", "A" * 17, " A", "A ", "A\\B", "ä"):
        with pytest.raises(ValueError, match="is not an AE title"):
            check_title(title)
