"""Other programs read the masks of a DICOM SEG back equal: highdicom, dcmqi, pydicom-seg; dciodvfy finds no error."""

import gzip
import json
import subprocess

import numpy as np
import pydicom
import pytest
import viewer_tools
from seg_kit import errors_of_dciodvfy, read_dicom_seg, written
from xray_files import JAPANESE, XRay, disjoint, write_xray

pytest.importorskip("highdicom")
pytestmark = pytest.mark.slow

KINDS = {
    "CR": XRay("CR", (64, 56), tags={"PixelSpacing": [0.168, 0.168]}),
    "DX of 12 bits": XRay("DX", (61, 47), bits=12),
    "MONOCHROME1": XRay("DX", (61, 47), bits=12, inverted=True, tags={"PixelSpacing": [0.2, 0.3]}),
    "spacing on the detector": XRay("DX", (301, 227), bits=12, tags={"ImagerPixelSpacing": [0.14, 0.16]}),
    "spacing of the scan": XRay("CR", (50, 47), tags={"NominalScannedPixelSpacing": [0.1, 0.1]}),
    "no spacing": XRay("CR", (301, 227)),
    "one class": XRay("CR", (61, 47), num_classes=1),
    "all classes": XRay("CR", (301, 227), num_classes=159),
    "Japanese name": XRay("CR", (62, 42), tags={"PatientName": JAPANESE}),
}
PYDICOM_SEG = """
import sys, numpy, pydicom, pydicom_seg
for path in sys.argv[1:]:
    dataset = pydicom.dcmread(path)
    found = pydicom_seg.SegmentReader().read(dataset)
    names = [found.segment_infos[number].SegmentLabel for number in sorted(found.available_segments)]
    masks = numpy.stack([found.segment_data(number)[0] for number in sorted(found.available_segments)])
    numpy.savez(path + ".npz", names=names, masks=masks, spacing=found.spacing, name=str(dataset.PatientName))
"""


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Returns the masks of every kind of X-ray, and the path of their DICOM SEG."""
    found = {}
    for name, kind in KINDS.items():
        folder = tmp_path_factory.mktemp("xray")
        masks = write_xray(folder / "xray.dcm", kind)
        found[name] = masks, written(folder / "xray.dcm", folder, masks)[0]
    return found


@pytest.fixture(params=KINDS)
def example(request, examples):
    """Returns a kind of X-ray, its masks and the path of their DICOM SEG."""
    return KINDS[request.param], *examples[request.param]


def spacing_of(kind: XRay) -> tuple[float, float]:
    return tuple(next((value for name, value in kind.tags.items() if name.endswith("Spacing")), (1, 1)))


def check(found: dict[str, np.ndarray], masks) -> None:
    """Checks that the masks of a reader are those that were written."""
    assert list(found) == list(masks.names)
    np.testing.assert_array_equal(np.stack(list(found.values())), masks.data)


def test_jaxseg_reads_its_own_object(example):
    _, masks, path = example
    names, found = read_dicom_seg(path)
    assert names == masks.names
    np.testing.assert_array_equal(found, masks.data)


def test_highdicom_reads_the_object(example):
    from highdicom.seg import segread

    kind, masks, path = example
    read = segread(path)
    (frames,) = read.get_pixels_by_source_instance([read.SourceImageSequence[0].ReferencedSOPInstanceUID])
    names = [read.get_segment_description(number).segment_label for number in read.segment_numbers]
    check(dict(zip(names, np.moveaxis(frames, -1, 0), strict=True)), masks)
    assert read.get_volume().spacing == (1, *spacing_of(kind))


def read_nrrd(path) -> np.ndarray:
    """Returns the values of one of dcmqi's gzipped NRRD files, (slices, H, W)."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    tags = dict(line.split(": ", 1) for line in head.decode().splitlines() if ": " in line)
    assert (tags["encoding"], tags.get("endian", "little")) == ("gzip", "little")
    kind = {"short": "<i2", "unsigned short": "<u2", "unsigned char": "u1", "unsigned int": "<u4"}[tags["type"]]
    return np.frombuffer(gzip.decompress(body), kind).reshape([int(n) for n in tags["sizes"].split()][::-1])


def by_dcmqi(path, folder) -> dict[str, np.ndarray]:
    """Returns the masks that dcmqi's segimage2itkimage reads."""
    options = ["--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd"]
    result = subprocess.run([viewer_tools.reader("segimage2itkimage"), *options], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    found = {}
    for number, group in enumerate(json.loads((folder / "meta.json").read_text())["segmentAttributes"], 1):
        (values,) = read_nrrd(folder / f"{number}.nrrd")  # one slice, with the segments of the group
        if len(group) == 1:  # the value is the segment's number or, in fractional objects, 1
            found[group[0]["SegmentLabel"]] = values > 0
        else:
            found |= {segment["SegmentLabel"]: values == segment["labelID"] for segment in group}
    return found


@pytest.mark.system
def test_dcmqi_reads_the_object(example, tmp_path):
    _, masks, path = example
    (tmp_path / "itk").mkdir()
    check(by_dcmqi(path, tmp_path / "itk"), masks)


@pytest.fixture(scope="module")
def read_by_pydicom_seg(examples):
    """Lets pydicom-seg read all objects, in one process; what it read lies beside each."""
    paths = [path for _, path in examples.values()]
    subprocess.run([viewer_tools.reader("python"), "-c", PYDICOM_SEG, *paths], check=True, env={}, timeout=120)


@pytest.mark.system
@pytest.mark.usefixtures("read_by_pydicom_seg")
def test_pydicom_seg_reads_the_object(example):
    kind, masks, path = example
    with np.load(f"{path}.npz") as found:
        check(dict(zip(found["names"].tolist(), found["masks"], strict=True)), masks)
        assert tuple(found["spacing"]) == (*spacing_of(kind)[::-1], 1)
        assert str(found["name"]) == kind.tags.get("PatientName", "Phantom")


@pytest.mark.system
def test_dciodvfy_finds_no_error(example):
    assert errors_of_dciodvfy(example[2]) == []


@pytest.mark.system
def test_highdicom_and_dcmqi_read_label_maps(tmp_path):
    from highdicom.seg import segread

    masks = disjoint(write_xray(tmp_path / "xray.dcm", KINDS["all classes"]))
    path, _, dataset = written(tmp_path / "xray.dcm", tmp_path, masks, labelmap=True)
    assert [segment.SegmentNumber for segment in dataset.SegmentSequence] == [*range(1, 160), 0]
    source = pydicom.dcmread(tmp_path / "xray.dcm").SOPInstanceUID
    (frames,) = segread(path).get_pixels_by_source_instance([source])
    np.testing.assert_array_equal(np.moveaxis(frames, -1, 0), masks.data)
    (tmp_path / "itk").mkdir()
    check(by_dcmqi(path, tmp_path / "itk"), masks)
    np.testing.assert_array_equal(read_dicom_seg(path)[1], masks.data)
