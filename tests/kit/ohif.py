"""OHIF's viewer in headless Chromium over an Orthanc, all on this machine, for the tests of DICOM SEG.

Orthanc stores the files. A small server sends OHIF's files and passes requests for images on to Orthanc, because a page
may only read from its own server. Chromium cannot reach any other machine.
"""

import contextlib
import io
import json
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from browser import limited
from PIL import Image
from scipy import ndimage
from selenium.webdriver.common.action_chains import ActionChains
from viewer_tools import dist, plugin, program

HOST = "127.0.0.1"
TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "json": "application/json"}
TYPES |= {"wasm": "application/wasm", "svg": "image/svg+xml", "png": "image/png"}
CONFIG = """window.config = {
  name: 'test', routerBasename: null, extensions: [], modes: [], customizationService: {}, showStudyList: true,
  maxNumberOfWebWorkers: 1, showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  showLoadingIndicator: true, strictZSpacingForVolumeViewport: true, disableConfirmationPrompts: true,
  maxNumRequests: {interaction: 20, thumbnail: 5, prefetch: 5}, investigationalUseDialog: {option: 'never'},
  defaultDataSourceName: 'orthanc',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb', sourceName: 'orthanc',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc', qidoRoot: location.origin + '/dicom-web',
      wadoRoot: location.origin + '/dicom-web', wadoUriRoot: location.origin + '/wado',
      imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true, supportsWildcard: true,
      bulkDataURI: {enabled: true}, omitQuotationForMultipartRequest: true}}]};
"""


XYZ_TO_SRGB = [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540]]
XYZ_TO_SRGB += [[0.0719453, -0.2289914, 1.4052427]]  # from D50, Lindbloom
HAS_IMAGE = """return Boolean(window.services && window.cornerstone
  && cornerstone.getRenderingEngines().some(e => e.getViewports().some(v => v.getImageData?.()))
  && document.querySelector("[data-cy='study-browser-thumbnail-no-image']"))"""
SEGMENTS = """return services.segmentationService.getSegmentations()
  .flatMap(s => Object.values(s.segments).filter(g => g.segmentIndex > 0).map(g => g.label))"""
CORNERS = """const view = cornerstone.getRenderingEngines()[0].getViewports()[0];
  const canvas = view.canvas.getBoundingClientRect(), image = view.getImageData().imageData;
  return [[0, 0], [1, 0], [0, 1]].map(p => view.worldToCanvas(image.indexToWorld([...p, 0])))
    .map(p => [p[0] + canvas.left, p[1] + canvas.top])"""


