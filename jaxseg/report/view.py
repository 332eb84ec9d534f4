"""What a page shows of one image that was just segmented, as JSON values: the record and picture of a report, and more.

`jaxseg/report/shared.js` draws both reports and such views.
"""

import base64
import dataclasses
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxseg.anatomy.measure.drawing import COLOURS
from jaxseg.anatomy.measure.features import Measurements, find_all
from jaxseg.anatomy.measure.shapes import Line
from jaxseg.anatomy.products import measure_segmentation
from jaxseg.files import printable
from jaxseg.images.dicom import shown_tags
from jaxseg.images.read import check_kind
from jaxseg.masks.segmentation import Segmentation
from jaxseg.post_dae.mask_files import ADDED, KEPT, REMOVED
from jaxseg.report.catalogue import Catalogue, pixel_notes
from jaxseg.report.fitting import LARGEST, measured, pictures
from jaxseg.report.outlines import figure_size, reduced
from jaxseg.report.reading import reading_of, short_names

VIEW_FEATURES = ("CTR", "SCD", "area")
MAX_NAME = 200  # characters of a file's name
_FRONTAL = ("", "AP", "PA")  # values of ViewPosition; the patient's right is on the left in these pictures
_SIDE = 512  # pixels of the longer side of pictures of masks
_LEGENDS = {
    "midline": "midline, from the end of the right hemidiaphragm",
    "heart right": "heart, to the left in the picture: {:.0f} px",
    "heart left": "heart, to the right in the picture: {:.0f} px",
    "thorax": "thorax: {:.0f} px",
    "line": "line fitted to the vertebrae",
    "distance": "distances from the line",
    "centres": "centres of vertebrae",
}


def view(
    segmentation: Segmentation,
    image: Path,
    *,
    name: str,
    warnings: Sequence[str],
    features: str | Sequence[str] = VIEW_FEATURES,
    intensity: str = "clinical",
    groups: str = "original",
) -> dict[str, Any]:
    """Returns everything that a page shows of a segmented image.

    Args:
      segmentation: the masks of the image.
      image: its file.
      name: name that the page shows.
      warnings: what the reader must know about the image, such as `segmentation.notes`.
      features: what to measure, as `jaxseg.anatomy.measure.features.find_all` takes it.
      intensity: how grey values are shown, as in `jaxseg.images.read.read_picture`.
      groups: which vertebrae SCD uses, as in `find_all`.

    Returns:
      `about` (classes, groups and columns), `record` (measurements) and `picture` (a JPEG and outlines) in the form
      of a report; `lines` of the scores, in pixels of the picture; `warnings`; and `tags` of a DICOM file, which
      identify the patient.

    Raises:
      ImageError: the file is damaged, or not that of the masks.
      ValueError: a feature is unknown.
      OSError: the file cannot be opened.
    """
    found = measure_segmentation(segmentation, features, groups=groups)
    reading = reading_of(segmentation, image, found, intensity=intensity)
    catalogue = Catalogue()
    catalogue.add(reading.names, reading.values)
    tags = shown_tags(image) if check_kind(image) == "dicom" else {}
    record = {"name": printable(name)[-MAX_NAME:], "size": list(segmentation.size), "spacing": reading.has_spacing}
    drawn = dataclasses.replace(reading, masks=_at_figure_size(segmentation))
    picture = next(pictures(drawn, catalogue, outlined=True))[1]
    seen = segmentation.orientation
    frontal = not (seen and seen.rotation) and tags.get("ViewPosition", "") in _FRONTAL
    about = catalogue.content() | {"names": short_names(find_all(features)), "sides": frontal}
    about["pixels"] = pixel_notes(Counter([reading.grid]))
    return {
        "about": about,
        "record": record | measured(reading, catalogue),
        "picture": picture,
        "lines": _lines(found, picture["size"], seen.quarters if seen else 0),
        "warnings": [printable(text) for text in warnings],
        "tags": list(tags.items()),
    }


