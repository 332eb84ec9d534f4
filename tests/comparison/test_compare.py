"""Masks of one image: classes are matched by name, and sizes, spacings and positions must agree."""

import dataclasses

import numpy as np
import pytest
from block_masks import blocks, segmentation
from PIL import Image
from volume_files import AFFINE, save_nifti

import jaxseg
from jaxseg.comparison.compare import MASK, match
from jaxseg.comparison.scores import score_mask
from jaxseg.comparison.sources import UNNAMED, MaskSet
from jaxseg.masks.read import LoadedMasks

NAMES = ("lung", "heart", "spine")


def named(names, folder: str = "") -> MaskSet:
    return MaskSet(tuple(names), (2, 2), lambda indices: iter([np.zeros((2, 2), bool)] * len(indices)), folder=folder)


def test_arrays_segmentations_and_files_have_the_same_scores(tmp_path):
    masks, others = blocks(seed=0), blocks(seed=1)
    found = jaxseg.compare(segmentation(masks, NAMES), LoadedMasks.of(NAMES, others))
    assert list(found) == list(NAMES)
    for k, name in enumerate(NAMES):
        assert found[name] == score_mask(masks[k], others[k])
        assert jaxseg.compare(masks[k], others[k]) == {MASK: found[name]}
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(masks[k]).save(tmp_path / "a" / f"{name}.png")
    np.save(tmp_path / "b.npy", others)
    numbered = LoadedMasks.of(("class_000", "class_001", "class_002"), masks)
    assert list(jaxseg.compare(numbered, tmp_path / "b.npy").values()) == list(found.values())
    assert jaxseg.compare(tmp_path / "a", LoadedMasks.of(NAMES, others)) == found


def test_classes_are_matched_by_name_in_any_order():
    masks = blocks()
    turned = LoadedMasks.of(NAMES[::-1], masks[::-1])
    found = jaxseg.compare(LoadedMasks.of(NAMES, masks), turned)
    assert [scores.dice for scores in found.values()] == [1, 1, 1]
    assert list(jaxseg.compare(turned, LoadedMasks.of(NAMES, masks), classes="heart, spine")) == ["spine", "heart"]


def test_what_one_side_lacks_is_named():
    found = match([named(["lung", "heart"]), named(["heart", "spine"])])
    assert (found.names, found.indices) == (("heart",), ((1,), (0,)))
    assert found.missing == (("spine",), ("lung",))
    assert match([named(["lung", "heart"]), named(["heart", "spine"])], "heart").missing == ((), ())


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (named([UNNAMED]), named([UNNAMED]), (MASK,)),
        (named([UNNAMED]), named(["heart"]), ("heart",)),
        (named(["heart"]), named([UNNAMED], "anything"), ("heart",)),
        (named(NAMES), named([UNNAMED], "heart"), ("heart",)),
    ],
)
def test_a_mask_without_a_name_is_the_only_class_or_that_of_its_folder(first, second, expected):
    assert match([first, second]).names == expected


def test_a_mask_without_a_name_that_fits_several_classes_is_refused():
    with pytest.raises(ValueError, match=r"could be any of 3 classes \(lung, heart, spine, ...\); name its class"):
        match([named(NAMES), named([UNNAMED], "truth")])
    assert match([named(NAMES), named([UNNAMED], "truth")], "spine").names == ("spine",)


def test_unknown_and_repeated_classes_are_refused():
    with pytest.raises(ValueError, match="liver"):
        match([named(NAMES), named(NAMES)], "liver")
    with pytest.raises(ValueError, match="two masks have the name heart"):
        match([named(["heart", "heart"]), named(["heart"])])
    with pytest.raises(ValueError, match="no class in common"):
        jaxseg.compare(LoadedMasks.of(("lung",), blocks(1)), LoadedMasks.of(("heart",), blocks(1)))


def test_the_spacing_is_given_or_stated():
    masks, others = blocks(seed=0), blocks(seed=1)
    known = dataclasses.replace(segmentation(masks, NAMES), spacing_mm=(0.5, 0.25))
    for prediction, truth in ((known, LoadedMasks.of(NAMES, others)), (LoadedMasks.of(NAMES, masks), known)):
        assert {scores.unit for scores in jaxseg.compare(prediction, truth).values()} == {"mm"}
    stated = jaxseg.compare(known, LoadedMasks.of(NAMES, others))["heart"]
    assert stated == score_mask(masks[1], others[1], spacing_mm=(0.5, 0.25))
    given = jaxseg.compare(known, LoadedMasks.of(NAMES, others), spacing_mm=2)["heart"]
    assert given == score_mask(masks[1], others[1], spacing_mm=(2, 2))
    other = dataclasses.replace(segmentation(others, NAMES), spacing_mm=(0.5, 0.5))
    with pytest.raises(ValueError, match=r"the pixels are 0.5 x 0.25 mm and 0.5 x 0.5 mm"):
        jaxseg.compare(known, other)


@pytest.mark.parametrize(
    ("spacing_mm", "words"),
    [(0, "1 to 3 positive numbers"), ((1, 2, 3), "has 3 numbers, but the masks have 2 axes"), ((), "1 to 3 positive")],
)
def test_impossible_spacings_are_refused(spacing_mm, words):
    with pytest.raises(ValueError, match=words):
        jaxseg.compare(blocks()[0], blocks()[1], spacing_mm=spacing_mm)


def test_a_tolerance_in_mm_needs_a_spacing():
    with pytest.raises(ValueError, match="the tolerance is 2mm, but the spacing of the pixels is unknown"):
        jaxseg.compare(blocks()[0], blocks()[1], tolerance="2mm")
    assert jaxseg.compare(blocks()[0], blocks()[0], tolerance="2mm", spacing_mm=0.1)[MASK].nsd == 1


def test_masks_of_other_sizes_or_places_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the masks are 24 x 40 and 24 x 48; they must have one size"):
        jaxseg.compare(blocks()[0], blocks(size=(24, 48))[0])
    labels = np.arange(60, dtype=np.uint8).reshape(3, 4, 5) % 2
    moved = AFFINE.copy()
    moved[0, 3] += 7
    save_nifti(tmp_path / "a.nii", labels)
    save_nifti(tmp_path / "b.nii", labels, moved)
    with pytest.raises(ValueError, match="the masks cover different places: their corners are up to 7 mm apart"):
        jaxseg.compare(tmp_path / "a.nii", tmp_path / "b.nii")
    found = jaxseg.compare(tmp_path / "a.nii", tmp_path / "a.nii")[MASK]
    assert (found.dice, found.unit) == (1, "mm")
    assert found.truth_size == pytest.approx(30 * 0.8 * 0.9 * 3)
