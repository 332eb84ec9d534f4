"""Masks are found and opened in every format, in the layouts that programs write, and damaged files are named."""

import json

import fake_segmenter
import nibabel
import numpy as np
import pytest
from block_masks import blocks, segmentation
from dicom_files import RAMP, write_dicom
from part_runs import run_part
from PIL import Image
from volume_files import save_labels, save_nifti

from jaxseg.comparison.sources import UNNAMED, list_places, of_memory, open_place
from jaxseg.masks import cohort, write
from jaxseg.masks.read import LoadedMasks, read_masks
from jaxseg.masks.results import find_masks

NAMES = ("lung", "heart", "spine")


def opened(folder, *, levels=None) -> dict:
    """Returns the names and the masks, (K, ...) bool, of every image."""
    found = {}
    for name, place in list_places(folder, levels=levels).items():
        masks = open_place(place, levels=levels)
        found[name] = masks.names, np.stack(list(masks.read(range(len(masks.names)))))
    return found


def save_png(path, mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(mask, np.uint8) * 255).save(path)


@pytest.mark.parametrize("kind", ["npy", "npz", "png", "jpg", "json", "dicom-seg", "coco-lines", "parquet"])
def test_results_of_a_run_are_found_by_its_summary(tmp_path, kind):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    grey = np.random.default_rng(0).integers(0, 4000, (24, 40)).astype(np.uint16)
    for name in ("a.dcm", "sub/b.dcm"):
        write_dicom(tmp_path / "images" / name, grey, Modality="CR")
    classes = fake_segmenter.FakeSegmenter().names
    settings = {"classes": list(classes)}
    _, done = fake_segmenter.finish(tmp_path / "images", tmp_path / "out", kind, settings=settings, recursive=True)
    assert [outcome.error for outcome in done.values()] == [None, None]
    (tmp_path / "out" / "other.npy").write_bytes(b"not a mask")
    found = opened(tmp_path / "out")
    assert sorted(found) == ["a", "sub/b"]
    names, masks = found["sub/b"]
    assert set(names) == set(classes)
    assert masks.shape == (len(names), 24, 40)
    assert masks.any()
    assert not masks.all()


def test_a_folder_may_hold_one_file_per_image(tmp_path):
    masks = blocks()
    np.save(tmp_path / "a.npy", masks)
    np.savez(tmp_path / "b.npz", masks[0])
    save_png(tmp_path / "c.png", masks[1])
    save_png(tmp_path / "c.preview.jpg", masks[1])
    save_png(tmp_path / ".hidden.png", masks[1])
    (tmp_path / "notes.txt").write_text("no masks")
    (tmp_path / "report.json").write_text('{"images": 3}')
    found = opened(tmp_path)
    assert {name: names for name, (names, _) in found.items()} == {
        "a": ("class_000", "class_001", "class_002"),
        "b": (UNNAMED,),
        "c": (UNNAMED,),
    }
    np.testing.assert_array_equal(found["a"][1], masks)
    np.testing.assert_array_equal(found["c"][1][0], masks[1])


def test_other_results_of_a_run_are_no_masks(tmp_path):
    """As in results that were moved without their summary."""
    np.savez(tmp_path / "a.npz", blocks())
    np.savez(tmp_path / "a.probabilities.npz", probabilities=np.zeros((3, 4, 4), np.float16), names=NAMES, size=(8, 8))
    for kind in ("confidence", "measurements"):
        (tmp_path / f"a.{kind}.json").write_text("{}")
    assert sorted(list_places(tmp_path)) == ["a"]


def test_pictures_in_a_sub_folder_are_the_classes_of_its_image(tmp_path):
    for image in ("a", "ward/b"):
        for name, mask in zip(NAMES, blocks(), strict=True):
            save_png(tmp_path / image / f"{name}.png", mask)
    found = opened(tmp_path)
    assert sorted(found) == ["a", "ward/b"]
    assert set(found["a"][0]) == set(NAMES)


