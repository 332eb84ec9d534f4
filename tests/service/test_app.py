"""The addresses of the service: what each answers, in which formats, and the sentences of its errors."""

import io
import json
import zipfile

import httpx
import numpy as np
import pydicom
import pytest
from PIL import Image
from service_kit import CLASSES, OneAtATime, encoded, png, request_folders, running, segmenter, service
from starlette.applications import Starlette
from starlette.routing import Mount
from xray_files import XRay, write_xray

import jaxseg
from jaxseg.masks.coco import decode_rle
from jaxseg.service import formats
from jaxseg.service.app import create_app

TAGS = {"PatientName": "Quagga^Zebra", "PatientID": "stripes-17", "ImagerPixelSpacing": [0.2, 0.2]}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    served = service(tmp_path_factory.mktemp("service"))
    with served as (address, engine), httpx.Client(base_url=address, timeout=60) as found:
        found.engine = engine
        yield found


@pytest.fixture(scope="module")
def dicom(tmp_path_factory):
    path = tmp_path_factory.mktemp("dicom") / "x.dcm"
    write_xray(path, XRay(size=(80, 96), tags=TAGS))
    return path


def post(client, path="/v1/segment", content=None, *, accept="", name="chest.png", field="image", **fields):
    files = {field: (name, png() if content is None else content)}
    return client.post(path, files=files, data=fields, headers={"Accept": accept} if accept else {})


def test_json_is_a_coco_file_with_what_else_is_known(client, tmp_path):
    answer = post(client, content=png(3, 100))
    content = answer.json()
    (tmp_path / "x.png").write_bytes(png(3, 100))
    wanted = segmenter()(tmp_path / "x.png")
    assert content["images"] == [{"id": 1, "file_name": "chest.png", "height": 100, "width": 100}]
    found = {one["category_id"]: decode_rle(one["segmentation"]) for one in content["annotations"]}
    for k, mask in enumerate(wanted.masks):
        np.testing.assert_array_equal(found.get(k, np.zeros_like(mask)), mask)
    assert (content["size"], content["spacing_mm"], content["classes"]) == ([100, 100], None, list(CLASSES))
    assert content["confidence"] == wanted.confidence.rows()
    assert answer.headers["content-type"] == "application/json"


def test_a_zip_has_one_png_per_class_and_an_npz_all_of_them(client, tmp_path):
    archive = zipfile.ZipFile(io.BytesIO(post(client, accept=formats.ZIP).content))
    assert archive.namelist() == [f"{name}.png" for name in CLASSES]
    masks = np.load(io.BytesIO(post(client, accept=formats.NPZ).content))["arr_0"]
    for name, mask in zip(CLASSES, masks, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(archive.open(f"{name}.png"))), mask)


def test_a_dicom_seg_belongs_to_the_patient_of_its_image(client, dicom):
    answer = post(client, content=dicom.read_bytes(), accept=formats.SEG, name="IM0001")
    assert answer.status_code == 200, answer.text
    found = pydicom.dcmread(io.BytesIO(answer.content))
    assert (found.Modality, found.PatientName) == ("SEG", TAGS["PatientName"])
    assert found.StudyInstanceUID == pydicom.dcmread(dicom).StudyInstanceUID
    assert answer.headers["content-disposition"] == 'attachment; filename="IM0001.seg.dcm"'


def test_dicom_segs_are_written_one_by_one_and_leave_a_thread_to_others(client, dicom, monkeypatch):
    writes = OneAtATime(formats.write_seg)
    monkeypatch.setattr(formats, "write_seg", writes)
    content = dicom.read_bytes()
    writes.check(lambda: post(client, content=content, accept=formats.SEG), lambda: post(client))


def test_the_view_shows_only_the_tags_of_the_file_it_belongs_to(client, dicom):
    view = post(client, content=dicom.read_bytes(), accept=formats.VIEW).json()
    assert dict(view["tags"])["PatientID"] == "stripes-17"
    assert view["picture"]["size"] == [80, 96]
    assert any("ImagerPixelSpacing" in warning for warning in view["warnings"])
    assert not any("upload" in warning for warning in view["warnings"])
    assert post(client, accept=formats.VIEW).json()["tags"] == []


def test_a_result_is_fetched_again_in_other_formats_without_segmenting(client):
    first = post(client, content=png(5), accept=formats.NPZ)
    batches = sum_of_batches(client)
    again = client.get(first.headers["location"], headers={"Accept": formats.NPZ})
    assert np.array_equal(*(np.load(io.BytesIO(one.content))["arr_0"] for one in (first, again)))
    assert client.get(first.headers["location"], headers={"Accept": formats.CSV}).text.startswith("filename,")
    assert sum_of_batches(client) == batches
    assert client.get("/v1/results/" + "0" * 32).status_code == 404


def sum_of_batches(client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith("jaxseg_batch_size_count")).split()[1])


def test_only_the_chosen_classes_are_returned(client):
    content = post(client, classes="left lung, heart").json()
    assert content["classes"] == ["heart", "left lung"]
    assert [row["class"] for row in content["confidence"]] == ["heart", "left lung"]
    assert {one["category_id"] for one in content["annotations"]} <= {0, 2}
    answer = post(client, classes="liver")
    assert (answer.status_code, "liver" in answer.json()["error"]) == (422, True)


