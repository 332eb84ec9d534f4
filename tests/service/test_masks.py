"""Masks that are restored over HTTP, in each format; and files that are refused."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image
from service_kit import encoded, segmenter, service
from volume_files import save_nifti

import jaxseg
from jaxseg.post_dae.denoise import Denoiser
from jaxseg.service import formats, masks
from jaxseg.service.limits import Limits

TINY = {"features": (4, 6), "strides": (2, 2), "decoder_features": (4, 4), "intermediate": (8, 16)}
MASK = np.zeros((60, 50), bool)
MASK[10:40, 5:30] = True


@pytest.fixture(scope="module")
def denoiser():
    return Denoiser(jaxseg.create("post_dae", image_size=(32, 32), **TINY), threshold=0.45)


@pytest.fixture(scope="module")
def client(tmp_path_factory, denoiser):
    served = service(tmp_path_factory.mktemp("service"), segmenter(), denoiser, limits=Limits(pixels=10_000))
    with served as (address, _), httpx.Client(base_url=address, timeout=60) as found:
        yield found


def restore(client, content: bytes, accept: str = formats.PNG) -> httpx.Response:
    return client.post("/v1/denoise", files={"mask": ("lungs.x", content)}, headers={"Accept": accept})


def saved(array: np.ndarray, save=np.save) -> bytes:
    content = io.BytesIO()
    save(content, array)
    return content.getvalue()


def test_every_kind_of_file_gives_the_mask_of_denoise(client, denoiser, tmp_path):
    wanted = jaxseg.denoise(MASK, denoiser)
    nifti = save_nifti(tmp_path / "mask.nii.gz", MASK[None].astype(np.uint8)).read_bytes()
    plain = save_nifti(tmp_path / "mask.nii", MASK[None].astype(np.uint8)).read_bytes()
    for content in (encoded(MASK), encoded(MASK * np.uint8(255)), saved(MASK), saved(MASK, np.savez), nifti, plain):
        answer = restore(client, content)
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), wanted)
    packed = restore(client, encoded(MASK), formats.NPZ).content
    np.testing.assert_array_equal(np.load(io.BytesIO(packed))["arr_0"], wanted)


def test_the_view_shows_what_changed(client, denoiser):
    view = restore(client, encoded(MASK), formats.VIEW).json()
    wanted = jaxseg.denoise(MASK, denoiser)
    (mask,) = view["masks"]
    assert mask["pixels"]["added"] == int((wanted & ~MASK).sum())
    assert all(mask[name].startswith("data:image/png;base64,") for name in ("before", "after", "change"))


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"no mask", 400, "neither PNG"),
        (encoded(np.zeros((20, 20), np.uint8)), 400, "the mask is empty"),
        (encoded(np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)), 400, "shades of grey"),
        (saved(np.zeros((2, 8, 8), bool)), 400, "holds 2 masks"),
        (saved(np.zeros((200, 200), bool)), 413, "pixels are allowed"),
        (saved(MASK)[:-100], 400, ""),
        (saved(np.array([{"a": 1}], dtype=object), lambda file, x: np.save(file, x, allow_pickle=True)), 400, ""),
    ],
)
def test_a_file_that_is_no_mask_is_refused_with_the_reason(client, content, status, words):
    answer = restore(client, content)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert "upload-" not in answer.text


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(client, monkeypatch):
    whole = encoded(MASK * np.uint8(255), "JPEG")
    monkeypatch.setattr(masks, "open_masks", lambda path: 1 / 0)
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    answer = restore(client, whole[:-2] + scan * 101 + whole[-2:])
    assert (answer.status_code, "more than 100 scans" in answer.json()["error"]) == (400, True)


def test_a_volume_of_many_slices_is_refused(client, tmp_path):
    content = save_nifti(tmp_path / "mask.nii.gz", np.ones((3, 8, 8), np.uint8)).read_bytes()
    answer = restore(client, content)
    assert (answer.status_code, "one slice" in answer.json()["error"]) == (422, True)


def test_models_describe_the_denoiser(client):
    assert client.get("/v1/models").json()["denoise"]["channels"] == 1
