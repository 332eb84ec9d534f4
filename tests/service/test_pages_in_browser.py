"""The page of `jaxseg serve` works in headless Chromium, with a small real network behind it."""

import base64
import csv
import dataclasses
import functools
import io
import json
import threading
import zipfile

import jax.numpy as jnp
import numpy as np
import pydicom
import pytest
import tiny_segae
from browser import ask, chromium, texts, until
from dicom_files import write_dicom
from mask_models import Echo
from PIL import Image
from selenium.webdriver.common.keys import Keys
from service_kit import encoded, png, service
from viewer_tools import axe

import jaxseg
from jaxseg.anatomy.measure.ratios import SCD_CLASSES
from jaxseg.anatomy.segment import Segmenter
from jaxseg.service.limits import Limits
from jaxseg.volumes.nifti import write_nifti

pytestmark = [pytest.mark.slow, pytest.mark.system("chromium", "chromedriver")]

CLASSES = ("right lung", "left lung", "heart", "lung", "right hemidiaphragm", *SCD_CLASSES)
TOKEN = "a-token-of-tests"
DROP = """
const transfer = new DataTransfer();
for (const [name, content] of arguments[0])
  transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
document.dispatchEvent(new DragEvent('dragenter', {dataTransfer: transfer, bubbles: true}));
document.dispatchEvent(new DragEvent('drop', {dataTransfer: transfer, bubbles: true, cancelable: true}));
"""
PASTE = DROP.split("document.")[0] + (
    "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true, cancelable: true}));"
)