def test_the_intensity_of_a_request_decides_how_its_file_is_read(client, tmp_path):
    deep = np.linspace(0, 60000, 64 * 64).reshape(64, 64).astype(np.uint16)
    path = tmp_path / "deep.png"
    path.write_bytes(encoded(deep))
    found = post(client, content=path.read_bytes(), accept=formats.NPZ, intensity="clinical")
    masks = segmenter().predict([segmenter().prepare(path, intensity="clinical")])[0].masks
    np.testing.assert_array_equal(np.load(io.BytesIO(found.content))["arr_0"], masks)
    assert "clipped" in post(client, content=path.read_bytes()).json()["warnings"][0]
    assert post(client, intensity="bright").status_code == 422


def test_measurements_equal_those_of_extract(client, tmp_path):
    (tmp_path / "x.png").write_bytes(png())
    wanted = jaxseg.extract(segmenter()(tmp_path / "x.png"), "area,box")
    found = post(client, "/v1/extract", features="area,box").json()
    assert found["values"] == {name: None if np.isnan(value) else value for name, value in wanted.values.items()}
    table = post(client, "/v1/extract", accept=formats.CSV, name="=evil().png", features="area").text.splitlines()
    assert table[0] == "filename,heart_area,right lung_area,left lung_area,reason"
    assert table[1].startswith("'=evil().png,")
    assert post(client, "/v1/extract", features="beauty").status_code == 422


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "empty"),
        (b"no picture", 400, "neither PNG, JPEG nor DICOM"),
        (png()[:200], 400, "damaged"),
        (b"\0" * 128 + b"DICM" + b"\0" * 100, 400, "missing"),
    ],
)
def test_a_file_that_is_no_xray_is_refused_with_the_reason(client, content, status, words):
    answer = post(client, content=content)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert "upload-" not in answer.text
    assert "--" not in answer.json()["error"]


def test_formats_addresses_and_methods_that_do_not_exist_are_refused(client):
    assert post(client, accept="text/html").status_code == 406
    assert post(client, accept=formats.SEG).status_code == 406
    assert "DICOM image" in post(client, accept=formats.SEG).json()["error"]
    assert client.get("/v1/nothing").status_code == 404
    assert client.get("/examples/../../etc/passwd").status_code == 404
    assert client.get("/v1/segment").headers["allow"] == "POST"
    assert client.post("/v1/segment", json={}).status_code == 415
    assert post(client, colour="red").status_code == 422
    assert post(client, threshold="0.4").status_code == 422
    assert post(client, threshold="0.5").status_code == 200
    assert client.post("/v1/denoise", files={"mask": b"x"}).status_code == 404
    assert client.post("/v1/score", files={"mask": b"x"}).status_code == 404


def test_models_examples_and_health_are_described(client):
    found = client.get("/v1/models").json()
    assert (found["segment"]["classes"], found["denoise"], found["score"]) == (list(CLASSES), None, None)
    assert found["limits"]["queue"] == 32
    for address in found["examples"]:
        assert post(client, content=client.get(address).content).status_code == 200
    assert client.get("/health").json()["status"] == "ready"


def test_nothing_is_left_of_requests_whose_results_are_not_kept(client):
    kept = len(client.engine.results)
    batches = sum_of_batches(client)
    assert post(client, accept=formats.SEG).status_code == 406
    assert sum_of_batches(client) == batches  # it is refused before anything is computed
    for content in (png(), b"no picture"):
        post(client, "/v1/extract", content, features="area")
    assert len(request_folders(client.engine)) == kept


def test_a_segmenter_that_keeps_probabilities_and_short_tokens_are_refused():
    with pytest.raises(ValueError, match="without probabilities"):
        create_app(segmenter(probabilities=True))
    for token in ("short", "with a space in the middle", "ümlaut-ümlaut-ümlaut"):
        with pytest.raises(ValueError, match="token"):
            create_app(segmenter(), token=token)


def test_an_answer_is_valid_json_for_an_empty_mask(client):
    json.loads(post(client, content=encoded(np.zeros((64, 64), np.uint8))).text, parse_constant=pytest.fail)


def test_the_application_can_be_mounted_in_another_one(tmp_path):
    app = create_app(segmenter(), folder=tmp_path, token="0123456789abcdef")
    outer = Starlette(routes=[Mount("/xrays", app)], lifespan=lambda _: app.router.lifespan_context(app))
    outer.state.engine = app.state.engine
    with running(outer) as address:
        base = f"{address}/xrays"
        assert httpx.get(f"{base}/v1/models").status_code == 401
        headers = {"Authorization": "Bearer 0123456789abcdef"}
        answer = httpx.post(f"{base}/v1/segment", files={"image": png()}, headers=headers, timeout=60)
        assert answer.headers["location"].startswith("/xrays/v1/results/")
        assert httpx.get(address + answer.headers["location"], headers=headers).status_code == 200
        numbers = httpx.get(f"{base}/metrics", headers=headers).text
        assert 'path="/v1/results/{id}",status="200"' in numbers