def _at_figure_size(segmentation: Segmentation) -> Segmentation:
    """Returns the masks at the size of their picture, which takes less time than at that of a large image.

    They keep the size of the image if the picture has fewer pixels than the network's grid: small masks could vanish.
    """
    size, grid = figure_size(segmentation.size, LARGEST), segmentation.bits.shape[1:]
    fits = size[0] >= grid[0] and size[1] >= 8 * grid[1] and segmentation.cutoff is None
    return dataclasses.replace(segmentation, size=size) if fits else segmentation


def change_view(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns what a page shows of restored masks: each before, after, and what changed.

    Args:
      before: name -> mask, (H, W) bool.
      after: name -> restored mask; names that are missing were not restored.
      notes: remarks, such as that a mask was kept or has vanished.

    Returns:
      `masks`: for each mask its name, the pictures `before`, `after` and `change` as addresses of PNG data (`after`
      and `change` are None for a mask that was not restored), and the numbers of pixels; `colours` of the change;
      `notes`.
    """
    found = []
    for name, old in before.items():
        entry: dict[str, Any] = {"name": printable(name)[:MAX_NAME], "before": _address(_grey(old))}
        entry |= {"after": None, "change": None, "pixels": {"before": int(old.sum())}}
        if name in after:
            new = after[name]
            change = np.zeros((*old.shape, 3), np.uint8)
            for where, colour in ((old & new, KEPT), (new & ~old, ADDED), (old & ~new, REMOVED)):
                change[where] = colour
            entry |= {"after": _address(_grey(new)), "change": _address(_small(change))}
            added, removed = int((new & ~old).sum()), int((old & ~new).sum())
            entry["pixels"] |= {"after": int(new.sum()), "added": added, "removed": removed}
        found.append(entry)
    colours = {"added": _hex(ADDED), "removed": _hex(REMOVED), "kept": _hex(KEPT)}
    return {"masks": found, "colours": colours, "notes": [printable(note) for note in notes]}


def _grey(mask: np.ndarray) -> np.ndarray:
    size = figure_size((mask.shape[0], mask.shape[1]), _SIDE)
    return reduced(mask, size).astype(np.uint8) * 255


def _small(change: np.ndarray) -> np.ndarray:
    size = figure_size((change.shape[0], change.shape[1]), _SIDE)
    return np.asarray(Image.fromarray(change).resize(size[::-1], Image.Resampling.NEAREST))


def _address(pixels: np.ndarray) -> str:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")


def _hex(colour: Sequence[int]) -> str:
    return f"#{bytes(colour).hex()}"


def _lines(found: Measurements, size: Sequence[int], quarters: int) -> list[dict]:
    """Returns the lines of the scores in pixels of the picture, the centre of the first one at (0, 0).

    Args:
      found: the measurements of the upright image.
      size: height and width of the picture.
      quarters: quarter turns counter-clockwise from the upright image to the picture.
    """
    return [
        {
            "feature": line.feature,
            "kind": line.kind,
            "colour": _hex(COLOURS[line.kind]),
            "text": _LEGENDS[line.kind].format(_length(line)),
            "points": _placed(line.points, found.size, size, quarters),
        }
        for line in found.lines
        if not line.label
    ]


def _length(line: Line) -> float:
    return float(np.linalg.norm(line.points[-1] - line.points[0]))


def _placed(points: np.ndarray, grid: tuple[int, int], size: Sequence[int], quarters: int) -> list[list[float]]:
    """Returns points of the upright grid (x, y), (N, 2), in pixels of the picture."""
    shares = (np.asarray(points, np.float64) + 0.5) / (grid[1], grid[0])
    for _ in range(quarters % 4):  # counter-clockwise, as numpy.rot90
        shares = np.stack([shares[:, 1], 1 - shares[:, 0]], axis=1)
    return np.round(shares * (size[1], size[0]) - 0.5, 1).tolist()