class Gated(Segmenter):
    """Waits before each batch until the test opens the gate; it is open at first."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gate = threading.Event()
        self.gate.set()

    def predict(self, images):
        assert self.gate.wait(30)
        return super().predict(images)


@functools.cache
def segmenter() -> Gated:
    model = jaxseg.create("cxas", class_names=CLASSES, backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(64, 64))
    return Gated(model, confidence=True, batch_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("service")


@pytest.fixture(scope="module")
def address(folder):
    """The service with all three models."""
    from jaxseg.post_dae.denoise import Denoiser

    table = np.random.default_rng(0).normal(size=(145, 6)).astype(np.float32)
    scorer = jaxseg.Scorer(tiny_segae.small(num_labels=145).with_embeddings(table), slices=4)
    # it keeps large masks and loses small ones
    echo = Echo((32, 32), answer=lambda x: jnp.where(x.sum((1, 2), keepdims=True) > 60, x, jnp.zeros_like(x)))
    with service(folder, segmenter(), Denoiser(echo), scorer) as (found, _):
        yield found


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def window(downloads):
    with chromium(downloads) as driver:
        yield driver


@pytest.fixture
def browser(window):
    """The browser; after the test, its console must hold nothing except refused requests."""
    window.set_window_size(1400, 900)
    yield window
    segmenter().gate.set()
    window.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    messages = [entry["message"] for entry in window.get_log("browser")]
    assert [text for text in messages if "the server responded with a status of 4" not in text] == []


def show(browser, address):
    browser.get(address)
    until(lambda: len(texts(browser, "#examples li")) == 3)


def drop(browser, files: dict[str, bytes], script: str = DROP) -> None:
    browser.execute_script(script, [[name, base64.b64encode(body).decode()] for name, body in files.items()])


def states(browser) -> list[str]:
    return texts(browser, "#items .state")


def ended(browser, count: int) -> None:
    until(lambda: len([text for text in states(browser) if text.startswith("Done")]) == count, 20)


def press(browser, *keys: str) -> None:
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def click(browser, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def drawn(browser) -> list[str]:
    return texts(browser, "#picture path[data-class] title")


def test_a_dropped_image_is_shown_with_its_masks_lines_and_measurements(browser, address):
    show(browser, address)
    assert texts(browser, "#clinical") == ["Not for diagnosis: this is research software."]
    drop(browser, {"a/chest.png": png(3, 96)})
    ended(browser, 1)
    assert texts(browser, "#viewer-name") == ["a/chest.png"] or texts(browser, "#viewer-name") == ["a:chest.png"]
    assert texts(browser, "#viewer-facts") == ["96 × 96 pixels"]
    assert set(drawn(browser)) <= set(CLASSES)
    assert {"CTR", "SCD (px)", "confidence"} <= set(texts(browser, "#values dt"))
    legend = {"line fitted to the vertebrae", "distances from the line", "centres of vertebrae"}
    assert legend <= set(texts(browser, "#lines-legend span"))
    assert ask(browser, "document.querySelectorAll('#picture .lines circle').length") >= 1
    click(browser, "#lines-on")
    assert ask(browser, "document.querySelector('#picture .lines').getAttribute('visibility')") == "hidden"
    assert not ask(browser, "document.getElementById('lines-legend').checkVisibility()")


def test_classes_are_switched_searched_and_kept_for_the_next_image(browser, address):
    show(browser, address)
    drop(browser, {"1.png": png(1), "2.png": png(2)})
    ended(browser, 2)
    before = drawn(browser)
    place = CLASSES.index(before[0]) + 1
    click(browser, f"#class-list li:nth-child({place}) input")
    assert drawn(browser) == before[1:]
    click(browser, "#items li:nth-child(2) .file")
    assert texts(browser, "#viewer-name") == ["2.png"]
    assert before[0] not in drawn(browser)
    click(browser, "#none")
    assert drawn(browser) == []
    browser.find_element("id", "find-class").send_keys("lung")
    click(browser, "#all")
    assert texts(browser, "#shown") == [f"3 of {len(CLASSES)} shown"]
    browser.execute_script("document.getElementById('fill').value = 0.6")
    browser.execute_script("document.getElementById('fill').dispatchEvent(new Event('input'))")
    assert ask(browser, "document.documentElement.style.getPropertyValue('--fill')") == "0.6"


def test_results_are_downloaded_in_every_format_also_those_of_all_files(browser, address, downloads):
    pixels = np.random.default_rng(0).integers(0, 4096, (80, 70)).astype(np.uint16)
    dicom = write_dicom(downloads / "given", pixels, PatientName="Doe^Jane", Modality="CT", PixelSpacing=[0.4, 0.4])
    show(browser, address)
    drop(browser, {"one.png": png(5, 90), "two.dcm": dicom.read_bytes()})
    ended(browser, 2)
    assert texts(browser, "#downloads button") == ["PNG masks", "NumPy", "COCO JSON", "Measurements (CSV)"]
    click(browser, "#items li:nth-child(2) .file")
    assert "DICOM SEG" in texts(browser, "#downloads button")
    assert "Doe^Jane" in texts(browser, "#tags dd")
    assert texts(browser, "#viewer-warnings li")[0].startswith("NOT A PROJECTION X-RAY")
    assert states(browser)[1].startswith("Done, ")
    for k, name in enumerate(["two.masks.zip", "two.npz", "two.json", "two.seg.dcm", "two.csv"], 1):
        click(browser, f"#downloads button:nth-child({k})")
        until((downloads / name).exists, 10)
    expected = segmenter()(dicom)
    with zipfile.ZipFile(downloads / "two.masks.zip") as archive:
        assert np.array_equal(np.asarray(Image.open(archive.open("heart.png"))) > 0, expected.mask(2))
    seg = pydicom.dcmread(downloads / "two.seg.dcm")
    assert (seg.Modality, seg.PatientName) == ("SEG", "Doe^Jane")
    labels = [segment.SegmentLabel for segment in seg.SegmentSequence]
    for label, mask in zip(labels, seg.pixel_array.reshape(len(labels), 80, 70), strict=True):
        assert np.array_equal(mask > 0, expected.mask(CLASSES.index(label)))
    content = json.loads((downloads / "two.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["two.dcm"]
    with np.load(downloads / "two.npz") as arrays:
        assert len(arrays.files) >= 1
    click(browser, "#all-downloads button:last-child")
    path = downloads / "jaxseg-measurements.csv"
    until(path.exists, 10)
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row[next(iter(row))] for row in rows] == ["one.png", "two.dcm"]
    assert rows[0]["SCD_mm"] == ""
    assert float(rows[1]["SCD_mm"]) == pytest.approx(jaxseg.extract(expected, "SCD").values["SCD_mm"], rel=1e-4)
    click(browser, "#all-downloads button:first-child")
    until((downloads / "jaxseg.masks.zip").exists, 10)
    with zipfile.ZipFile(downloads / "jaxseg.masks.zip") as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["one.masks.zip", "two.masks.zip"]


def test_a_bad_file_keeps_its_sentence_and_the_others_succeed(browser, address):
    show(browser, address)
    drop(browser, {"<b>notes.txt": b"no image", "good.png": png(1), "cut.png": png(2)[:80]})
    ended(browser, 1)
    until(lambda: texts(browser, "#status") == ["1 of 3 files done, 2 failed."], 10)
    assert "its first bytes decide" in states(browser)[0]
    assert texts(browser, "#items .name")[0] == "<b>notes.txt"
    assert texts(browser, "#viewer-message") == [states(browser)[0]]
    assert ask(browser, "document.querySelectorAll('#items .failed .again[hidden]').length") == 2
    click(browser, "#items li:nth-child(2) .file")
    assert texts(browser, "#viewer-facts") == ["64 × 64 pixels"]


def test_ten_files_at_once_each_get_their_own_result_though_the_service_is_busy(browser, folder):
    with service(folder, segmenter(), limits=Limits(queue=2)) as (address, _):
        show(browser, address)
        drop(browser, {f"{size}.png": encoded(np.eye(size, dtype=np.uint8) * 255) for size in range(60, 70)})
        busy = "Array.from(document.querySelectorAll('.state')).some((e) => e.textContent.includes('busy'))"
        until(lambda: ask(browser, busy), 10)
        ended(browser, 10)
        for k in (1, 5, 10):
            click(browser, f"#items li:nth-child({k}) .file")
            assert texts(browser, "#viewer-name") == [f"{59 + k}.png"]
            assert texts(browser, "#viewer-facts") == [f"{59 + k} × {59 + k} pixels"]
        assert ask(browser, "document.querySelectorAll('#items .thumbnail img').length") == 10


def test_a_cancelled_file_leaves_the_list_and_frees_its_place(browser, folder):
    with service(folder, segmenter()) as (address, engine):
        show(browser, address)
        segmenter().gate.clear()
        drop(browser, {f"{k}.png": png(k) for k in range(3)})
        until(lambda: engine.running == 3, 10)
        click(browser, "#items li:nth-child(2) .remove")
        until(lambda: engine.running == 2, 10)
        segmenter().gate.set()
        ended(browser, 2)
        assert texts(browser, "#items .name") == ["0.png", "2.png"]
        click(browser, "#clear")
        assert ask(browser, "document.activeElement.id") == "choose-files"
        assert ask(browser, "document.body.className") == "empty"


def test_the_token_is_asked_for_once_and_again_if_it_is_wrong(browser, folder):
    with service(folder, segmenter(), token=TOKEN) as (address, _):
        browser.get(address)
        until(lambda: ask(browser, "document.activeElement.id") == "token-field")
        press(browser, "wrong", Keys.ENTER)
        until(lambda: texts(browser, "#token-hint") == ["This token is wrong. Check it, and enter it again."])
        press(browser, TOKEN, Keys.ENTER)
        until(lambda: len(texts(browser, "#examples li")) == 3)
        assert not ask(browser, "document.getElementById('token').open")
        drop(browser, {"1.png": png(1), "2.png": png(2)})
        ended(browser, 2)
        show(browser, address)  # the tab keeps it
        browser.execute_script("sessionStorage.clear()")
        browser.refresh()
        until(lambda: ask(browser, "document.getElementById('token').open"))
        press(browser, Keys.ESCAPE)
        until(lambda: "needs a token" in texts(browser, "#page-error")[0])


def test_everything_can_be_done_with_the_keyboard(browser, address):
    show(browser, address)
    active = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
    for label in ("X-rays", "Choose files", "Choose a folder", "Try phantom 1"):
        press(browser, Keys.TAB)
        assert ask(browser, active) == label
        assert ask(browser, "getComputedStyle(document.activeElement).outlineStyle") == "solid"
    press(browser, Keys.ENTER)
    ended(browser, 1)
    assert ask(browser, active) == "Try phantom 1"
    count = len(drawn(browser))
    browser.execute_script("document.querySelector('#class-list input:checked').focus()")
    press(browser, Keys.SPACE)
    assert len(drawn(browser)) == count - 1
    browser.execute_script("document.querySelector('#items .remove').focus()")
    press(browser, Keys.ENTER)
    assert ask(browser, "document.activeElement.id") == "choose-files"
    browser.execute_script("document.getElementById('tab-xrays').focus()")
    press(browser, Keys.ARROW_RIGHT)
    assert ask(browser, "document.activeElement.id") == "tab-masks"
    assert ask(browser, "document.getElementById('xrays').hidden")
    press(browser, Keys.HOME)
    assert not ask(browser, "document.getElementById('xrays').hidden")
    assert ask(browser, "document.getElementById('tab-masks').tabIndex") == -1


def test_a_pasted_picture_is_taken(browser, address):
    show(browser, address)
    drop(browser, {"image.png": png(4)}, PASTE)
    ended(browser, 1)
    assert texts(browser, "#items .name") == ["image.png"]


def test_masks_are_restored_and_scored(browser, address, tmp_path, downloads):
    show(browser, address)
    click(browser, "#tab-masks")
    mask = np.zeros((64, 64), np.uint8)
    mask[10:50, 10:50] = 255
    small = np.zeros((64, 64), np.uint8)
    small[10:16, 10:16] = 255
    drop(browser, {"mask.png": encoded(mask), "small.png": encoded(small), "empty.png": encoded(np.zeros_like(mask))})
    until(lambda: texts(browser, "#denoise-status") == ["3 files done."], 20)
    cards = texts(browser, "#denoise-results article")
    assert "1,600 pixels before" in cards[0]
    assert "the restored mask is empty" in cards[1]
    assert "there is no shape in it to restore" in cards[2]
    assert ask(browser, "document.querySelectorAll('#denoise-results article:first-child img').length") == 3
    click(browser, "#denoise-results button")
    until((downloads / "mask.restored.png").exists, 10)
    assert np.asarray(Image.open(downloads / "mask.restored.png")).astype(bool).sum() == 1600
    ct = np.random.default_rng(0).integers(-900, 900, (6, 40, 40)).astype(np.int16)
    inside = np.zeros(ct.shape, np.uint8)
    inside[1:5, 10:30, 10:30] = 1
    for name, array in (("ct", ct), ("mask", inside)):
        write_nifti(tmp_path / f"{name}.nii", array)
    browser.find_element("id", "ct").send_keys(str(tmp_path / "ct.nii"))
    browser.find_element("id", "ct-mask").send_keys(str(tmp_path / "mask.nii"))
    browser.find_element("id", "organ").send_keys("no organ")
    click(browser, "#score-form button")
    until(lambda: "no organ" in texts(browser, "#score-error")[0], 10)
    browser.find_element("id", "organ").clear()
    browser.find_element("id", "organ").send_keys("liver")
    click(browser, "#score-form button")
    until(lambda: texts(browser, "#score-status") == ["Done."], 20)
    assert "the mean of 4 slices" in texts(browser, "#score-result .result")[0]
    assert texts(browser, "#score-result tbody td:first-child") == ["1", "2", "3", "4"]
    assert ask(browser, "document.querySelectorAll('.curve circle').length") == 4
    assert ask(browser, "document.querySelectorAll('#organs option').length") == 145


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_problem_of_accessibility(browser, address, scheme):
    features = [
        {"name": "prefers-color-scheme", "value": scheme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    show(browser, address)
    assert violations(browser) == []
    drop(browser, {"good.png": png(1), "bad.png": b"no image"})
    ended(browser, 1)
    browser.execute_script("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert violations(browser) == []
    click(browser, "#items li:nth-child(2) .file")
    assert violations(browser) == []
    click(browser, "#tab-masks")
    drop(browser, {"mask.png": encoded(np.tri(64, dtype=np.uint8) * 255)})
    until(lambda: texts(browser, "#denoise-status") == ["1 file done."], 20)
    assert violations(browser) == []
    browser.execute_script("showTokenDialog(true).catch(() => {})")
    assert violations(browser) == []


def violations(browser) -> list[str]:
    browser.execute_script(axe())
    found = browser.execute_async_script("const done = arguments[0]; axe.run(document).then((r) => done(r.violations))")
    return [f"{one['id']}: {node['html'][:120]} {node['failureSummary']}" for one in found for node in one["nodes"]]


def test_a_narrow_phone_does_not_scroll_sideways(browser, address):
    metrics = {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    show(browser, address)
    widest = "document.scrollingElement.scrollWidth"
    assert ask(browser, widest) == 320
    name = "a_long_name_of_a_file_without_any_space_in_it_" * 3
    drop(browser, {f"{name}.png": png(1), "2.txt": b"x"})
    ended(browser, 1)
    browser.execute_script("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    assert ask(browser, widest) == 320
    click(browser, "#tab-masks")
    assert ask(browser, widest) == 320
