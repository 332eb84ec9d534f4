"""Masks of CTs that are scored over HTTP: NIfTI files and DICOM slices, and volumes that are refused."""

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from service_kit import OneAtATime, png, segmenter, service, wait_until
from volume_files import save_nifti, save_series

import jaxseg
from jaxseg.service import volumes
from jaxseg.service.limits import Limits

CT = np.random.default_rng(0).integers(-1000, 1000, (15, 32, 30)).astype(np.int16)
MASK = np.zeros(CT.shape, np.uint8)
MASK[1:14, 8:20, 9:22] = 1  # 13 slices, of which 10 are scored
MASK[3] = 0


@pytest.fixture(scope="module")
def model():
    table = np.random.default_rng(1).normal(size=(145, 512)).astype(np.float32)
    return jaxseg.create("segae", backbone="resnet18", width=4).with_embeddings(table)


@pytest.fixture(scope="module")
def scorer(model):
    return jaxseg.Scorer(model)


@pytest.fixture(scope="module")
def client(tmp_path_factory, scorer):
    served = service(tmp_path_factory.mktemp("service"), segmenter(), None, scorer, limits=Limits(voxels=20_000))
    with served as (address, _), httpx.Client(base_url=address, timeout=60) as found:
        yield found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    return {
        "ct": save_nifti(folder / "ct.nii.gz", CT).read_bytes(),
        "mask": save_nifti(folder / "mask.nii.gz", MASK).read_bytes(),
    }


def ask(client, files, organ="liver", accept="application/json") -> httpx.Response:
    data = {} if organ is None else {"organ": organ}
    return client.post("/v1/score", files=files, data=data, headers={"Accept": accept})


def test_scores_equal_those_of_score(client, files, scorer):
    wanted = jaxseg.score(CT, MASK, "liver", scorer, per_slice=True)
    found = ask(client, files).json()
    assert (found["organ"], found["slices"]) == ("liver", list(wanted.slices))
    np.testing.assert_allclose(found["dice"], wanted.dice, rtol=1e-5)
    assert found["mean"] == pytest.approx(wanted.mean, rel=1e-5)
    lines = ask(client, files, accept="text/csv").text.splitlines()
    assert (lines[0], len(lines)) == ("slice,predicted_dice", 1 + len(wanted.slices))


def test_a_ct_may_be_the_slices_of_a_dicom_series(client, scorer, tmp_path):
    folder = save_series(tmp_path / "ct", (CT + 1024).astype(np.uint16))
    affine = jaxseg.volumes.read.read_volume(folder).affine
    mask = save_nifti(tmp_path / "mask.nii.gz", MASK, affine).read_bytes()
    parts = [("ct", (path.name, path.read_bytes())) for path in folder.iterdir()] + [("mask", ("m", mask))]
    answer = ask(client, parts)
    assert answer.status_code == 200, answer.text
    assert answer.json()["mean"] == pytest.approx(jaxseg.score(CT, MASK, "liver", scorer), rel=1e-5)


def test_dicom_slices_of_too_many_elements_are_refused_before_they_are_parsed(client, files, tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "stored_size", lambda path: 1 / 0)
    folder = save_series(tmp_path / "ct", CT[:3].astype(np.uint16))
    first, *others = (path.read_bytes() for path in folder.iterdir())
    place = first.index(b"\x28\x00\x02\x00US")
    flood = first[:place] + b"\x11\x00\x00\x10LO\0\0" * 50_001 + first[place:]
    for slices, limit, words in (
        ([*others, flood], 1_000_000, "more than 50,000 elements"),
        ([first, *others], 60, "more than 60 DICOM elements together"),
    ):
        monkeypatch.setattr(volumes, "_MAX_ELEMENTS", limit)
        answer = ask(client, [("ct", content) for content in slices] + [("mask", files["mask"])])
        assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text