def test_label_maps_need_their_names(tmp_path):
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.array([[0, 127], [255, 255]], np.uint8)).save(tmp_path / name)
    np.save(tmp_path / "c.npy", np.array([[0, 127], [255, 255]], np.uint8))
    found = opened(tmp_path, levels={127: "heart", 255: "lung"})
    assert sorted(found) == ["a", "c", "sub/b"]
    for names, masks in found.values():
        assert names == ("heart", "lung")
        assert masks.tolist() == [[[False, True], [False, False]], [[False, False], [True, True]]]
    with pytest.raises(ValueError, match="label map"):
        opened(tmp_path)


def test_with_names_of_levels_a_folder_of_class_pictures_stays_one(tmp_path):
    save_png(tmp_path / "a" / "heart.png", blocks()[0])
    assert opened(tmp_path, levels={127: "heart", 255: "lung"})["a"][0] == ("heart",)


def test_a_coco_file_holds_the_masks_of_many_images(tmp_path):
    masks, parts = blocks(), []
    for name in ("one", "two"):
        found = segmentation(masks, NAMES)
        parts.append(write.write_json(found, tmp_path / name, source=f"sub/{name}.dcm", categories=NAMES))
    write.merge_coco(parts, tmp_path / "all.json", NAMES)
    for part in parts:
        part.unlink()
    for place in (tmp_path, tmp_path / "all.json"):
        found = opened(place)
        assert sorted(found) == ["sub/one", "sub/two"]
        np.testing.assert_array_equal(found["sub/two"][1], masks)
    content = json.loads((tmp_path / "all.json").read_text())
    content["images"][1]["file_name"] = content["images"][0]["file_name"]
    (tmp_path / "all.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"all.json: two images of the COCO file have the same file name"):
        list_places(tmp_path)


def test_one_coco_file_per_image_is_named_by_the_file(tmp_path):
    write.write_json(segmentation(blocks(), NAMES), tmp_path / "one", source="elsewhere/x.png", categories=NAMES)
    assert sorted(opened(tmp_path)) == ["one"]


def test_nifti_files_of_labels_are_named_by_their_header_or_levels(tmp_path):
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
    save_labels(tmp_path / "a.nii.gz", labels, {1: "liver", 2: "spleen"})
    (tmp_path / "sub").mkdir()
    save_labels(tmp_path / "sub" / "b.nii.gz", labels, {1: "liver", 2: "spleen"})
    save_nifti(tmp_path / "c.nii", labels)
    save_nifti(tmp_path / "d.nii", (labels == 1).astype(np.uint8))
    found = opened(tmp_path)
    assert {name: names for name, (names, _) in found.items()} == {
        "a": ("liver", "spleen"),
        "sub/b": ("liver", "spleen"),
        "c": ("label_1", "label_2"),
        "d": (UNNAMED,),
    }
    np.testing.assert_array_equal(found["a"][1], [labels == 1, labels == 2])
    np.testing.assert_array_equal(found["d"][1][0], labels == 1)
    assert opened(tmp_path / "c.nii", levels={2: "kidney"})["c"][0] == ("kidney",)
    masks = open_place(list_places(tmp_path)["c"])
    assert masks.spacing_mm == pytest.approx((3, 0.9, 0.8))
    with pytest.raises(ValueError, match=r"d.nii: has the levels 0, 1, but names were given for 9"):
        opened(tmp_path / "d.nii", levels={9: "kidney"})


def test_nifti_files_of_a_case_are_its_classes_as_totalsegmentator_writes_them(tmp_path):
    labels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3
    for case in ("one", "two"):
        (tmp_path / case / "segmentations").mkdir(parents=True)
        save_nifti(tmp_path / case / "ct.nii.gz", labels.astype(np.int16))
        for value, name in enumerate(("liver", "spleen"), 1):
            save_nifti(tmp_path / case / "segmentations" / f"{name}.nii.gz", (labels == value).astype(np.uint8))
    found = opened(tmp_path)
    assert sorted(found) == ["one", "two"]
    assert found["one"][0] == ("liver", "spleen")
    np.testing.assert_array_equal(found["one"][1], [labels == 1, labels == 2])
    assert of_memory(tmp_path / "one" / "segmentations").names == ("liver", "spleen")
    save_nifti(tmp_path / "two" / "segmentations" / "spleen.nii.gz", (labels[:, :2] == 2).astype(np.uint8))
    with pytest.raises(ValueError, match=r"spleen.nii.gz has another size than liver.nii.gz"):
        opened(tmp_path)


def test_a_volume_of_one_slice_is_an_image(tmp_path):
    save_nifti(tmp_path / "a.nii", np.array([[[0, 1], [1, 1]]], np.uint8))
    masks = open_place(list_places(tmp_path)["a"])
    assert (masks.shape, masks.spacing_mm) == ((2, 2), pytest.approx((0.9, 0.8)))
    assert next(masks.read([0])).tolist() == [[False, True], [True, True]]


def test_the_spacing_is_that_of_the_image_of_a_run(tmp_path):
    (tmp_path / "images").mkdir()
    image = write_dicom(tmp_path / "images" / "a.dcm", RAMP, PixelSpacing=[0.3, 0.2], Modality="CR")
    fake_segmenter.finish(tmp_path / "images", tmp_path / "out", "npz")
    assert open_place(list_places(tmp_path / "out")["a"]).spacing_mm == (0.3, 0.2)
    image.write_bytes(b"another file")
    assert open_place(list_places(tmp_path / "out")["a"]).spacing_mm is None
    image.unlink()
    assert open_place(list_places(tmp_path / "out")["a"]).spacing_mm is None


def test_masks_of_earlier_settings_do_not_count(tmp_path):
    fake_segmenter.draw(tmp_path / "images" / "a.png")
    for kind, threshold in (("npz", 0.5), ("png", 0.25)):
        options = {"settings": {"threshold": threshold}, "overwrite": True}
        fake_segmenter.finish(tmp_path / "images", tmp_path / "out", kind, **options)
    assert (tmp_path / "out" / "a.npz").is_file()
    assert list_places(tmp_path / "out")["a"].path == tmp_path / "out" / "a"


def test_masks_of_images_that_failed_since_do_not_count(tmp_path):
    for name in ("a.png", "b.png"):
        fake_segmenter.draw(tmp_path / "images" / name)
    fake_segmenter.finish(tmp_path / "images", tmp_path / "out", "npy")
    (tmp_path / "images" / "a.png").write_bytes(b"no picture")
    fake_segmenter.finish(tmp_path / "images", tmp_path / "out", "npy")
    assert (tmp_path / "out" / "a.npy").is_file()
    assert list(list_places(tmp_path / "out")) == ["b"]
    (tmp_path / "images" / "b.png").write_bytes(b"no picture")
    fake_segmenter.finish(tmp_path / "images", tmp_path / "out", "npy")
    with pytest.raises(ValueError, match="the masks that its summary lists are missing or out of date"):
        list_places(tmp_path / "out")


@pytest.mark.parametrize("kind", ["coco-lines", "parquet"])
def test_a_file_with_the_masks_of_a_cohort_is_read_also_without_its_run(tmp_path, kind):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.dcm", "sub/b.dcm"):
        write_dicom(tmp_path / "images" / name, RAMP, PixelSpacing=[0.3, 0.2], Modality="CR")
    fake_segmenter.finish(tmp_path / "images", tmp_path / "out", kind, recursive=True)
    places = list_places(tmp_path / "out")
    assert sorted(places) == ["a", "sub/b"]
    assert {open_place(place).spacing_mm for place in places.values()} == {(0.3, 0.2)}
    (tmp_path / "out" / "summary.json").unlink()
    (path,) = (tmp_path / "out").glob("masks.*")
    for root in (tmp_path / "out", path):
        assert sorted(list_places(root)) == ["a", "sub/b"]
        names, masks = opened(root)["sub/b"]
        assert set(names) == set(fake_segmenter.FakeSegmenter().names)
        assert masks.shape == (3, 3, 4)


@pytest.mark.parametrize("kind", ["coco-lines", "parquet"])
def test_in_the_files_of_parts_the_masks_count_that_the_summaries_list(tmp_path, kind):
    for number in range(8):
        fake_segmenter.draw(tmp_path / "images" / f"{number}.png")
    run_part(tmp_path / "images", tmp_path / "out", "1/1", kind)
    fake_segmenter.draw(tmp_path / "images" / "0.png", seed=1)  # it has changed, so that two files hold its masks
    (tmp_path / "images" / "1.png").write_bytes(b"no picture")
    for part in ("1/2", "2/2"):
        run_part(tmp_path / "images", tmp_path / "out", part, kind)
    for name in ("images.parquet", ".jaxseg-summary.7-of-9.jsonl"):
        (tmp_path / "out" / name).write_bytes(b"no masks")
    names = [str(number) for number in range(8) if number != 1]
    places = list_places(tmp_path / "out")
    assert list(places) == names
    for name in names:
        image = tmp_path / "images" / f"{name}.png"
        wanted = read_masks(find_masks(tmp_path / "out", image), image=image).masks
        np.testing.assert_array_equal(list(open_place(places[name]).read(range(3))), wanted)
        assert places[name].image == image
    run_part(tmp_path / "images", tmp_path / "out", None, "npy", files=[tmp_path / "images" / "3.png"])
    kinds = {name: place.path.suffix for name, place in list_places(tmp_path / "out").items()}
    assert kinds.pop("3") == ".npy"
    assert set(kinds.values()) == {cohort.TYPES[kind]}
    assert sorted(kinds) == [name for name in names if name != "3"]


def test_masks_are_read_in_any_order(tmp_path):
    masks = blocks()
    np.savez_compressed(tmp_path / "a.npz", masks)
    found = open_place(list_places(tmp_path)["a"])
    for order in ([0, 1, 2], [2, 0], [1, 2, 0], []):
        read = list(found.in_order(order))
        assert len(read) == len(order)
        for k, mask in zip(order, read, strict=True):
            np.testing.assert_array_equal(mask, masks[k])


def test_two_files_of_one_image_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", blocks())
    save_png(tmp_path / "a.png", blocks()[0])
    with pytest.raises(ValueError, match=r"a.npy and a.png both hold masks of a"):
        list_places(tmp_path)


def test_a_place_without_masks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no masks; looked for .png"):
        list_places(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        list_places(tmp_path / "none")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a.json: not a JSON file"):
        list_places(tmp_path)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match=r"a.json: not a COCO file"):
        list_places(tmp_path / "a.json")


def test_masks_in_memory_are_sets():
    masks = blocks()
    for given in (segmentation(masks, NAMES), LoadedMasks.of(NAMES, masks)):
        found = of_memory(given)
        assert (found.names, found.shape) == (NAMES, masks.shape[1:])
        np.testing.assert_array_equal(np.stack(list(found.read([0, 2]))), masks[[0, 2]])
    volume = of_memory(masks)  # one mask, (D, H, W)
    assert (volume.names, volume.shape) == ((UNNAMED,), masks.shape)
    for wrong in (masks.astype(np.uint8), masks[0, 0], masks[None]):
        with pytest.raises(ValueError, match=r"must be \(H, W\) or \(D, H, W\) bool"):
            of_memory(wrong)


def test_a_path_holds_the_masks_of_one_image(tmp_path):
    for name, mask in zip(NAMES, blocks(), strict=True):
        save_png(tmp_path / "a" / f"{name}.png", mask)
        save_png(tmp_path / "b" / f"{name}.png", mask)
    assert set(of_memory(tmp_path / "a").names) == set(NAMES)
    assert of_memory(tmp_path / "a" / "heart.png").names == (UNNAMED,)
    with pytest.raises(ValueError, match="holds masks of 2 images"):
        of_memory(tmp_path)


def test_a_nifti_file_that_is_not_a_mask_is_named(tmp_path):
    (tmp_path / "case").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.full((3, 3, 3), 0.5, np.float32), np.eye(4)), tmp_path / "case" / "liver.nii")
    with pytest.raises(ValueError, match=r"liver.nii: a mask holds 0 and 1"):
        opened(tmp_path)
