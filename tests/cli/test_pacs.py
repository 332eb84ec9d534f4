"""`jaxseg pacs`: the whole way with a small model and a server in this process, and what wrong options say."""

import io
import json
import os
import signal
import time

import pydicom
import pytest
from click.testing import CliRunner

pytest.importorskip("dicomweb_client")
pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")

from dicomweb_server import dicomweb
from ohif import free_port, until
from pacs_kit import CHEST, image_of, workers, xray
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from small_models import save_tiny

from jaxseg.cli.main import main
from jaxseg.cli.pacs import pacs
from jaxseg.pacs.exchange import Image
from jaxseg.pacs.state import State


@pytest.fixture(scope="module")
def model(tmp_path_factory, shallow):
    return save_tiny(tmp_path_factory.mktemp("model"), "cxas", class_names=("heart", "lung"))


def run(*words, capsys) -> tuple[int, str, str]:
    """Returns the exit code, and what was printed on stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        main(["pacs", *map(str, words)])
    return (ended.value.code or 0, *capsys.readouterr())


def watch(url, model, state, *more) -> list:
    common = ["--weights", model, "--state", state, "--threshold", "0.3", "-g", "cpu", "--once", "--no-cache"]
    return ["watch", "--url", url, *common, *more]


def test_watch_once_stores_results_and_status_lists_failures(tmp_path, model, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    good, bad = xray(tmp_path, 0), xray(tmp_path, 1, tags={"BodyPartExamined": "HAND"})
    state = tmp_path / "state"
    with dicomweb(good, bad) as server:
        code, _, said = run(*watch(server.url, model, state, "--secondary-capture", "--report"), capsys=capsys)
        assert code == 1, said
        assert "1 stored, 1 failed, 0 waiting" in said
        assert f"Failed: {image_of(bad).sop_uid}: BodyPartExamined names another part" in said
        assert "HAND" not in said
        stored = len(server.stored)
        assert stored == 2  # no report: the model has not the classes for it
        code, _, said = run(*watch(server.url, model, state, "--secondary-capture", "--report"), capsys=capsys)
        assert (code, len(server.stored)) == (0, stored), said
        code, _, said = run(*watch(server.url, model, state), capsys=capsys)
        assert (code, "belongs to another model, settings or results" in said) == (2, True)
    code, shown, _ = run("status", "--state", state, capsys=capsys)
    assert code == 0
    assert "1 stored, 1 failed" in shown
    assert image_of(bad).sop_uid in shown
    _, shown, _ = run("status", "--state", state, "--json", capsys=capsys)
    found = json.loads(shown)
    assert found["counts"]["failed"] == 1
    assert found["failed"][0]["instance"] == image_of(bad).sop_uid
    assert found["about"]["PACS"] == server.url
    assert run("retry", "--state", state, capsys=capsys)[2].startswith("1 X-rays will be tried again")


def test_watch_stores_a_report_of_what_the_model_can_measure(tmp_path, shallow, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    weights = save_tiny(tmp_path, "cxas", class_names=CHEST)
    with dicomweb(xray(tmp_path)) as server:
        words = watch(server.url, weights, tmp_path / "state", "--report", "--threshold", "0.01")
        code, _, said = run(*words, capsys=capsys)
        assert code == 0, said
    files = [io.BytesIO(content[content.index(b"DICM") - 128 :]) for content in server.stored]  # without their frame
    kinds = [pydicom.dcmread(file, stop_before_pixels=True).Modality for file in files]
    assert kinds == ["SR", "SEG"]


def test_once_exits_with_1_if_an_xray_waits_since_an_earlier_run(tmp_path, model, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path = xray(tmp_path)
    with State(tmp_path / "state") as state:
        state.add(image_of(path))
        state.postpone(image_of(path), "HTTP status 502", time.time() + 1000)
    with dicomweb(path) as server:
        code, _, said = run(*watch(server.url, model, tmp_path / "state"), capsys=capsys)
    assert (code, "0 stored, 0 failed, 1 waiting" in said) == (1, True), said


def test_once_with_an_outage_is_an_error(tmp_path, model, capsys):
    code, _, said = run(*watch("http://127.0.0.1:9/dicom-web", model, tmp_path / "state"), capsys=capsys)
    assert code == 1
    assert said.splitlines()[-1].startswith("Error: asking for X-rays: the PACS refused the connection")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["watch", "--url", "ftp://a", "--state", "s"], "is not the address of a DICOMweb service"),
        (["watch", "--url", "http://a:b@c/", "--state", "s"], "use --user and JAXSEG_PACS_PASSWORD"),
        (["watch", "--url", "http://a/", "--user", "u", "--state", "s"], "the password of u is missing"),
        (["watch", "--url", "http://a/", "--every", "soon", "--state", "s"], "write 30s, 5m or 1h"),
        (["watch", "--url", "http://a/", "--since", "x", "--state", "s"], "write 7d (days), 2026-11-30 or all"),
        (["watch", "--url", "http://a/"], "--state"),
        (["listen", "--send", "nobody", "--state", "s"], "--send: 'nobody' is not an address"),
        (["listen", "--send", "A@b:1", "--aet", "A" * 17, "--state", "s"], "is not an AE title"),
        (["listen", "--send", "A@b:1", "--allow", "x\\y", "--state", "s"], "--allow: "),
        (["status", "--state", "missing"], "there is no such state file"),
        (["retry", "--state", "missing"], "there is no such state file"),
    ],
)
def test_wrong_options_are_explained(words, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAXSEG_PACS_PASSWORD", raising=False)
    code, _, said = run(*words, capsys=capsys)
    assert (code, text in said) == (2, True), said
    assert list(tmp_path.iterdir()) == []


def test_a_state_file_in_use_is_explained(tmp_path, model, capsys):
    with State(tmp_path / "state"):
        code, _, said = run(*watch("http://127.0.0.1:9", model, tmp_path / "state"), capsys=capsys)
    assert (code, "another worker uses" in said) == (2, True)


def test_open_ports_and_unencrypted_addresses_warn(tmp_path, capsys, monkeypatch):
    text = tmp_path / "text"
    text.write_bytes(b"no database " * 100)  # ends the command after the warning
    words = ["--state", text, "--weights", tmp_path]
    said = run("listen", "--host", "0.0.0.0", "--send", "A@b:1", *words, capsys=capsys)[2]
    assert "Warning: other machines can connect to 0.0.0.0:11112 without encryption, and everyone may send" in said
    said = run("listen", "--host", "0.0.0.0", "--allow", "B", "--send", "A@b:1", *words, capsys=capsys)[2]
    assert "everyone" not in said
    assert "is not encrypted" in run("watch", "--url", "http://pacs/", *words, capsys=capsys)[2]
    assert "is not encrypted" not in run("watch", "--url", "https://pacs/", *words, capsys=capsys)[2]


def test_status_of_many_failures_is_short(tmp_path, capsys):
    with State(tmp_path / "state") as state:
        for k in range(50):
            image = Image("1.2", "1.3", f"1.2.{k}")
            state.add(image)
            if k % 2:
                state.fail(image, "no \x1b[31mpixels")
    _, shown, _ = run("status", "--state", tmp_path / "state", capsys=capsys)
    assert shown.count("pixels") == 20
    assert shown.count("... and 5 more; --json shows all") == 2
    assert "\x1b" not in shown


def test_the_group_lists_its_commands():
    text = CliRunner().invoke(pacs, ["--help"]).output
    assert all(name in text for name in ("watch", "listen", "status", "retry"))


def test_sigterm_ends_listen_although_a_connection_is_open(tmp_path, model):
    port, log = free_port(), tmp_path / "log"
    command = ["pacs", "listen", "--port", port, "--send", "PACS@127.0.0.1:9", "--state", tmp_path / "state"]
    command += ["--weights", model, "--threshold", "0.3", "-g", "cpu", "--no-cache"]
    entity = AE(ae_title="MODALITY")
    entity.add_requested_context(Verification)
    with workers() as started:
        process = started.start(command, log)
        until(lambda: log.exists() and "listens on" in log.read_text(), "the worker listens", 100)
        association = entity.associate("127.0.0.1", port, ae_title="JAXSEG")
        assert association.send_c_echo().Status == 0
        begin = time.monotonic()
        os.kill(process, signal.SIGTERM)
        assert started.end() == 1, log.read_text()
        assert time.monotonic() - begin < 20
    until(lambda: not association.is_established, "the connection has ended", 10)
    assert "Stopped. The same command continues where it stopped." in log.read_text()
    assert "Traceback" not in log.read_text()
