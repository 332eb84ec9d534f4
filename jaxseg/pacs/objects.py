"""Writes two objects beside the DICOM SEG of an X-ray, with highdicom: a picture of its masks, and its measurements.

The picture is a Secondary Capture: the masks over the X-ray, with a legend. The measurements are a Comprehensive SR
after the template TID 1500: the cardio-thoracic ratio (CTR) and the distance of the spine from a straight line (SCD),
which refer to the X-ray. Patient and study are those of the X-ray's header.
"""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
from highdicom import sr
from PIL import Image as Picture
from pydicom.sr.codedict import codes as dicom_codes

from jaxseg import __version__
from jaxseg.files import atomic_file
from jaxseg.masks.dicom_seg import private_scheme
from jaxseg.masks.source_header import SourceHeader
from jaxseg.pacs.exchange import Names
from jaxseg.vocabulary import codes

_CAPTURE_SERIES, _REPORT_SERIES = 1001, 1002  # numbers; that of the DICOM SEG is 1000
_RATIO, _MM, _PIXELS = ("{ratio}", "ratio"), ("mm", "mm"), ("{pixels}", "pixels of the network's grid")
# Columns of the measurements, each with the name and unit in the report. No public code fits these definitions.
_MEASURES = {
    "CTR": ("Cardio-thoracic ratio", _RATIO),
    "CTR_heart_width_mm": ("Width of the heart", _MM),
    "CTR_thorax_width_mm": ("Width of the thorax", _MM),
    "SCD_mm": ("Mean distance of the vertebrae from a straight line", _MM),
    "SCD": ("Mean distance of the vertebrae from a straight line", _PIXELS),
}
_PROCEDURES = {
    "1.2.840.10008.5.1.4.1.1.1": dicom_codes.DCM.ComputedRadiography,
    "1.2.840.10008.5.1.4.1.1.1.1": dicom_codes.DCM.DigitalRadiography,
}


def write_capture(
    picture: Picture.Image, path: Path, found: SourceHeader, names: Names, *, algorithm: str, burned_in: str
) -> None:
    """Writes a picture of masks as a Secondary Capture in the study of its X-ray.

    Args:
      picture: the picture, of any mode that Pillow converts to RGB.
      path: of the file to write.
      found: header of the X-ray.
      names: identifiers of the object.
      algorithm: name of the model.
      burned_in: BurnedInAnnotation of the X-ray, whose pixels the picture shows. Only YES and NO are stored.

    Raises:
      OSError: the file cannot be written.
    """
    header = found.tags
    dataset = highdicom.sc.SCImage.from_ref_dataset(
        ref_dataset=_unnamed(header),
        pixel_array=np.asarray(picture.convert("RGB")),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # required, and replaced below
        series_number=_CAPTURE_SERIES,
        transfer_syntax_uid=pydicom.uid.ExplicitVRLittleEndian,
        **_made_by(names),
    )
    dataset.ConversionType = "WSD"  # made by a workstation
    dataset.PatientOrientation, dataset.Laterality = header.PatientOrientation, ""
    dataset.pop("BurnedInAnnotation", None)
    if burned_in in ("YES", "NO"):  # the legend names classes, and nobody
        dataset.BurnedInAnnotation = burned_in
    dataset.DerivationDescription = codes.long_string(f"Masks of {algorithm} over the image")
    dataset.SeriesDescription = codes.long_string(f"Picture of the segments of {algorithm}")
    source = pydicom.Dataset()
    source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    dataset.SourceImageSequence = [source]
    _save(dataset, header, path)


def write_report(
    values: Mapping[str, float], path: Path, found: SourceHeader, names: Names, *, algorithm: str, device_uid: str
) -> bool:
    """Writes measurements as a Comprehensive SR in the study of their X-ray; without any, nothing is written.

    Args:
      values: measurements by column, as `jaxseg.extract` returns them; NaN for what could not be measured.
      path: of the file to write.
      found: header of the X-ray.
      names: identifiers of the object.
      algorithm: name of the model.
      device_uid: identifier of the model and its settings, the observer of the report.

    Returns:
      Whether there was a measurement, and the file was written.

    Raises:
      OSError: the file cannot be written.
    """
    measured = _measured(values)
    if not measured:
        return False
    header, made = found.tags, _made_by(names)
    identification = sr.AlgorithmIdentification(name=codes.long_string(algorithm), version=__version__)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=names.sop_uid, identifier="Chest"),
        algorithm_id=identification,
        finding_sites=[sr.FindingSite(anatomic_location=dicom_codes.SCT.Chest)],
        measurements=[sr.Measurement(_private(name), value, _unit(unit)) for name, unit, value in measured],
        source_images=[sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID)],
    )
    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid, name="jaxseg", manufacturer_name="jaxseg", model_name=codes.long_string(algorithm)
    )
    observer = sr.ObserverContext(observer_type=dicom_codes.DCM.Device, observer_identifying_attributes=attributes)
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=_PROCEDURES[header.SOPClassUID],
        imaging_measurements=[group],
        title=dicom_codes.DCM.ImagingMeasurementReport,
    )
    dataset = sr.ComprehensiveSR(
        evidence=[_unnamed(header)],
        content=content[0],
        series_number=_REPORT_SERIES,
        is_complete=True,
        is_final=False,
        is_verified=False,  # nobody has checked it
        **made,
    )
    dataset.SeriesDescription = codes.long_string(f"Measurements of {algorithm}")
    dataset.CodingSchemeIdentificationSequence = [private_scheme()]
    _save(dataset, header, path)
    return True


def _measured(values: Mapping[str, float]) -> list[tuple[str, tuple[str, str], float]]:
    """Returns name, unit and value of what was measured; a distance in mm replaces the same one in pixels."""
    known = {column: value for column, value in values.items() if column in _MEASURES and not math.isnan(value)}
    if "SCD_mm" in known:
        known.pop("SCD", None)
    return [(*_MEASURES[column], float(f"{value:.6g}")) for column, value in known.items()]


def _private(name: str) -> sr.CodedConcept:
    code = codes.private_code(name)
    return sr.CodedConcept(code.value, code.scheme, code.meaning)


def _unit(unit: tuple[str, str]) -> sr.CodedConcept:
    return sr.CodedConcept(unit[0], "UCUM", unit[1])


def _made_by(names: Names) -> dict[str, Any]:
    """Returns what both objects say about themselves."""
    return {
        "series_instance_uid": names.series_uid,
        "sop_instance_uid": names.sop_uid,
        "instance_number": 1,
        "manufacturer": "jaxseg",
        "manufacturer_model_name": "jaxseg",
        "software_versions": __version__,
        "device_serial_number": "none",
    }


def _unnamed(header: pydicom.Dataset) -> pydicom.Dataset:
    """Returns a copy of a header without the patient's name, which is set later: highdicom warns of single words."""
    source = copy.deepcopy(header)
    source.PatientName = source.ReferringPhysicianName = None
    return source


def _save(dataset: pydicom.Dataset, header: pydicom.Dataset, path: Path) -> None:
    dataset.SpecificCharacterSet, dataset.PatientName = header.SpecificCharacterSet, header.PatientName
    dataset.ReferringPhysicianName = header.ReferringPhysicianName
    with atomic_file(path) as temporary:
        dataset.save_as(temporary)