def until(condition, what: str, seconds: float = 120.0):
    """Returns the first true value of a condition; raises TimeoutError if there is none in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
    return value


def free_port() -> int:
    """Returns a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def orthanc(folder: Path, *, port: int | None = None, **more) -> Iterator[str]:
    """Runs an Orthanc with DICOMweb that keeps its files in a folder; yields its address.

    It refuses requests of other machines.

    Args:
      folder: for its files, which a second Orthanc in the same folder finds again.
      port: to listen on; None: any.
      **more: further settings of Orthanc.
    """
    port = port or free_port()
    settings = {"Name": "test", "StorageDirectory": str(folder / "files"), "IndexDirectory": str(folder / "files")}
    settings |= {"HttpPort": port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False}
    settings |= {"DicomServerEnabled": False, "Plugins": [str(plugin())]}
    settings |= more
    settings["DicomWeb"] = {"Enable": True, "Root": "/dicom-web/", "EnableWado": True, "WadoRoot": "/wado"}
    (folder / "orthanc.json").write_text(json.dumps(settings))
    url = f"http://{HOST}:{port}"
    with (folder / "orthanc.log").open("wb") as log:
        server = subprocess.Popen([program("Orthanc"), str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:

        def answers() -> bool:
            assert server.poll() is None, (folder / "orthanc.log").read_text()
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                return get(f"{url}/dicom-web/studies")[0] == 200
            return False

        until(answers, "Orthanc answers", 30)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def get(url: str, accept: str = "application/dicom+json", body: bytes | None = None, kind: str = ""):
    """Returns the status, the content type and the content that a server answers."""
    headers = {"Accept": accept} | ({"Content-Type": kind} if kind else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
            return answer.status, answer.headers.get("Content-Type", ""), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("Content-Type", ""), error.read()


def store(url: str, *paths: Path) -> None:
    """Stores DICOM files by STOW-RS."""
    parts = [b"--part\r\nContent-Type: application/dicom\r\n\r\n" + path.read_bytes() + b"\r\n" for path in paths]
    kind = 'multipart/related; type="application/dicom"; boundary=part'
    status, _, answer = get(f"{url}/dicom-web/studies", body=b"".join(parts) + b"--part--", kind=kind)
    stored = json.loads(answer)
    assert (status, len(stored["00081199"]["Value"])) == (200, len(paths)), stored


class Pages(BaseHTTPRequestHandler):
    """Sends the viewer's files, which are the only ones it can send, and passes requests for images on."""

    def do_GET(self):
        path = self.path.split("?")[0]
        if path.startswith(("/dicom-web/", "/wado")):
            status, kind, body = get(self.server.orthanc + self.path, self.headers.get("Accept", "*/*"))
        elif path == "/app-config.js":
            status, kind, body = 200, TYPES["js"], CONFIG.encode()
        else:
            file = self.server.files.get(path) or (self.server.files["/index.html"] if "." not in path else None)
            status, kind = (200, TYPES.get(file.suffix[1:], "application/octet-stream")) if file else (404, "")
            body = file.read_bytes() if file else b""
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": len(body), "Cross-Origin-Opener-Policy": "same-origin"}
        for name, value in (headers | {"Cross-Origin-Embedder-Policy": "require-corp"}).items():
            self.send_header(name, str(value))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the browser no longer waits for it
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def pages(orthanc_url: str) -> Iterator[str]:
    """Serves OHIF's viewer; yields its address."""
    server = ThreadingHTTPServer((HOST, 0), Pages)
    server.orthanc, folder = orthanc_url, dist()
    server.files = {f"/{path.relative_to(folder).as_posix()}": path for path in folder.rglob("*") if path.is_file()}
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def chromium(window: str = "1000,640") -> Iterator:
    """Starts a headless Chromium that reaches only this machine; yields its driver."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium")
    options.page_load_strategy = "eager"
    for argument in (
        *("headless=new", "no-sandbox", "disable-dev-shm-usage", f"window-size={window}", "hide-scrollbars"),
        *("use-angle=swiftshader", "enable-unsafe-swiftshader", "ignore-gpu-blocklist", "force-device-scale-factor=1"),
        *("disable-background-networking", "disable-component-update", "disable-sync", "no-first-run"),
        f"host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=Service(program("chromedriver"))) as driver:
        limited(driver, 120)
        yield driver


def open_segmentation(driver, address: str, study: str) -> list[str]:
    """Opens a study with one image and one DICOM SEG and loads the SEG as a user does; returns its segments' labels."""
    tour = "localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))"
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": tour})
    driver.get(f"{address}/viewer?StudyInstanceUIDs={study}")
    until(lambda: driver.execute_script(HAS_IMAGE), "OHIF shows the image and lists the SEG")
    for seconds in (60, 120):  # a click is lost if the list is drawn anew at that moment
        entry = driver.find_element("css selector", "[data-cy='study-browser-thumbnail-no-image']")
        ActionChains(driver).double_click(entry).perform()
        with contextlib.suppress(TimeoutError):
            return until(lambda: driver.execute_script(SEGMENTS), "OHIF loads the SEG", seconds)
    raise TimeoutError("OHIF does not load the SEG")


def shown_at(driver, points: np.ndarray) -> np.ndarray:
    """Returns the colours on the screen, (N, 3) in 0 to 255, at pixels of the image, (N, 2) rows and columns."""
    origin, right, below = np.array(driver.execute_script(CORNERS), float)
    screen = np.asarray(Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB"), float)
    places = origin + points[:, 1:] * (right - origin) + points[:, :1] * (below - origin)
    x, y = np.rint(places).astype(int).T
    return screen[y, x]


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
    layers = masks.data.sum(axis=0)
    centres = [innermost(mask & (layers == 1)) for mask in masks.data]
    *seen, outside = shown_at(driver, np.array([*centres, innermost(layers == 0)]))
    found = [f"no mask, but {outside}"] if np.ptp(outside) > 3 else []
    for name, colour in zip(masks.names, seen, strict=True):
        given, expected = colour - colour.mean(), colours[name] - colours[name].mean()
        share = given @ expected / (expected @ expected)  # how much of the colour is in the mixture
        alike = given @ expected / (np.linalg.norm(given) * np.linalg.norm(expected) + 1e-9)  # 1 for the same hue
        if not (0.2 < share < 1.1 and alike > 0.95):  # OHIF shows saturated blues a little brighter
            found.append(f"{name}: {colour.tolist()} instead of a mixture of grey and {colours[name].round().tolist()}")
    return found
