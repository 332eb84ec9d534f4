"""Multipart bodies of any kind: damaged, cut off, too large, with wrong fields; and pictures that claim to be huge."""

import struct
import zlib

import pydicom
import pytest
from dicom_files import RAMP, write_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless
from service_kit import BOUNDARY, connected, exchange, head, multipart, png, request_folders, service, wait_until

from jaxseg.service.limits import Limits

LIMITS = Limits(bytes=200_000, pixels=10_000, seconds=20)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with service(tmp_path_factory.mktemp("service"), limits=LIMITS) as found:
        yield found


def send(address, body, *, length=None, path="/v1/segment", **headers) -> tuple[int, str]:
    status, content = exchange(address, head(address, path, len(body) if length is None else length, **headers) + body)
    return status, content.get("error", "")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(height: int, width: int) -> bytes:
    """Returns a PNG file of a few bytes that says it has this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_names_of_files_never_become_paths(served):
    address, engine = served
    for name in ("../../../etc/cron.d/evil", "/etc/passwd", "..", "a\0b", "x" * 5000, "C:\\windows\\x.png"):
        body = multipart({"image": png()}).replace(b"image.bin", name.encode())
        assert send(address, body)[0] in (200, 400), name
    names = {path.name for folder in request_folders(engine) for path in folder.rglob("*")}
    assert names == {"upload-image-1"}


def test_a_body_is_refused_as_soon_as_it_is_too_large(served):
    address, engine = served
    assert send(address, b"", length=LIMITS.bytes + 1)[0] == 413
    part = multipart({"image": b"x"}).split(b"x\r\n--")[0]
    with connected(address) as connection:  # no length: it is counted while it arrives
        request = head(address, "/v1/segment", 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
        connection.sendall(request + b"%x\r\n%s\r\n" % (len(part), part))
        for _ in range(4):
            connection.sendall(b"%x\r\n%s\r\n" % (60_000, b"x" * 60_000))
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    wait_until(lambda: engine.running == 0)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "cut off"),
        (b"nonsense", 400, "damaged"),
        (multipart({"image": png()})[:-20], 400, "cut off"),
        (multipart({}), 422, "'image' is missing"),
        (multipart({"picture": b"x"}), 422, "'picture' is unknown"),
        (multipart({"image": png()}, {"classes": "x" * 5000}), 413, "4,096 bytes"),
        (multipart({"image": png()}).replace(b"Content-Disp", b"X: y\r\n" * 20 + b"Content-Disp"), 400, "damaged"),
        (
            multipart({"image": png()}).replace(b"Content-Disp", b"X: " + b"y" * 9000 + b"\r\nContent-Disp"),
            400,
            "damaged",
        ),
        (multipart({"image": b"a"})[: -len(BOUNDARY) - 6] + multipart({"image": b"b"}), 422, "more than 1 files"),
        (multipart({"image": b""}), 400, "empty"),
        (multipart({}, {f"f{i}": "" for i in range(3000)}), 422, "unknown"),
    ],
)
def test_a_wrong_body_is_refused_with_the_reason(served, body, status, words):
    found, error = send(served[0], body)
    assert (found, words in error) == (status, True), error


def test_a_boundary_that_is_missing_or_too_long_is_refused(served):
    for kind, status in (("multipart/form-data", 415), (f"multipart/form-data; boundary={'x' * 400}", 400)):
        assert send(served[0], b"x", Content_Type=kind)[0] == status


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_a_request_is_answered_and_leaves_nothing(served, data):
    address, engine = served
    body = bytearray(multipart({"image": png(size=32)}, {"classes": "heart"}))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        if data.draw(st.booleans()):
            body[at : at + data.draw(st.integers(1, 80))] = data.draw(st.binary(max_size=40))
        else:
            del body[at:]
        body = body or bytearray(b"x")
    status, _ = send(address, bytes(body))
    assert status == 200 or 400 <= status < 500
    wait_until(lambda: len(request_folders(engine)) == len(engine.results))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_instead_of_a_request_do_no_harm(served, content):
    status, _ = exchange(served[0], content + b"\r\n\r\n", closes=True)
    assert status == 0 or 200 <= status < 500


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded(served, tmp_path):
    address, engine = served
    for size in ((101, 100), (60_000, 60_000), (2**31 - 1, 2**31 - 1)):
        status, error = send(address, multipart({"image": bomb(*size)}))
        assert status in (400, 413), error
        assert "pixels" in error or "large" in error, error
    rows = pydicom.dcmread(write_dicom(tmp_path / "x.dcm", RAMP))
    rows.Rows = rows.Columns = 8000
    rows.file_meta.TransferSyntaxUID, rows.PixelData = RLELossless, encapsulate([b"\0" * 64])
    rows["PixelData"].VR = "OB"
    rows.save_as(tmp_path / "y.dcm", enforce_file_format=True)
    status, error = send(address, multipart({"image": (tmp_path / "y.dcm").read_bytes()}))
    assert (status, "pixels are allowed" in error) == (413, True)


def test_a_deflated_file_that_grows_without_end_is_refused(served, tmp_path):
    dataset = pydicom.dcmread(write_dicom(tmp_path / "x.dcm", RAMP))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "y.dcm", enforce_file_format=True)
    packed = zlib.compressobj(9, wbits=-15)
    zeros = packed.compress(bytes(300_000_000)) + packed.flush()
    start = (tmp_path / "y.dcm").read_bytes()
    content = multipart({"image": start[: start.index(b"1.2.840.10008.1.2.1.99") + 22] + zeros})
    assert len(content) > LIMITS.bytes
    assert send(served[0], content)[0] == 413
    with service(tmp_path, limits=Limits(pixels=LIMITS.pixels)) as (address, _):
        status, error = send(address, content)
    assert (status, "elements" in error) == (400, True), error


def test_a_client_that_stops_sending_frees_its_place(served):
    address, engine = served
    body = multipart({"image": png()})
    assert exchange(address, head(address, "/v1/segment", len(body)) + body[:-100], closes=True)[0] == 0
    wait_until(lambda: engine.running == 0 and len(request_folders(engine)) == len(engine.results))
