"""Results have identifiers that depend on the X-ray, the weights and the settings, and on nothing else."""

import pydicom
import pytest
from pacs_kit import FakeSegmenter, image_of, xray

pytest.importorskip("highdicom")

from jaxseg.masks.read import read_masks
from jaxseg.masks.source_header import valid_uid
from jaxseg.pacs.exchange import Refused
from jaxseg.pacs.results import Results


def test_names_depend_on_image_and_settings_only():
    results = Results(FakeSegmenter())
    names = results.names("1.2.3", "seg")
    assert names == Results(FakeSegmenter(batch_size=1), capture=True).names("1.2.3", "seg")
    others = [
        results.names("1.2.4", "seg"),
        results.names("1.2.3", "report"),
        Results(FakeSegmenter(threshold=0.4)).names("1.2.3", "seg"),
        Results(FakeSegmenter(names=("lung", "heart"))).names("1.2.3", "seg"),
        Results(FakeSegmenter(groups="cxas-0.0.20")).names("1.2.3", "seg"),
    ]
    uids = {names.sop_uid, names.series_uid, *(uid for other in others for uid in (other.sop_uid, other.series_uid))}
    assert len(uids) == 2 * (1 + len(others))
    assert all(valid_uid(uid) and uid.startswith("2.25.") for uid in uids)


def test_names_are_those_of_earlier_versions():
    """A change of this test means that every study of every PACS would get a second SEG."""
    assert Results(FakeSegmenter()).names("1.2.3", "seg").sop_uid == "2.25.172537790813635724297039025457190909265"


def test_a_seg_made_twice_has_the_same_identifiers_and_masks(tmp_path):
    path, segmenter = xray(tmp_path), FakeSegmenter()
    results = Results(segmenter)
    image = image_of(path)
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        base = tmp_path / folder / image.sop_uid
        notes = results.write(path, base, segmenter.predict([segmenter.prepare(path)])[0])
        assert any("pixel spacing is unknown" in note for note in notes)
        found.append(results.paths(base)["seg"])
    one, two = (pydicom.dcmread(file) for file in found)
    names = results.names(image.sop_uid, "seg")
    for dataset in (one, two):
        assert (dataset.SeriesInstanceUID, dataset.SOPInstanceUID) == (names.series_uid, names.sop_uid)
        assert dataset.StudyInstanceUID == image.study_uid
    assert one.PixelData == two.PixelData
    assert read_masks(found[0]).names == ("heart", "lung")


def test_an_image_without_a_mask_is_refused(tmp_path):
    path, segmenter = xray(tmp_path), FakeSegmenter()
    masks = segmenter.predict([segmenter.prepare(path)])[0]
    masks.bits[:] = 0
    base = tmp_path / image_of(path).sop_uid
    with pytest.raises(Refused, match="all classes are empty"):
        Results(segmenter, capture=True, report=True).write(path, base, masks)
    assert not list(tmp_path.glob("*.seg.dcm"))
