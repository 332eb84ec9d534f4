"""Writes folders of images and masks for reports, and reads the content of a page."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from dicom_files import write_dicom as write_dicom
from PIL import Image

NAMES = ("right lung", "left lung", "heart")


def masks_of(seed: int, size=(60, 50)) -> np.ndarray:
    """Returns masks, (3, H, W) bool: two boxes, and a box with a hole between them. The sizes vary with the seed."""
    height, width = size
    masks = np.zeros((3, height, width), bool)
    masks[0, 5:40, 4 : 18 + seed % 3] = True
    masks[1, 5:40, 30:46] = True
    masks[2, 20 : 38 + seed % 7, 15:34] = True
    masks[2, 25:28, 20:24] = False
    return masks


def write_pair(folder: Path, name: str, masks: np.ndarray, names=NAMES) -> tuple[Path, Path]:
    """Writes an image, and its masks as a COCO file with their names; returns both paths."""
    from jaxseg.masks import coco

    folder.mkdir(parents=True, exist_ok=True)
    image = folder / name
    size = masks.shape[1:]
    ramp = (np.arange(size[0])[:, None] * 3 + np.arange(size[1])[None]) % 256
    Image.fromarray(ramp.astype(np.uint8)).save(image, "PNG")
    annotations = [
        coco.annotation(mask, annotation_id=k + 1, image_id=1, category_id=k)
        for k, mask in enumerate(masks)
        if mask.any()
    ]
    entry = {"id": 1, "file_name": name, "height": size[0], "width": size[1]}
    content = json.dumps(coco.dataset([entry], list(names), annotations))
    path = folder / f"{Path(name).stem}.json"
    path.write_text(content, encoding="utf-8")
    return image, path


def write_pairs(folder: Path, count: int, *, size=(60, 50)) -> tuple[list[Path], list[Path]]:
    """Writes a folder of images and masks; returns the paths of both."""
    pairs = [write_pair(folder, f"image_{i:03d}.png", masks_of(i, size)) for i in range(count)]
    return [image for image, _ in pairs], [masks for _, masks in pairs]


def write_run(folder: Path, confidences: list[list[float | None]]) -> list[Path]:
    """Writes images and a results folder `folder/out`, whose summary lists masks and the confidence of each class.

    Args:
      folder: gets `images` and `out`.
      confidences: one list per image, with one value per class of `NAMES`; None: the mask is empty.
    """
    from jaxseg.masks.confidence import COLUMNS, SUFFIX

    images, out, files = [], folder / "out", {}
    for i, values in enumerate(confidences):
        masks = masks_of(i) & np.array([value is not None for value in values])[:, None, None]
        image, coco = write_pair(folder / "images", f"image_{i}.png", masks)
        out.mkdir(exist_ok=True)
        np.save(out / f"image_{i}.npy", masks)
        coco.unlink()
        rows = [
            dict.fromkeys(COLUMNS[2:]) | {"class": name, "pixels": int(mask.sum()), "confidence": value}
            for name, mask, value in zip(NAMES, masks, values, strict=True)
        ]
        (out / f"image_{i}{SUFFIX}").write_text(json.dumps({"filename": image.name, "masks": rows}))
        stamp = [image.stat().st_size, image.stat().st_mtime_ns]
        kinds = {"npy": f"image_{i}.npy", "confidence": f"image_{i}{SUFFIX}"}
        outputs = {kind: {"path": path, "stamp": stamp} for kind, path in kinds.items()}
        files[f"image_{i}"] = {"source": str(image.resolve()), "status": "done", "outputs": outputs}
        images.append(image)
    summary = {"jaxseg": "0.1", "settings": {"classes": list(NAMES)}, "files": files}
    (out / "summary.json").write_text(json.dumps(summary))
    return images


class Blocks(HTMLParser):
    """Returns the JSON blocks of a page, as an HTML parser finds them."""

    def __init__(self, text: str):
        super().__init__()
        self.records, self.pictures, self.about, self.tags, self._open = [], {}, None, [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs) if tag == "script" else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if not self._open or self._open.get("type") != "application/json":
            return
        content = json.loads(data)
        if self._open.get("class") == "record":
            self.records.append(content)
        elif self._open["id"] == "about":
            self.about = content
        else:
            self.pictures[int(self._open["id"].removeprefix("picture-"))] = content


def read_page(path: Path) -> Blocks:
    return Blocks(path.read_text(encoding="utf-8"))


def values_of(page, number: int) -> dict[str, float | None]:
    """Returns the values of an image by "<class> <ending>"."""
    classes, kinds = page.about["classes"], page.about["kinds"]
    return {
        f"{classes[of]['name']} {kinds[kind]['ending']}" if of >= 0 else kinds[kind]["ending"]: value
        for (kind, of, _), value in zip(page.about["columns"], page.records[number]["values"], strict=False)
    }
