"""Small artificial studies as LIDC-IDRI distributes them: DICOM series and the archive's XML."""

from pathlib import Path

import numpy as np
from dicom_files import write_dicom

from jaxseg.annotators.lidc.annotations import RATINGS, Annotation, Outline
from jaxseg.annotators.lidc.nodules import Stack

SIZE, STEP, FIRST_Z = 96, 2.5, -120.0
SPACING = (0.7, 0.6)
HEADER = "<ResponseHeader><TaskDescription>Second unblinded read</TaskDescription>{series}</ResponseHeader>"


def uid(series: str, z: int) -> str:
    return f"{series}.{z + 1}"


def box(top: int, left: int, height: int, width: int) -> list[tuple[int, int]]:
    """Returns the pixels (row, column) of an outline whose inside is `height` by `width` pixels from (top, left) on."""
    rows, columns = range(top - 1, top + height + 1), range(left - 1, left + width + 1)
    right, bottom = columns[-1], rows[-1]
    around = [(rows[0], c) for c in columns] + [(r, right) for r in rows[1:]]
    return around + [(bottom, c) for c in reversed(columns[:-1])] + [(r, columns[0]) for r in reversed(rows[1:-1])]


def roi(z: int, points, *, series: str = "1.2.35", inclusion: str = "TRUE") -> str:
    edges = "".join(f"<edgeMap><xCoord>{c}</xCoord><yCoord>{r}</yCoord></edgeMap>" for r, c in points)
    place = f"<imageZposition>{FIRST_Z + z * STEP:.2f} </imageZposition><imageSOP_UID>{uid(series, z)}</imageSOP_UID>"
    return f"<roi>{place}<inclusion>{inclusion}</inclusion>{edges}</roi>"


def nodule(*rois: str, name: str = "Nodule 001", malignancy: int | None = 3, other: int = 4) -> str:
    rated = ""
    if malignancy is not None:
        values = dict.fromkeys(RATINGS, other) | {"malignancy": malignancy}
        inner = "".join(f"<{rating}>{value}</{rating}>" for rating, value in values.items())
        rated = f"<characteristics>{inner}</characteristics>"
    return f"<unblindedReadNodule><noduleID>{name}</noduleID>{rated}{''.join(rois)}</unblindedReadNodule>"


def small(z: int, row: int, column: int, series: str = "1.2.35") -> str:
    """Returns a nodule below 3 mm: one point, no ratings."""
    return nodule(roi(z, [(row, column)], series=series), name="small", malignancy=None)


def non_nodule(z: int, row: int, column: int) -> str:
    place = f"<imageZposition>{FIRST_Z + z * STEP}</imageZposition><imageSOP_UID>x</imageSOP_UID>"
    where = f"<locus><xCoord>{column}</xCoord><yCoord>{row}</yCoord></locus>"
    return f"<nonNodule><nonNoduleID>n</nonNoduleID>{place}{where}</nonNodule>"


def message(*sessions: str, series: str = "1.2.35", root: str = "LidcReadMessage") -> str:
    head = HEADER.format(series=f"<SeriesInstanceUid>{series}</SeriesInstanceUid>")
    read = "".join(f"<readingSession><annotationVersion>3.12</annotationVersion>{s}</readingSession>" for s in sessions)
    names = 'xmlns="http://www.nih.gov" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<{root} uid="1.3.6" {names}>{head}{read}</{root}>\n'


def four_readers(series: str = "1.2.35") -> tuple[str, ...]:
    """Returns 4 readers: three outline slices 2 to 5 of one nodule (one without slice 2), the last another nodule."""

    def drawn(shift: int, slices=range(2, 6), **options) -> str:
        rois = [roi(z, box(30 + shift, 40, 8, 9), series=series) for z in slices]
        return nodule(*rois, **options)

    single = nodule(roi(6, box(70, 10, 7, 7), series=series), name="single", malignancy=1)
    return (
        drawn(0, malignancy=2) + small(1, 5, 5, series),
        drawn(1, range(3, 6), malignancy=4) + non_nodule(0, 9, 9),
        drawn(2, malignancy=5),
        single,
    )


def save_study(
    folder: Path, xml: str | None, *, series: str = "1.2.35", patient: str = "LIDC-IDRI-0035", **tags
) -> Path:
    """Saves a CT of 9 slices and its XML; the order of the file names is the reverse of the positions."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(sum(map(ord, series))).integers(0, 2000, (9, SIZE, SIZE)).astype(np.int16)
    for z, plane in enumerate(pixels):
        given = {
            "PatientID": patient,
            "SeriesInstanceUID": series,
            "SOPInstanceUID": uid(series, z),
            "Modality": "CT",
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [-10, -20, FIRST_Z + z * STEP],
            "PixelSpacing": list(SPACING),
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
        }
        write_dicom(folder / f"{len(pixels) - z:06}.dcm", plane, **given | tags)
    if xml is not None:
        (folder / "069.xml").write_text(xml)
    return folder


def stack(depth: int = 9) -> Stack:
    z = FIRST_Z + STEP * np.arange(depth)
    return Stack(z, {uid("1.2.35", k): k for k in range(depth)}, (SIZE, SIZE), SPACING)


def annotation(reader: int, outlines, malignancy: int | None = 3) -> Annotation:
    """Returns an annotation of outlines (slice, points), or (slice, points, False) for an exclusion."""
    made = [
        Outline(uid("1.2.35", z), FIRST_Z + STEP * z, not rest or rest[0], np.array(points, np.int32))
        for z, points, *rest in outlines
    ]
    return Annotation(reader, f"of reader {reader}", (4,) * 8 + (malignancy,), tuple(made))
