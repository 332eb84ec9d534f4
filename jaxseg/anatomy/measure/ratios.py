"""The cardio-thoracic ratio and the distance of the spine from a straight line, as defined by CXAS.

Masks are (H, W) bool on one grid. Lengths are in its pixels, and also in mm if the size of a pixel is known.
"""

import dataclasses

import numpy as np

from jaxseg.anatomy.measure.shapes import Line, Unmeasurable

CTR, SCD = "CTR", "SCD"
CTR_CLASSES = ("right hemidiaphragm", "heart", "lung")
# In the order of the original up to version 0.0.16, which does not include C7.
SCD_CLASSES = tuple(
    f"vertebrae {part}{number}" for part, count in (("L", 5), ("T", 12), ("C", 6)) for number in range(1, count + 1)
)
SCD_CLASSES_WITH_C7 = (*SCD_CLASSES, "vertebrae C7")  # since version 0.0.20 of the original


@dataclasses.dataclass(frozen=True, eq=False)
class CardioThoracic:
    """The positions at which the widths of heart and thorax were measured, in pixels.

    Attributes:
      midline: column of the inner end of the right hemidiaphragm.
      heart_right: row, and extent of the heart to the image's left of the midline in that row, at least 0.
      heart_left: row, and extent of the heart to the image's right of the midline.
      thorax: row, first and last column of the lungs at their widest position.
    """

    midline: int
    heart_right: tuple[int, int]
    heart_left: tuple[int, int]
    thorax: tuple[int, int, int]

    @property
    def heart_width(self) -> int:
        """Sum of the heart's extents to both sides of the midline, in pixels."""
        return self.heart_right[1] + self.heart_left[1]

    @property
    def thorax_width(self) -> int:
        """Distance from the first to the last column of the lungs, in pixels."""
        return self.thorax[2] - self.thorax[1]


@dataclasses.dataclass(frozen=True, eq=False)
class SpineCentre:
    """The centres of vertebrae, from the head down, and the line fitted to them.

    Attributes:
      centres: (N, 2) int64, x and y of each vertebra's centre.
      nearest: (N, 2) int64, the point of the line nearest to each centre.
      line: (H, 2) int64, the point of the line in every row of the grid.
      distances: (N,) distances between centres and nearest points.
    """

    centres: np.ndarray
    nearest: np.ndarray
    line: np.ndarray
    distances: np.ndarray


def cardio_thoracic(right_hemidiaphragm: np.ndarray, heart: np.ndarray, lung: np.ndarray) -> CardioThoracic:
    """Measures the widths of heart and thorax on a frontal view with the patient's right on the left of the image.

    The thorax is measured in the row where the lungs are widest. The midline is the last column of the right
    hemidiaphragm. The original uses both as substitutes for the widths that radiologists measure between the ribs.

    Args:
      right_hemidiaphragm: (H, W) bool.
      heart: (H, W) bool.
      lung: (H, W) bool, both lungs.

    Returns:
      The positions and widths.

    Raises:
      Unmeasurable: a mask is empty, or the lungs are one pixel wide.
    """
    masks = dict(zip(CTR_CLASSES, (right_hemidiaphragm, heart, lung), strict=True))
    empty = [repr(name) for name, mask in masks.items() if not mask.any()]
    if empty:
        raise Unmeasurable(f"the mask of {' and '.join(empty)} is empty")
    midline = int(np.flatnonzero(right_hemidiaphragm.any(axis=0))[-1])
    rows, first, last = _extents(heart)
    right, left = int(np.argmin(first)), int(np.argmax(last))
    lung_rows, lung_first, lung_last = _extents(lung)
    widest = int(np.argmax(lung_last - lung_first))
    thorax = int(lung_rows[widest]), int(lung_first[widest]), int(lung_last[widest])
    if thorax[1] == thorax[2]:
        raise Unmeasurable("the mask of 'lung' is one pixel wide", crashes=True)
    return CardioThoracic(
        midline=midline,
        heart_right=(int(rows[right]), max(midline - int(first[right]), 0)),
        heart_left=(int(rows[left]), max(int(last[left]) - midline, 0)),
        thorax=thorax,
    )


