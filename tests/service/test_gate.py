"""Who may ask: Host, Origin and token; what every answer says; and what the log does not."""

import asyncio
import json
import logging

import httpx
import pytest
from service_kit import connected, exchange, head, multipart, png, service, wait_until
from xray_files import XRay, write_xray

from jaxseg.service import formats
from jaxseg.service.gate import HEADERS, Gate, access_log
from jaxseg.service.limits import Refused

TOKEN = "0123456789abcdef-secret"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with service(tmp_path_factory.mktemp("service"), token=TOKEN, hosts=("xrays.example",)) as (found, _):
        yield found


def ask(address, path="/v1/models", token=TOKEN, **headers):
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given |= {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.get(address + path, headers=given)


@pytest.mark.parametrize("host", ["localhost", "localhost:99", "127.0.0.1:8080", "[::1]:8080", "XRAYS.example"])
def test_known_names_and_addresses_are_allowed(address, host):
    assert ask(address, host=host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "a@[", ""])
def test_an_unknown_name_is_refused_so_that_dns_rebinding_fails(address, host):
    answer = ask(address, host=host)
    assert (answer.status_code, "Host" in answer.text or "host" in answer.text) == (403, True)


def test_pages_of_other_origins_cannot_ask(address):
    own = address.removeprefix("http://")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", "https://[", "file://"):
        assert ask(address, origin=origin, host=own).status_code == 403, origin
    assert ask(address, origin=address, host=own).status_code == 200
    assert ask(address, origin="https://xrays.example", host="xrays.example").status_code == 200
    for site in ("cross-site", "same-site"):
        assert ask(address, sec_fetch_site=site, sec_fetch_mode="no-cors").status_code == 403
        assert (
            ask(address, "/", sec_fetch_site=site, sec_fetch_mode="navigate").status_code != 403
        )  # a link to the page
    assert ask(address, sec_fetch_site="same-origin", sec_fetch_mode="cors").status_code == 200


def test_results_and_numbers_need_the_token_and_the_page_does_not(address):
    for path in ("/v1/models", "/v1/results/" + "0" * 32, "/metrics"):
        for wrong in ("", "wrong", TOKEN + "x", TOKEN[:-1]):
            answer = ask(address, path, wrong)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert ask(address, path).status_code != 401
    for path in ("/health", "/openapi.json", "/shared.css", "/examples/phantom-1.png"):
        assert ask(address, path, "").status_code == 200
    basic = httpx.get(address + "/v1/models", headers={"Authorization": f"Basic {TOKEN}"})
    assert basic.status_code == 401


def test_an_upload_without_the_token_is_not_read(address):
    body = multipart({"image": png()})
    request = head(address, "/v1/segment", 10**9) + body
    assert exchange(address, request)[0] == 401


def test_every_answer_has_the_headers_of_security(address):
    for path, token in (("/health", ""), ("/v1/models", ""), ("/nothing", TOKEN), ("/v1/models", TOKEN)):
        answer = ask(address, path, token)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
        assert "server" not in answer.headers


def test_a_large_head_is_refused(address):
    with connected(address) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000)
        assert connection.recv(100).startswith(b"HTTP/1.1 4")
    assert ask(address, "/health").status_code == 200


def test_the_log_names_neither_file_nor_patient_nor_token(address, tmp_path, caplog):
    path = tmp_path / "secretname.dcm"
    write_xray(path, XRay(size=(70, 70), tags={"PatientName": "Quagga^Zebra", "PatientID": "stripes-17"}))
    damaged = tmp_path / "secretname2.dcm"
    damaged.write_bytes(path.read_bytes().replace(b"MONOCHROME2", b"STRIPES-17 "))
    access_log.setLevel(logging.INFO)
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for file, status in ((path, 200), (damaged, 400)):
        for kind in (*formats.SEGMENT, "text/quagga"):
            given = headers | {"Accept": kind}
            with file.open("rb") as opened:
                answer = httpx.post(address + "/v1/segment?q=quagga", files={"image": opened}, headers=given)
            assert answer.status_code == (status if kind in formats.SEGMENT else 406)
    ask(address, "/v1/quagga")

    def logged() -> list[dict]:
        return [json.loads(r.getMessage()) for r in caplog.records if r.name == access_log.name]

    count = len(formats.SEGMENT)
    wait_until(lambda: len(logged()) == 2 * count + 3)  # a line is written after the answer
    statuses = [200] * count + [406] + [400] * count + [406]
    assert [line["status"] for line in logged()] == [*statuses, 404]
    assert {line["path"] for line in logged()} == {"/v1/segment", "other"}
    ours = " ".join(r.getMessage() for r in caplog.records if not r.name.startswith("http")).lower()
    assert "bytes" in ours
    for secret in ("quagga", "stripes", "secretname", TOKEN):
        assert secret not in ours


class Failing:
    def __init__(self, error):
        self.error = error

    async def __call__(self, scope, receive, send):
        raise self.error


def answered(error, caplog) -> tuple[int, str]:
    """Returns the status of the answer if the application raises an error, and what was logged about it."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.disconnect"}

    class Nothing:
        def answered(self, *_):
            pass

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")]}
    gate = Gate(Failing(error), metrics=Nothing(), paths={"/"}, token=None, hosts=())
    asyncio.run(gate(scope, receive, send))
    log = "".join(r.getMessage() for r in caplog.records if r.name != access_log.name)
    return sent[0]["status"] if sent else 0, log


def test_an_unexpected_error_is_answered_and_its_text_is_not_logged(caplog):
    assert answered(Refused(418, "tea"), caplog) == (418, "")
    assert answered(OSError(28, "No space left on device"), caplog)[0] == 503
    status, log = answered(RuntimeError("patient Quagga"), caplog)
    assert (status, "RuntimeError" in log, "test_gate.py" in log, "Quagga" in log) == (500, True, True, False)
