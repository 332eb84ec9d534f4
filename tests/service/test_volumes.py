"""Masks of CTs that are scored over HTTP: NIfTI files and DICOM slices, and volumes that are refused."""

import gzip

import httpx
import numpy as np
import pytest
from service_kit import segmenter, service
from volume_files import save_nifti, save_series

import jaxseg
from jaxseg.service.limits import Limits

CT = np.random.default_rng(0).integers(-1000, 1000, (15, 32, 30)).astype(np.int16)
MASK = np.zeros(CT.shape, np.uint8)
MASK[1:14, 8:20, 9:22] = 1  # 13 slices, of which 10 are scored
MASK[3] = 0


@pytest.fixture(scope="module")
def scorer():
    table = np.random.default_rng(1).normal(size=(145, 512)).astype(np.float32)
    return jaxseg.Scorer(jaxseg.create("segae", backbone="resnet18", width=4).with_embeddings(table))


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
