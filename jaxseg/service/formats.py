"""The formats of answers: which one a client accepts, and how a result becomes its bytes."""

import csv
import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxseg.anatomy.measure import table
from jaxseg.anatomy.measure.features import Measurements, find_all
from jaxseg.anatomy.products import measure_segmentation
from jaxseg.files import printable, safe_name
from jaxseg.images.picture import ImageError
from jaxseg.images.read import stem
from jaxseg.masks.dicom_seg import require_highdicom
from jaxseg.masks.segmentation import Segmentation
from jaxseg.masks.write import coco_content, encode_bits, file_names, write_npz, write_seg
from jaxseg.service.limits import Limits, Refused, plain

JSON, CSV, ZIP, PNG = "application/json", "text/csv", "application/zip", "image/png"
NPZ, SEG, VIEW = "application/x-npz", "application/dicom", "application/vnd.jaxseg.view+json"
FEATURES = "CTR,SCD,area"  # what the view and the CSV of a segmentation measure


@dataclasses.dataclass(frozen=True)
class Answer:
    """The body of an answer: its bytes, media type, and the end of the name under which a client may save it."""

    body: bytes
    kind: str
    suffix: str


@dataclasses.dataclass(frozen=True)
class Subject:
    """A segmented X-ray, as the formats need it.

    Attributes:
      segmentation: the masks.
      path: the file of the X-ray.
      name: name of the file, only for display.
      folder: an empty folder for temporary files.
      intensity: how the file was read.
      groups: version of the groups of classes.
      title: name of the model.
      class_names: all classes of the model.
    """

    segmentation: Segmentation
    path: Path
    name: str
    folder: Path
    intensity: str
    groups: str
    title: str
    class_names: tuple[str, ...]

    @property
    def notes(self) -> list[str]:
        """Warnings about the X-ray for its owner; they may quote tags of the file."""
        return [plain(note, self.path.name) for note in self.segmentation.notes]


def accepted(header: str, offered: Sequence[str]) -> str:
    """Returns the offered media type that a client prefers; the first one if it has no preference.

    Args:
      header: the header Accept of the request, "" if it has none.
      offered: media types, the preferred ones first.

    Raises:
      Refused: the client accepts none of them.

    >>> accepted("text/html;q=0.1, application/zip", ("application/json", "application/zip"))
    'application/zip'
    """
    wanted = [_range(part) for part in header.split(",") if part.strip()] or [("*/*", 1.0)]
    best, found = 0.0, ""
    for kind in offered:
        matching = [pair for pair in wanted if pair[0] in (kind, f"{kind.split('/')[0]}/*", "*/*")]
        quality = max(matching, key=lambda pair: "*" not in pair[0])[1] if matching else 0.0
        if quality > best:
            best, found = quality, kind
    if not found:
        raise Refused(406, f"Accept is {printable(header)[:100]!r}; this address has {', '.join(offered)}")
    return found