class Noted:
    """A predictor that notes what it computes in `events`; each score of slices waits for `go`."""

    def __init__(self, predictor, events, go):
        self.predictor, self.events, self.go = predictor, events, go

    def __getattr__(self, name):
        return getattr(self.predictor, name)

    def predict(self, images):
        self.events.append("X-ray")
        return self.predictor.predict(images)

    def scores(self, requests):
        if requests[0].ct.shape[1:] == CT.shape[1:]:  # and not one to prepare the device
            self.events.append(sum(len(request.ct) for request in requests))
            self.go.wait(30)
        return self.predictor.scores(requests)


def test_volumes_are_read_one_by_one_and_leave_a_thread_to_others(client, files, monkeypatch):
    reads = OneAtATime(volumes._read)
    monkeypatch.setattr(volumes, "_read", reads)
    reads.check(lambda: ask(client, files), lambda: client.post("/v1/segment", files={"image": png()}))


@pytest.fixture
def noted(tmp_path, model):
    """A service that scores all 12 slices of a mask, 4 at a time; its client, its engine, and what `Noted` has."""
    events, go = [], threading.Event()
    predictors = (
        Noted(segmenter(), events, go),
        None,
        Noted(jaxseg.Scorer(model, slices=None, batch_size=4), events, go),
    )
    try:
        with service(tmp_path, *predictors) as (address, engine), httpx.Client(base_url=address, timeout=60) as found:
            yield found, engine, events, go
    finally:
        go.set()


def test_an_x_ray_is_segmented_between_the_slices_of_a_long_score(noted, files, model):
    client, _, events, go = noted
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(ask, client, files)
        wait_until(lambda: events == [4])
        short = pool.submit(client.post, "/v1/segment", files={"image": png()})
        wait_until(lambda: client.get("/metrics").text.count("jaxseg_queue_length 1.0") == 1)
        go.set()
        assert short.result().status_code == 200
    assert events == [4, "X-ray", 4, 4]
    wanted = jaxseg.score(CT, MASK, "liver", jaxseg.Scorer(model, slices=None), per_slice=True)
    assert long.result().json()["slices"] == list(wanted.slices)
    np.testing.assert_allclose(long.result().json()["dice"], wanted.dice, rtol=1e-5)


def test_a_score_ends_with_the_slices_that_are_computed_if_its_client_goes_away(noted, files):
    client, engine, events, go = noted
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/score", files=files, data={"organ": "liver"}, timeout=3)
    wait_until(lambda: engine.running == 0)
    go.set()
    assert client.post("/v1/segment", files={"image": png()}).status_code == 200
    assert events == [4, "X-ray"]


def test_an_empty_mask_has_no_score(client, files, tmp_path):
    empty = save_nifti(tmp_path / "mask.nii", MASK * np.uint8(0)).read_bytes()
    assert ask(client, files | {"mask": empty}).json() | {"warnings": []} == {
        "organ": "liver",
        "mean": None,
        "slices": [],
        "dice": [],
        "warnings": [],
    }


def test_wrong_volumes_and_organs_are_refused(client, files, tmp_path):
    large = save_nifti(tmp_path / "large.nii.gz", np.zeros((10, 60, 50), np.int16)).read_bytes()
    other = save_nifti(tmp_path / "other.nii.gz", MASK[:3]).read_bytes()
    cut = gzip.compress(gzip.decompress(files["ct"])[:2000])
    cases = [
        ({"organ": None}, 422, "'organ' is missing"),
        ({"organ": "soul"}, 422, "soul"),
        ({"ct": b"no volume"}, 400, "not NIfTI"),
        ({"ct": large}, 413, "20,000 are allowed"),
        ({"mask": other}, 400, "mask"),
        ({"ct": cut}, 400, "truncated"),
        ({"mask": files["ct"]}, 400, "mask"),
    ]
    for change, status, words in cases:
        organ = change.pop("organ", "liver")
        answer = ask(client, files | change, organ)
        assert (answer.status_code, words in answer.json()["error"]) == (status, True), (words, answer.text)
        assert "upload-" not in answer.text
    several = [("ct", b"x"), ("ct", b"y"), ("mask", files["mask"])]
    assert ask(client, several).status_code == 400
