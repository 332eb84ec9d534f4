"""Workers between X-rays and Debian's Orthanc: whoever is stopped at any moment, each study gets exactly one SEG."""

import collections
import contextlib
import json
import os
import signal
from pathlib import Path

import pydicom
import pytest

pytest.importorskip("dicomweb_client")
pytest.importorskip("pynetdicom")
pytest.importorskip("selenium")

import ohif
from pacs_kit import KILLED, image_of, workers, xray
from small_models import save_tiny

from jaxseg.pacs.state import State

pytestmark = [pytest.mark.slow, pytest.mark.system]
NUMBER = 30


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Returns the directory of a small model with one block per stage, as the workers expect it."""
    from jaxseg.nn.resnet import VARIANTS

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "resnet18", ((1, 1, 1, 1), False))
        return save_tiny(tmp_path_factory.mktemp("model"), "cxas", class_names=("heart", "lung", "trachea"))


@pytest.fixture(scope="module")
def started():
    """Yields what starts workers; their process is made once."""
    with workers() as found:
        yield found


def results_in(url: str, modality: str = "SEG") -> collections.Counter:
    """Returns the number of result objects in every study of the PACS."""
    status, _, content = ohif.get(f"{url}/dicom-web/instances?Modality={modality}&limit=1000")
    assert status == 200
    return collections.Counter(entry["0020000D"]["Value"][0] for entry in json.loads(content))


def counts_of(state: Path) -> dict[str, int]:
    with contextlib.suppress(FileNotFoundError, ValueError), State(state, read_only=True) as opened:
        return opened.counts()
    return {}


def said(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def test_each_of_thirty_studies_ends_with_one_seg_although_all_are_killed(started, model, tmp_path):
    paths = [xray(tmp_path, number) for number in range(NUMBER)]
    colour = xray(tmp_path, NUMBER, tags={"PhotometricInterpretation": "RGB"})
    state, log, port = tmp_path / "state", tmp_path / "log", ohif.free_port()
    command = ["pacs", "watch", "--url", f"http://127.0.0.1:{port}/dicom-web", "--weights", model, "--state", state]
    command += ["--since", "all", "--every", "1s", "--threshold", "0.3", "-g", "cpu", "--batch-size", "3", "--no-cache"]
    with contextlib.ExitStack() as first:
        url = first.enter_context(ohif.orthanc(tmp_path, port=port))
        ohif.store(url, *paths[:12])
        started.start(command, log, end=("Dicomweb.store", 4))  # stored, and not noted
        assert started.end() == KILLED, said(log)
        started.start(command, log, end=("State.begin", 5))
        ohif.store(url, *paths[12:20], colour)
        assert started.end() == KILLED, said(log)
        started.start(command, log, end=("Dicomweb.fetch", 3))  # fetched, and not noted
        assert started.end() == KILLED, said(log)
        process = started.start(command, log)
        ohif.store(url, *paths[20:25])
        ohif.until(lambda: counts_of(state).get("stored", 0) >= 15, said(log), 60)
    ohif.until(lambda: "Waiting: " in said(log), "the worker notices the outage", 60)
    with ohif.orthanc(tmp_path, port=port) as url:
        ohif.store(url, *paths[25:])
        ohif.until(lambda: counts_of(state).get("stored", 0) >= NUMBER, "all are stored", 60)
        os.kill(process, signal.SIGTERM)
        assert started.end() == 1
        assert "Stopped. The same command continues where it stopped." in said(log)
        wanted = {image_of(path).study_uid for path in paths}
        assert results_in(url) == dict.fromkeys(wanted, 1)
        started.start([*command[:7], tmp_path / "new state", *command[8:], "--once"], log)
        assert started.end() == 1  # the coloured one fails again, and nothing is made again
        assert results_in(url) == dict.fromkeys(wanted, 1)
    with State(state, read_only=True) as opened:
        assert opened.counts() == {"seen": 0, "fetched": 0, "segmented": 0, "stored": NUMBER, "failed": 1}
        (failed,) = opened.failed()
    assert (failed.image, "RGB is colour" in failed.reason, failed.tries) == (image_of(colour), True, 1)
    text = said(log)
    assert not {"Phantom", "phantom", "20240101"} & set(text.split()), text
    assert "Traceback" not in text


def orthanc_for_dimse(folder: Path, jaxseg_port: int):
    """Returns an Orthanc that knows the worker as "jaxseg", and its DICOM port."""
    port = ohif.free_port()
    settings = {"DicomServerEnabled": True, "DicomPort": port, "DicomAet": "ORTHANC", "DicomCheckCalledAet": True}
    settings |= {"DicomModalities": {"jaxseg": ["JAXSEG", "127.0.0.1", jaxseg_port]}, "DicomScuTimeout": 5}
    return ohif.orthanc(folder, **settings), port


def test_orthanc_sends_images_and_receives_their_results(started, model, tmp_path):
    port, state, log = ohif.free_port(), tmp_path / "state", tmp_path / "log"
    server, dicom_port = orthanc_for_dimse(tmp_path, port)
    command = ["pacs", "listen", "--port", port, "--allow", "ORTHANC", "--send", f"ORTHANC@127.0.0.1:{dicom_port}"]
    command += ["--state", state, "--weights", model, "--threshold", "0.3", "-g", "cpu", "--no-cache"]
    command += ["--secondary-capture"]
    paths = [xray(tmp_path, number) for number in range(6)]
    with server as url:
        ohif.store(url, *paths)
        sources = json.loads(ohif.get(f"{url}/instances")[2])
        assert len(sources) == 6

        def send(*instances) -> bool:
            body = json.dumps({"Resources": instances, "Synchronous": True}).encode()
            return ohif.get(f"{url}/modalities/jaxseg/store", body=body, kind="application/json")[0] == 200

        def listens(begin: int) -> None:
            ohif.until(lambda: "listens on" in said(log)[begin:], f"the worker listens: {said(log)}", 60)

        for end in (("State.add", 3), ("Sender.store", 2)):  # on the disk and not confirmed; sent and not noted
            begin = len(said(log))
            started.start(command, log, end=end)
            listens(begin)
            confirmed = send(*sources)
            assert started.end() == KILLED, said(log)
            assert not (confirmed and end[0] == "State.add")
        begin = len(said(log))
        process = started.start(command, log)
        listens(begin)
        assert send(*sources)
        ohif.until(lambda: counts_of(state).get("stored", 0) >= 6, "all are stored", 60)
        ohif.until(lambda: not list((tmp_path / "state-files").iterdir()), "their files are removed", 10)
        os.kill(process, signal.SIGTERM)
        assert started.end() == 1
        wanted = {image_of(path).study_uid for path in paths}
        assert results_in(url) == results_in(url, "OT") == dict.fromkeys(wanted, 1)


@pytest.mark.full
def test_ohif_shows_the_masks_that_a_worker_stored(tmp_path):
    from pacs_kit import FakeSegmenter, worker
    from xray_files import XRay, write_xray

    from jaxseg.masks.segmentation import Segmentation
    from jaxseg.pacs.dicomweb import Dicomweb

    masks = write_xray(tmp_path / "xray.dcm", XRay("CR", (256, 256), tags={"PixelSpacing": [0.168, 0.168]}))

    class OfPhantoms(FakeSegmenter):
        def predict(self, images):
            import numpy as np

            bits = np.packbits(masks.data, axis=2)
            return [Segmentation(masks.names, tuple(range(len(masks.names))), (256, 256), bits) for _ in images]

    with (
        ohif.orthanc(tmp_path) as url,
        ohif.pages(url) as address,
        ohif.chromium() as driver,
        State(tmp_path / "state") as state,
    ):
        ohif.store(url, tmp_path / "xray.dcm")
        worker(state, Dicomweb(f"{url}/dicom-web"), OfPhantoms(names=masks.names))[0].once()
        assert state.counts()["stored"] == 1
        study = image_of(tmp_path / "xray.dcm").study_uid
        labels = ohif.open_segmentation(driver, address, study)
        assert labels == list(masks.names)
        uid = json.loads(ohif.get(f"{url}/dicom-web/instances?Modality=SEG")[2])[0]["00080018"]["Value"][0]
        found = json.loads(ohif.get(f"{url}/tools/lookup", body=uid.encode(), kind="text/plain")[2])
        content = ohif.get(f"{url}/instances/{found[0]['ID']}/file", accept="*/*")[2]
        (tmp_path / "seg.dcm").write_bytes(content)
        colours = ohif.colours_of(pydicom.dcmread(tmp_path / "seg.dcm"))
        ohif.until(lambda: not ohif.wrong_places(driver, masks, colours), "all colours are right", 60)
