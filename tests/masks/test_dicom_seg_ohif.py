"""OHIF's viewer over an Orthanc shows the masks of a DICOM SEG at their places, in their colours."""

import numpy as np
import pydicom
import pytest
from scipy import ndimage
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
XYZ_TO_SRGB = [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540]]
XYZ_TO_SRGB += [[0.0719453, -0.2289914, 1.4052427]]  # from D50, Lindbloom


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


def colours_of(dataset) -> dict[str, np.ndarray]:
    """Returns the recommended colour of every segment, in 0 to 255."""
    found = {}
    for segment in dataset.SegmentSequence:
        if segment.SegmentNumber:
            lightness, a, b = np.array(segment.RecommendedDisplayCIELabValue) / (655.35, 257, 257) - (0, 128, 128)
            y = (lightness + 16) / 116
            xyz = np.array([y + a / 500, y, y - b / 200])
            xyz = np.where(xyz > 6 / 29, xyz**3, (xyz - 4 / 29) * 3 * (6 / 29) ** 2) * (0.9642, 1, 0.8251)
            linear = np.clip(np.array(XYZ_TO_SRGB) @ xyz, 0, 1)
            srgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
            found[segment.SegmentLabel] = srgb * 255
    return found


def innermost(region: np.ndarray) -> tuple[int, int]:
    """Returns the pixel of a region that is farthest from its outside."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    assert depth.max() >= 2, "the region is too thin"
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)


def wrong_places(driver, masks, colours) -> list[str]:
    """Returns the masks whose colour is not shown at their centre, and whether a place without a mask has a colour.

    The viewer mixes a colour with the grey of the image below, which changes its lightness and saturation, not its hue.
    """
    import ohif

    layers = masks.data.sum(axis=0)
    centres = [innermost(mask & (layers == 1)) for mask in masks.data]
    *seen, outside = ohif.shown_at(driver, np.array([*centres, innermost(layers == 0)]))
    found = [f"no mask, but {outside}"] if np.ptp(outside) > 3 else []
    for name, colour in zip(masks.names, seen, strict=True):
        given, expected = colour - colour.mean(), colours[name] - colours[name].mean()
        share = given @ expected / (expected @ expected)  # how much of the colour is in the mixture
        alike = given @ expected / (np.linalg.norm(given) * np.linalg.norm(expected) + 1e-9)  # 1 for the same hue
        if not (0.2 < share < 1.1 and alike > 0.95):  # OHIF shows saturated blues a little brighter
            found.append(f"{name}: {colour.tolist()} instead of a mixture of grey and {colours[name].round().tolist()}")
    return found


@pytest.mark.parametrize(("kind", "labelmap"), [*((kind, False) for kind in KINDS), ("CR", True)])
def test_every_mask_has_its_colour_at_its_centre(browser, tmp_path, kind, labelmap):
    import ohif

    masks = write_xray(tmp_path / "xray.dcm", KINDS[kind])
    masks = disjoint(masks) if labelmap else masks
    path, _, dataset = written(tmp_path / "xray.dcm", tmp_path, masks, labelmap=labelmap)
    driver, labels = browser(tmp_path / "xray.dcm", path)
    assert labels == list(masks.names)
    colours = colours_of(dataset)
    last = []

    def right() -> bool:
        last[:] = wrong_places(driver, masks, colours)
        return not last

    try:
        ohif.until(right, "all colours are right", 60)
    except TimeoutError:
        (tmp_path / "screen.png").write_bytes(driver.get_screenshot_as_png())
        log = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        pytest.fail("\n".join([f"see {tmp_path / 'screen.png'}", *last, *log]))
    turned = type(masks)(masks.data[:, :, ::-1], masks.names)
    assert len(masks.names) == 1 or wrong_places(driver, turned, colours), "the comparison accepts mirrored masks"
