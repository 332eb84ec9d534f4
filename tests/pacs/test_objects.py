"""The picture and the report of a worker: other programs read them, and they say what was measured."""

import math
import subprocess

import numpy as np
import pydicom
import pytest
from pacs_kit import CHEST, FakeSegmenter, chest, image_of, xray
from seg_kit import errors_of_dciodvfy
from viewer_tools import program
from xray_files import JAPANESE

pytest.importorskip("highdicom")

from jaxseg.masks.segmentation import Segmentation
from jaxseg.pacs.results import Results

KINDS = {
    "CR": {"number": 1, "tags": {"PixelSpacing": [0.2, 0.2]}},
    "DX without spacing": {"number": 0},
    "Japanese name": {"number": 1, "tags": {"PatientName": JAPANESE, "PixelSpacing": [0.2, 0.3]}},
    "no orientation": {"number": 0, "tags": {"PatientOrientation": "", "ReferringPhysicianName": "One^Doctor"}},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns the X-ray and the files of its results, by the kind of X-ray."""
    found = {}
    for name, kind in KINDS.items():
        folder = tmp_path_factory.mktemp("made")
        path = xray(folder, **kind)
        results = Results(FakeSegmenter(names=CHEST), capture=True, report=True)
        base = folder / image_of(path).sop_uid
        masks = chest((64, 56))
        if "tags" not in kind or "PixelSpacing" not in kind["tags"]:
            masks = Segmentation(masks.names, masks.indices, masks.size, masks.bits)
        results.write(path, base, masks)
        found[name] = path, results.paths(base), results
    return found


@pytest.mark.system("dciodvfy")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("result", ["seg", "capture", "report"])
def test_dciodvfy_finds_no_error(made, kind, result):
    assert errors_of_dciodvfy(made[kind][1][result]) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("result", ["seg", "capture", "report"])
def test_patient_and_study_are_those_of_the_xray(made, kind, result):
    path, paths, results = made[kind]
    source, found = pydicom.dcmread(path), pydicom.dcmread(paths[result])
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate"):
        assert str(found[keyword].value) == str(source[keyword].value), keyword
    assert str(found.get("ReferringPhysicianName", "")) == str(source.ReferringPhysicianName)
    names = results.names(str(source.SOPInstanceUID), result)
    assert (found.SeriesInstanceUID, found.SOPInstanceUID) == (names.series_uid, names.sop_uid)


def measured(path) -> dict[tuple[str, str], float]:
    """Returns name and unit -> value, as highdicom reads a report."""
    from highdicom import sr

    report = sr.srread(path)
    (group,) = report.content.get_image_measurement_groups()
    return {(item.name.meaning, item.unit.value): item.value for item in group.get_measurements()}


def test_highdicom_reads_the_measurements(made):
    path, paths, results = made["CR"]
    masks = chest((64, 56))
    values = masks.measure("CTR, SCD").values
    found = measured(paths["report"])
    assert found["Cardio-thoracic ratio", "{ratio}"] == pytest.approx(values["CTR"], rel=1e-5)
    assert values["CTR"] == pytest.approx(16 / 40)
    assert found["Width of the heart", "mm"] == pytest.approx(16 * 0.2 * 56 / 64, rel=1e-5)
    assert found["Width of the thorax", "mm"] == pytest.approx(40 * 0.2 * 56 / 64, rel=1e-5)
    (group,) = pydicom.dcmread(paths["report"]).CurrentRequestedProcedureEvidenceSequence
    (series,) = group.ReferencedSeriesSequence
    (item,) = series.ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == image_of(path).sop_uid


def test_without_spacing_there_are_no_millimetres(made):
    assert {unit for _, unit in measured(made["DX without spacing"][1]["report"])} <= {"{ratio}", "{pixels}"}


@pytest.mark.system("dsrdump")
@pytest.mark.parametrize("kind", KINDS)
def test_dsrdump_reads_the_report(made, kind):
    _, paths, _ = made[kind]
    done = subprocess.run([program("dsrdump"), paths["report"]], capture_output=True, text=True, check=True)
    for wanted in ("Imaging Measurement Report", '"Cardio-thoracic ratio")="0.4"', "UNVERIFIED", "PRELIMINARY"):
        assert wanted in done.stdout
    assert "E:" not in done.stderr


def test_the_picture_shows_the_masks(made):
    _, paths, _ = made["CR"]
    dataset = pydicom.dcmread(paths["capture"])
    assert (dataset.Modality, dataset.PhotometricInterpretation) == ("OT", "RGB")
    pixels = dataset.pixel_array
    assert pixels.shape == (dataset.Rows, dataset.Columns, 3)
    assert np.ptp(pixels.astype(int), axis=2).max() > 60  # there are colours
    (source,) = dataset.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == image_of(made["CR"][0]).sop_uid


@pytest.mark.parametrize("stated", ["YES", "NO", None])
def test_the_picture_says_of_burned_in_text_what_the_xray_says(tmp_path, stated):
    path, segmenter = xray(tmp_path), FakeSegmenter()
    dataset = pydicom.dcmread(path)
    dataset.pop("BurnedInAnnotation", None)
    if stated is not None:
        dataset.BurnedInAnnotation = stated
    dataset.save_as(path)
    results, base = Results(segmenter, capture=True), tmp_path / image_of(path).sop_uid
    results.write(path, base, segmenter.predict([segmenter.prepare(path)])[0])
    assert pydicom.dcmread(results.paths(base)["capture"]).get("BurnedInAnnotation") == stated


@pytest.mark.parametrize(
    ("view", "reported"), [("PA", True), ("AP", True), (None, True), ("LL", False), ("RLO", False)]
)
def test_only_frontal_xrays_get_a_report(tmp_path, view, reported):
    path = xray(tmp_path)
    dataset = pydicom.dcmread(path)
    dataset.ViewPosition = view
    dataset.save_as(path)
    results, base = Results(FakeSegmenter(names=CHEST), report=True), tmp_path / image_of(path).sop_uid
    notes = results.write(path, base, chest((64, 56)))
    assert results.paths(base)["report"].exists() == reported
    assert ("there is no report: ViewPosition is neither AP nor PA" in notes) == (not reported)


def test_without_a_measurement_there_is_no_report(tmp_path):
    path, segmenter = xray(tmp_path), FakeSegmenter(names=("heart", "trachea"))
    results = Results(segmenter, report=True)
    base = tmp_path / image_of(path).sop_uid
    results.write(path, base, segmenter.predict([segmenter.prepare(path)])[0])
    found = results.paths(base)
    assert (found["seg"].exists(), found["report"].exists()) == (True, False)


def test_nan_is_left_out_of_a_report(tmp_path):
    from jaxseg.masks.source_header import read_header
    from jaxseg.pacs.exchange import Names
    from jaxseg.pacs.objects import write_report

    path = xray(tmp_path)
    values = {"CTR": math.nan, "SCD": 2.5, "SCD_mm": math.nan, "heart_area": 3.0}
    target = tmp_path / "report.dcm"
    options = {"algorithm": "cxas", "device_uid": "2.25.3"}
    assert write_report(values, target, read_header(path), Names("2.25.1", "2.25.2"), **options)
    assert list(measured(target).values()) == [2.5]
