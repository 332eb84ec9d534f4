"""Makes docs/images/ohif.jpg, the masks of a phantom X-ray in OHIF: `PYTHONPATH=. python tests/kit/ohif_picture.py`.

It needs the programs that tests/masks/test_dicom_seg_ohif.py needs, see .ci/run.
"""

import io
import tempfile
import time
from pathlib import Path

import ohif
import pydicom
from PIL import Image
from xray_files import XRay, write_xray

from jaxseg.masks.dicom_seg import write_dicom_seg

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "ohif.jpg"
PANEL = "services.panelService.activatePanel('@ohif/extension-cornerstone.panelModule.panelSegmentation', true)"


def main(folder: Path) -> None:
    masks = write_xray(folder / "xray.dcm", XRay("CR", (1024, 1024), tags={"PixelSpacing": [0.35, 0.35]}), seed=3)
    path, _ = write_dicom_seg(masks, folder / "xray", source=folder / "xray.dcm", algorithm="a phantom")
    with ohif.orthanc(folder) as orthanc, ohif.pages(orthanc) as address, ohif.chromium("1280,800") as driver:
        ohif.store(orthanc, folder / "xray.dcm", path)
        ohif.open_segmentation(driver, address, pydicom.dcmread(path).StudyInstanceUID)
        driver.execute_script(PANEL)
        time.sleep(20)  # until everything is drawn
        screen = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        screen.save(PICTURE, quality=85, optimize=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
