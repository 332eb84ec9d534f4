"""Makes the results of an X-ray as files: a DICOM SEG, and on request a Secondary Capture and an SR.

The identifiers of results depend only on the X-ray, the weights and the settings. So a result that is made again has
the same identifiers, and a PACS never holds it twice. They are UIDs of the form 2.25.<number>, with a number from a
SHA-256 digest.
"""

import dataclasses
import functools
import hashlib
import json
import uuid
from pathlib import Path

import numpy as np

from jaxseg.anatomy.extract import extract
from jaxseg.anatomy.segment import Segmenter
from jaxseg.draw.visualize import preview
from jaxseg.images.decode import open_dicom
from jaxseg.images.remarks import without_remarks
from jaxseg.masks.dicom_seg import write_dicom_seg
from jaxseg.masks.segmentation import Segmentation
from jaxseg.masks.source_header import read_header
from jaxseg.pacs.exchange import Names, Refused

SEG, CAPTURE, REPORT = "seg", "capture", "report"  # kinds of results
_FEATURES = ("CTR", "SCD")
_FRONTAL = ("", "AP", "PA")  # values of ViewPosition for which the measurements are defined; many X-rays have none


@dataclasses.dataclass(frozen=True)
class Results:
    """What a worker makes of every X-ray.

    Attributes:
      segmenter: the model with its settings.
      capture: whether to make a picture of the masks, as Secondary Capture.
      report: whether to report CTR and SCD of frontal X-rays, as far as they can be measured, as Comprehensive SR.
    """

    segmenter: Segmenter
    capture: bool = False
    report: bool = False

    @functools.cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the weights and the settings that the masks depend on."""
        settings = self.segmenter.settings | {"classes": list(self.segmenter.names), "groups": self.segmenter.groups}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of results, in the order in which they are stored: the SEG last, so that it confirms the others."""
        return (*[CAPTURE] * self.capture, *[REPORT] * self.report, SEG)

    def names(self, sop_uid: str, kind: str) -> Names:
        """Returns the identifiers of a result.

        Args:
          sop_uid: SOP Instance UID of the X-ray.
          kind: one of "seg", "capture", "report".
        """
        return Names(_uid(sop_uid, self.digest, kind, "series"), _uid(sop_uid, self.digest, kind, "object"))

    def paths(self, base: Path) -> dict[str, Path]:
        """Returns the path of every kind of result; `base` is that of the X-ray's file without a suffix."""
        return {kind: base.with_name(f"{base.name}.{kind}.dcm") for kind in self.kinds}

    def write(self, source: Path, base: Path, segmentation: Segmentation) -> list[str]:
        """Writes the results of an X-ray.

        Args:
          source: file of the X-ray.
          base: path of the results without suffix.
          segmentation: the masks.

        Returns:
          Notes on values of the X-ray's header, without the values, and on a result that was left out.

        Raises:
          Refused: there is no mask to store, or no object can be made of such an X-ray.
          OSError: a file cannot be written.
        """
        title, paths = self.segmenter.card.title, self.paths(base)
        sop_uid = base.name
        seg = self.names(sop_uid, SEG)
        try:
            _, notes = write_dicom_seg(
                segmentation, base, source=source, algorithm=title, identifiers=(seg.series_uid, seg.sop_uid)
            )
        except ValueError as error:
            raise Refused(str(error).removeprefix(f"{source.name}: ")) from None
        if self.capture or self.report:
            notes = [*notes, *self._write_more(source, paths, segmentation, sop_uid)]
        return notes

    def _write_more(self, source: Path, paths: dict[str, Path], segmentation: Segmentation, sop_uid: str) -> list[str]:
        from jaxseg.pacs import objects

        title, found = self.segmenter.card.title, read_header(source)
        burned_in, view = _terms(source, "BurnedInAnnotation", "ViewPosition")
        if self.capture:
            picture, names = preview(source, segmentation), self.names(sop_uid, CAPTURE)
            objects.write_capture(picture, paths[CAPTURE], found, names, algorithm=title, burned_in=burned_in)
        if self.report and view not in _FRONTAL:
            return ["there is no report: ViewPosition is neither AP nor PA"]
        if self.report:
            measured = extract(segmentation, _FEATURES, groups=self.segmenter.groups)
            values = {column: float(np.float64(value)) for column, value in measured.values.items()}
            device = _uid("device", self.digest)
            objects.write_report(
                values, paths[REPORT], found, self.names(sop_uid, REPORT), algorithm=title, device_uid=device
            )
        return []


def _terms(source: Path, *keywords: str) -> list[str]:
    """Returns values of an X-ray's header in capital letters: "" for one that is absent, and "?" if it is damaged."""
    found = []
    with without_remarks():
        header = open_dicom(source, tags=keywords)
        for keyword in keywords:
            try:
                found.append(str(header.get(keyword) or "").strip().upper())
            except Exception:  # a value may break its representation in any way
                found.append("?")
    return found


def _uid(*parts: str) -> str:
    """Returns a UID that depends only on the texts.

    >>> _uid("1.2.3", "seg") == _uid("1.2.3", "seg") != _uid("1.2.3", "report")
    True
    """
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"