def _range(part: str) -> tuple[str, float]:
    kind, *parameters = (word.strip().lower() for word in part.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, min(1.0, max(0.0, float(value)))
            except ValueError:
                return kind, 0.0
    return kind, 1.0


def as_json(content: Any) -> bytes:
    """Returns JSON values as text; numbers must be finite."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("utf-8")


def _json(subject: Subject, _: Limits) -> Answer:
    """Returns a COCO file of the masks, with what else is known about the X-ray."""
    masks = subject.segmentation
    content = coco_content(masks, source=printable(subject.name), categories=subject.class_names)
    content |= {"size": list(masks.size), "spacing_mm": masks.spacing_mm and list(masks.spacing_mm)}
    content |= {"warnings": subject.notes, "classes": list(masks.names)}
    content["confidence"] = None if masks.confidence is None else masks.confidence.rows()
    return Answer(as_json(content), JSON, ".json")


def _npz(subject: Subject, _: Limits) -> Answer:
    return Answer(write_npz(subject.segmentation, subject.folder / "masks").read_bytes(), NPZ, ".npz")


def _zip(subject: Subject, _: Limits) -> Answer:
    """Returns one PNG file per class, also for empty classes."""
    masks, content = subject.segmentation, io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for k, name in enumerate(file_names(masks.names)):
            archive.writestr(f"{name}.png", encode_bits(masks.packed_mask(k), masks.size[1]))
    return Answer(content.getvalue(), ZIP, ".zip")


def _seg(subject: Subject, limits: Limits) -> Answer:
    masks = subject.segmentation
    try:
        require_highdicom()
    except ValueError:
        raise Refused(406, "this installation does not write DICOM SEG; accept another format") from None
    kept = int(masks.bits.any(axis=(1, 2)).sum())
    if kept * masks.size[0] * masks.size[1] > limits.seg_bytes:
        raise Refused(422, f"a DICOM SEG of {kept} classes of this size takes too much memory; choose fewer classes")
    notes: list[str] = []
    try:
        options = {"source": subject.path, "algorithm": subject.title}
        path = write_seg(masks, subject.folder / "masks", notes=notes, **options)
    except ImageError as error:
        raise Refused(406, f"{plain(str(error), subject.path.name)}; accept another format") from None
    except ValueError as error:
        raise Refused(422, plain(str(error), subject.path.name)) from None
    return Answer(path.read_bytes(), SEG, ".seg.dcm")


def _view(subject: Subject, _: Limits) -> Answer:
    from jaxseg.report.view import view

    options: Any = {"name": subject.name, "warnings": subject.notes, "features": FEATURES, "groups": subject.groups}
    try:
        found = view(subject.segmentation, subject.path, intensity="clinical", **options)
    except ImageError:  # such as a window that makes every pixel alike
        found = view(subject.segmentation, subject.path, intensity=subject.intensity, **options)
    return Answer(as_json(found), VIEW, ".json")


def _csv(subject: Subject, _: Limits) -> Answer:
    return Answer(measured_csv(measured(subject, FEATURES), subject), CSV, ".csv")


SEGMENT: dict[str, Callable[[Subject, Limits], Answer]] = {
    JSON: _json,
    NPZ: _npz,
    SEG: _seg,
    ZIP: _zip,
    VIEW: _view,
    CSV: _csv,
}


def measured(subject: Subject, features: str) -> Measurements:
    """Returns measurements of an X-ray; see `jaxseg.extract`."""
    return measure_segmentation(subject.segmentation, features, groups=subject.groups)


def check_features(features: str, groups: str) -> None:
    """Raises Refused if a feature is unknown or none is named."""
    try:
        find_all(features, groups=groups)
    except ValueError as error:
        raise Refused(422, f"features: {error}") from None


def measured_csv(found: Measurements, subject: Subject) -> bytes:
    """Returns measurements as a table with one row, as `jaxseg extract` writes it."""
    part, path = subject.folder / "measured.json", subject.folder / "measured.csv"
    part.write_bytes(as_json(table.to_json(found)))
    table.merge([(printable(subject.name), part)], path, features=found.features)
    return path.read_bytes()


def scores_csv(slices: Sequence[int], dice: Sequence[float]) -> bytes:
    """Returns predicted Dice as a table with one row per slice."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("slice", "predicted_dice"), *zip(slices, dice, strict=True)])
    return text.getvalue().encode("utf-8")


def mask_png(mask: np.ndarray) -> bytes:
    """Returns a mask, (H, W) bool, as a 1-bit PNG file."""
    return encode_bits(np.packbits(mask, axis=1), mask.shape[1])


def mask_npz(mask: np.ndarray) -> bytes:
    """Returns a mask, (H, W) bool, as an .npz file with the key `arr_0`."""
    content = io.BytesIO()
    np.savez_compressed(content, arr_0=mask)
    return content.getvalue()


def disposition(name: str, answer: Answer) -> str:
    """Returns the header Content-Disposition: the name under which a client may save an answer.

    >>> disposition("a/chest.png", Answer(b"", "text/csv", ".csv"))
    'attachment; filename="chest.csv"'
    """
    base = safe_name(stem(Path(Path(name).name or "result")))
    plain_name = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in base)
    return f'attachment; filename="{plain_name}{answer.suffix}"'
