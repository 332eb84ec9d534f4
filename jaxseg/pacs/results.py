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
from jaxseg.masks.dicom_seg import write_dicom_seg
from jaxseg.masks.segmentation import Segmentation
from jaxseg.masks.source_header import read_header
from jaxseg.pacs.exchange import Names, Refused

SEG, CAPTURE, REPORT = "seg", "capture", "report"  # kinds of results
_FEATURES = ("CTR", "SCD")


@dataclasses.dataclass(frozen=True)
class Results:
    """What a worker makes of every X-ray.

    Attributes:
      segmenter: the model with its settings.
      capture: whether to make a picture of the masks, as Secondary Capture.
      report: whether to report CTR and SCD, as far as they can be measured, as Comprehensive SR.
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
          Notes on values of the X-ray's header, without the values.

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
            self._write_more(source, paths, segmentation, sop_uid)
        return notes

    def _write_more(self, source: Path, paths: dict[str, Path], segmentation: Segmentation, sop_uid: str) -> None:
        from jaxseg.pacs import objects

        title, found = self.segmenter.card.title, read_header(source)
        if self.capture:
            picture = preview(source, segmentation)
            objects.write_capture(picture, paths[CAPTURE], found, self.names(sop_uid, CAPTURE), algorithm=title)
        if self.report:
            measured = extract(segmentation, _FEATURES, groups=self.segmenter.groups)
            values = {column: float(np.float64(value)) for column, value in measured.values.items()}
            device = _uid("device", self.digest)
            objects.write_report(
                values, paths[REPORT], found, self.names(sop_uid, REPORT), algorithm=title, device_uid=device
            )


def _uid(*parts: str) -> str:
    """Returns a UID that depends only on the texts.

    >>> _uid("1.2.3", "seg") == _uid("1.2.3", "seg") != _uid("1.2.3", "report")
    True
    """
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"