def spine_centre(vertebrae: np.ndarray, pixel_mm: tuple[float, float] = (1.0, 1.0)) -> SpineCentre:
    """Fits a straight line to the centres of vertebrae and measures their distances from it.

    As in the original, the centres and the points of the line are truncated to integers, and centres in the first row
    or column are ignored. The line is the least-squares fit x = a y + b, with one point in each of the H rows.

    Args:
      vertebrae: (K, H, W) bool; empty masks are ignored.
      pixel_mm: height and width of a pixel; distances are in the same unit.

    Returns:
      The centres, the line and the distances.

    Raises:
      Unmeasurable: no vertebra has a pixel.
    """
    height, width = vertebrae.shape[1:]
    centres = [_centre(mask) for mask in vertebrae if mask.any()]
    centres = np.array([centre for centre in centres if all(centre)], np.int64).reshape(-1, 2)
    if not len(centres):
        raise Unmeasurable("no vertebra was found", crashes=True)
    centres = centres[np.argsort(np.linalg.norm(centres - [width / 2, 0], axis=1), kind="stable")]
    x, y = centres.T
    (slope, offset), *_ = np.linalg.lstsq(np.stack([y, np.ones(len(y))], axis=1), x, rcond=None)
    rows = np.arange(height)
    # Rounded first, so that 29.999999999999996 becomes 30: the last digit depends on the processor.
    columns = np.trunc(np.round(slope * rows + offset, 9)).astype(np.int64)
    line = np.stack([columns, rows], axis=1)
    row_mm, column_mm = pixel_mm
    apart = np.linalg.norm((centres[:, None] - line) * [column_mm, row_mm], axis=2)  # (N, H)
    best = apart.argmin(axis=1)
    return SpineCentre(centres, line[best], line, apart[np.arange(len(best)), best])


def measure_ctr(masks: np.ndarray, pixel_mm: tuple[float, float] | None) -> tuple[dict[str, float], list[Line]]:
    """Returns the cardio-thoracic ratio from the masks (3, H, W) of `CTR_CLASSES`: values by column, and lines."""
    found = cardio_thoracic(*masks)
    values = {CTR: found.heart_width / found.thorax_width}
    if pixel_mm:
        values["CTR_heart_width_mm"] = found.heart_width * pixel_mm[1]
        values["CTR_thorax_width_mm"] = found.thorax_width * pixel_mm[1]
    x, (right_row, right), (left_row, left) = found.midline, found.heart_right, found.heart_left
    row, first, last = found.thorax
    ends = {
        "midline": [(x, 0), (x, masks.shape[1] - 1)],
        "heart right": [(x, right_row), (x - right, right_row)],
        "heart left": [(x, left_row), (x + left, left_row)],
        "thorax": [(first, row), (last, row)],
    }
    return values, [Line(CTR, kind, np.array(points)) for kind, points in ends.items()]


def measure_scd(masks: np.ndarray, pixel_mm: tuple[float, float] | None) -> tuple[dict[str, float], list[Line]]:
    """Returns the spine's mean distance from the masks (K, H, W) of vertebrae: values by column, and lines."""
    found = spine_centre(masks)
    values = {SCD: float(np.mean(found.distances))}
    if pixel_mm:
        values["SCD_mm"] = float(np.mean(spine_centre(masks, pixel_mm).distances))
    pairs = zip(found.centres, found.nearest, strict=True)
    distances = [Line(SCD, "distance", np.stack(pair)) for pair in pairs]
    return values, [Line(SCD, "line", found.line[[0, -1]]), *distances, Line(SCD, "centres", found.centres)]


def _extents(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the rows of a mask that are not empty, and the first and last column of the mask in each."""
    rows = np.flatnonzero(mask.any(axis=1))
    cells = mask[rows]
    return rows, cells.argmax(axis=1), mask.shape[1] - 1 - cells[:, ::-1].argmax(axis=1)


def _centre(mask: np.ndarray) -> tuple[int, int]:
    y, x = np.nonzero(mask)
    return int(x.mean()), int(y.mean())
