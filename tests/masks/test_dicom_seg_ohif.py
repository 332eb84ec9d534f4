"""OHIF's viewer over an Orthanc shows the masks of a DICOM SEG at their places, in their colours."""

import pydicom
import pytest
from seg_kit import written
from xray_files import JAPANESE, XRay, disjoint, write_xray

pytest.importorskip("highdicom")
pytest.importorskip("selenium")
pytestmark = [pytest.mark.full, pytest.mark.system("chromium", "chromedriver")]

KINDS = {
    "CR": XRay("CR", (256, 256), tags={"PixelSpacing": [0.168, 0.168], "PatientName": JAPANESE}),
    "DX, MONOCHROME1, 12 bits, no spacing": XRay("DX", (301, 227), bits=12, inverted=True),
    "spacing on the detector, not square": XRay("DX", (227, 301), 12, tags={"ImagerPixelSpacing": [0.14, 0.16]}),
    "one class": XRay("CR", (61, 47), num_classes=1),
    "all classes": XRay("CR", (301, 227), num_classes=159),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Yields a function that shows an X-ray with a DICOM SEG; it returns the driver and the labels in the viewer."""
    import ohif

    with (
        ohif.orthanc(tmp_path_factory.mktemp("orthanc")) as orthanc,
        ohif.pages(orthanc) as address,
        ohif.chromium() as driver,
    ):

        def show(source, segmentation):
            ohif.store(orthanc, source, segmentation)
            study = pydicom.dcmread(source, stop_before_pixels=True).StudyInstanceUID
            return driver, ohif.open_segmentation(driver, address, study)

        yield show


@pytest.mark.parametrize(("kind", "labelmap"), [*((kind, False) for kind in KINDS), ("CR", True)])
def test_every_mask_has_its_colour_at_its_centre(browser, tmp_path, kind, labelmap):
    import ohif

    masks = write_xray(tmp_path / "xray.dcm", KINDS[kind])
    masks = disjoint(masks) if labelmap else masks
    path, _, dataset = written(tmp_path / "xray.dcm", tmp_path, masks, labelmap=labelmap)
    driver, labels = browser(tmp_path / "xray.dcm", path)
    assert labels == list(masks.names)
    colours = ohif.colours_of(dataset)
    last = []

    def right() -> bool:
        last[:] = ohif.wrong_places(driver, masks, colours)
        return not last

    try:
        ohif.until(right, "all colours are right", 60)
    except TimeoutError:
        (tmp_path / "screen.png").write_bytes(driver.get_screenshot_as_png())
        log = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        pytest.fail("\n".join([f"see {tmp_path / 'screen.png'}", *last, *log]))
    turned = type(masks)(masks.data[:, :, ::-1], masks.names)
    assert len(masks.names) == 1 or ohif.wrong_places(driver, turned, colours), "the comparison accepts mirrored masks"
