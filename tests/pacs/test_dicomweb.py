"""DICOMweb against a server with chosen answers: pages, limits, faults, credentials, and what errors do not say."""

import base64
import datetime
import json
import socket
import ssl
import subprocess

import pydicom
import pytest

pytest.importorskip("dicomweb_client")

from dicomweb_server import dicomweb, entry, multipart
from pacs_kit import FakeSegmenter, image_of, xray

from jaxseg.pacs.dicomweb import PASSWORD, TOKEN, Dicomweb, check_url, is_exposed
from jaxseg.pacs.exchange import Names, Refused, Unavailable
from jaxseg.pacs.results import Results


@pytest.fixture
def path(tmp_path):
    return xray(tmp_path, 0)


@pytest.fixture
def server(path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with dicomweb(path) as found:
        yield found


@pytest.fixture
def seg(path, tmp_path):
    """Returns the file of a DICOM SEG."""
    segmenter = FakeSegmenter()
    results = Results(segmenter)
    base = tmp_path / image_of(path).sop_uid
    results.write(path, base, segmenter.predict([segmenter.prepare(path)])[0])
    return results.paths(base)["seg"]


def test_a_file_arrives_bit_by_bit(server, path, tmp_path):
    Dicomweb(server.url).fetch(image_of(path), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
    assert "transfer-syntax=*" in server.requests[-1][2]["Accept"]


def test_an_answer_that_is_no_multipart_is_the_file(server, path, tmp_path):
    server.faults["instances"] = [(200, {"Content-Type": "application/dicom"}, path.read_bytes())]
    Dicomweb(server.url).fetch(image_of(path), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("page", [100, 7])
def test_all_pages_of_studies_are_read_once(server, page):
    server.studies, server.page = 230, page
    found = list(Dicomweb(server.url).find())
    assert sorted(map(str, found)) == sorted(map(str, server.images()))


def test_a_server_that_repeats_its_first_page_does_not_keep_it_waiting(server):
    server.studies, server.ignores_offset = 150, True
    assert len(set(Dicomweb(server.url).find())) == 100


def test_a_study_is_read_again_only_if_its_number_of_objects_changes(server):
    service = Dicomweb(server.url)
    list(service.find())
    server.requests.clear()
    assert list(service.find()) == []
    assert all("/instances" not in path for _, path, *_ in server.requests)
    service._all_again = 0.0  # an hour later
    assert len(set(service.find())) == 1


def test_since_restricts_the_study_date(server):
    today = f"{datetime.date.today():%Y%m%d}"
    for since, wanted in ((0, f"StudyDate={today}-"), (datetime.date(2026, 1, 2), "StudyDate=20260102-")):
        list(Dicomweb(server.url, since=since).find())
        assert wanted in server.requests[-2][1] or wanted in server.requests[-1][1]
    server.requests.clear()
    list(Dicomweb(server.url).find())
    assert all("StudyDate" not in path for _, path, *_ in server.requests)


def test_objects_of_other_classes_are_left_out(server, path):
    assert set(Dicomweb(server.url).find()) == {image_of(path)}  # the server also lists a CT image


def test_a_result_is_stored_and_confirmed(server, seg):
    Dicomweb(server.url).store(seg)
    (content,) = server.stored
    assert pydicom.dcmread(seg).PixelData in content


def failed_with(reason: int) -> dict:
    return {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}


@pytest.mark.parametrize(
    ("status", "answer", "error", "text"),
    [
        (202, failed_with(0xA700), Unavailable, "A700"),
        (202, failed_with(0x0122), Refused, "0122"),
        (200, {}, Unavailable, "did not confirm"),
        (409, {}, Refused, "HTTP status 409"),
        (503, {}, Unavailable, "HTTP status 503"),
        (401, {}, Unavailable, "HTTP status 401; check --user"),
    ],
)
def test_a_result_that_is_not_stored_is_noticed(server, seg, status, answer, error, text):
    server.answer_of_store = (status, answer)
    with pytest.raises(error, match=text):
        Dicomweb(server.url).store(seg)


def test_a_server_may_refuse_what_it_has(server, seg):
    uid = str(pydicom.dcmread(seg).SOPInstanceUID)
    server.answer_of_store = (409, {})
    held = json.dumps([entry(t00080018=uid)]).encode()
    server.faults["SOPInstanceUID="] = [(200, {"Content-Type": "application/dicom+json"}, held)]
    Dicomweb(server.url).store(seg)


def test_a_server_may_say_404_of_a_series_that_it_does_not_hold(server):
    server.faults["instances"] = [(404, {}, b"")]
    assert not Dicomweb(server.url).holds("1.2", Names("1.3", "1.4"))


FETCHES = {
    "too large": ((200, {"Content-Type": "application/dicom"}, b"x" * 200_000), Refused, "more than 50,000 bytes"),
    "cut by the connection": ((200, {"Content-Length": "90000"}, b"x" * 100), Unavailable, "connection .* failed"),
    "cut within the file": (
        (200, {"Content-Type": multipart()[0]}, multipart(b"x" * 100)[1][:-20]),
        Unavailable,
        "cut short",
    ),
    "without a file": ((200, {"Content-Type": multipart()[0]}, b"no parts"), Refused, "has no file in it"),
    "without a boundary": ((200, {"Content-Type": "multipart/related"}, b"--"), Refused, "has no file in it"),
    "gone": ((404, {}, b""), Refused, "HTTP status 404"),
    "busy": ((429, {"Retry-After": "17"}, b""), Unavailable, "HTTP status 429"),
    "broken": ((500, {"Retry-After": "never"}, b""), Unavailable, "HTTP status 500"),
}


@pytest.mark.parametrize("fault", FETCHES)
def test_a_fetch_that_fails_leaves_no_file(server, path, tmp_path, fault):
    answer, error, text = FETCHES[fault]
    server.faults["instances"] = [answer]
    folder = tmp_path / "files"
    folder.mkdir()
    with pytest.raises(error, match=text) as caught:
        Dicomweb(server.url, most_bytes=50_000).fetch(image_of(path), folder / "copy")
    assert list(folder.iterdir()) == []
    if fault == "busy":
        assert (caught.value.wait_s, caught.value.for_all) == (17, True)


@pytest.mark.parametrize("content", [b"<html>", b"[1, 2]", b'"text"', b"\xff\xfe", b'[{"00080018": 3}]', b"[null]"])
def test_answers_that_are_no_dicom_json_are_a_fault(server, content):
    server.faults["studies"] = [(200, {"Content-Type": "application/dicom+json"}, content)]
    with pytest.raises(Unavailable, match="not DICOM JSON"):
        list(Dicomweb(server.url).find())


def test_answers_are_bounded(server, monkeypatch):
    monkeypatch.setattr("jaxseg.pacs.dicomweb._MOST_JSON", 1000)
    server.faults["studies"] = [(200, {}, b"[" + b" " * 5000 + b"]")]
    with pytest.raises(Unavailable, match="more than 1,000 bytes"):
        list(Dicomweb(server.url).find())


def test_errors_do_not_repeat_the_texts_of_the_server(server, path, tmp_path):
    server.faults["instances"] = [(400, {"X-Patient": "Doe"}, b"no image of Jane Doe")]
    with pytest.raises(Refused) as caught:
        Dicomweb(server.url).fetch(image_of(path), tmp_path / "copy")
    assert "Doe" not in str(caught.value)


def test_a_server_that_does_not_answer_is_left(monkeypatch):
    monkeypatch.setattr("jaxseg.pacs.dicomweb._TIMEOUTS_S", (5.0, 0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = Dicomweb(f"http://127.0.0.1:{silent.getsockname()[1]}/dicom-web")
        with pytest.raises(Unavailable, match="did not answer in time"):
            service.check()


def test_nobody_listens():
    service = Dicomweb("http://127.0.0.1:9/dicom-web")
    with pytest.raises(Unavailable, match="refused the connection"):
        service.check()


def test_credentials_are_sent_and_a_token_wins_over_netrc(server, monkeypatch, tmp_path):
    monkeypatch.setenv(PASSWORD, "secret")
    Dicomweb(server.url, user="anna").check()
    sent = server.requests[-1][2]["Authorization"]
    assert base64.b64decode(sent.removeprefix("Basic ")) == b"anna:secret"
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login bob password hidden\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    Dicomweb(server.url).check()
    assert base64.b64decode(server.requests[-1][2]["Authorization"].removeprefix("Basic ")) == b"bob:hidden"
    monkeypatch.setenv(TOKEN, "abc")
    Dicomweb(server.url).check()
    assert server.requests[-1][2]["Authorization"] == "Bearer abc"


def test_a_token_does_not_follow_a_redirect_to_another_server(server, monkeypatch):
    monkeypatch.setenv(TOKEN, "abc")
    with dicomweb() as other:
        place = other.url.replace("127.0.0.1", "localhost") + "/studies"
        server.faults["studies"] = [(302, {"Location": place}, b"")]
        Dicomweb(server.url).check()
        assert "Authorization" not in other.requests[-1][2]


def test_addresses_and_credentials_that_cannot_be_used(monkeypatch):
    for url in ("ftp://a", "127.0.0.1:8042", "http://", "file:///etc/passwd", "http://a/b?c=d"):
        with pytest.raises(ValueError, match="not the address of a DICOMweb service"):
            check_url(url)
    with pytest.raises(ValueError, match="use --user and JAXSEG_PACS_PASSWORD"):
        check_url("http://anna:secret@a/dicom-web")
    monkeypatch.delenv(PASSWORD, raising=False)
    with pytest.raises(ValueError, match="the password of anna is missing"):
        Dicomweb("http://a/dicom-web", user="anna")
    assert [is_exposed(url) for url in ("http://pacs/x", "https://pacs/x", "http://[::1]/x")] == [True, False, False]


@pytest.mark.system("openssl")
def test_the_certificate_is_checked(tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "")
    with dicomweb() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http:", "https:")
        with pytest.raises(Unavailable, match="certificate of the PACS cannot be checked; name its authority by --ca"):
            Dicomweb(url).check()
        Dicomweb(url, ca=certificate).check()
