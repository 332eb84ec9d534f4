"""Finding and reading the CTs and labels of which SegAE's training data are built."""

import numpy as np
import pytest
from segae_files import SHAPE, ct, labels
from volume_files import save_nifti, save_series

from jaxseg.segae import label_table, sources
from jaxseg.volumes.read import from_array, read_volume


def test_cases_are_found_in_folders_and_as_dicom(tmp_path):
    case = tmp_path / "data" / "x"
    case.mkdir(parents=True)
    save_nifti(case / "ct.nii.gz", ct())
    save_nifti(case / "label.nii.gz", labels())
    scans, notes = sources.find_scans(tmp_path / "data", tmp_path / "data")
    assert [(scan.name, scan.ct.name, scan.label.name) for scan in scans] == [("x", "ct.nii.gz", "label.nii.gz")]
    assert notes == ()
    (tmp_path / "cts").mkdir()
    save_series(tmp_path / "cts" / "x", (ct() + 1024).astype(np.uint16))
    save_series(tmp_path / "cts" / "y", (ct() + 1024).astype(np.uint16))
    scans, notes = sources.find_scans(tmp_path / "cts", tmp_path / "data")
    assert scans[0].ct == tmp_path / "cts" / "x"
    assert notes == ("1 cases have no labels: y",)
    with pytest.raises(ValueError, match=r"no CT has labels of the same name \(2 CT, 0 labels\)"):
        sources.find_scans(tmp_path / "cts", tmp_path / "cts")


def save_masks(folder, **masks):
    folder.mkdir(parents=True, exist_ok=True)
    for name, mask in masks.items():
        np.save(folder / f"{name}.npy", mask.astype(np.uint8))
    return folder


def box(first, last, columns=10):
    mask = np.zeros(SHAPE, bool)
    mask[first:last, 5:25, 5 : 5 + columns] = True
    return mask


def test_cases_in_totalsegmentators_layout_are_found_in_one_folder_or_two(tmp_path):
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "ct.npy", ct())
    save_masks(tmp_path / "x" / "segmentations", liver=box(1, 4))
    scan = sources.Scan("x", tmp_path / "x" / "ct.npy", tmp_path / "x" / "segmentations")
    assert sources.find_scans(tmp_path, tmp_path) == ((scan,), ())
    (tmp_path / "cts" / "x").mkdir(parents=True)
    save_series(tmp_path / "cts" / "x" / "ct", (ct() + 1024).astype(np.uint16))  # score reads this folder, too
    (scan,), _ = sources.find_scans(tmp_path / "cts", tmp_path)
    assert (scan.ct, scan.label) == (tmp_path / "cts" / "x" / "ct", tmp_path / "x" / "segmentations")
    np.save(tmp_path / "x" / "label.npy", labels())
    with pytest.raises(ValueError, match="there are label.npy and segmentations; keep one of them"):
        sources.find_scans(tmp_path, tmp_path)


def test_predicted_masks_may_be_folders_too(tmp_path):
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "ct.npy", ct())
    np.save(tmp_path / "x" / "label.npy", labels())
    save_masks(tmp_path / "pseudo" / "x" / "epoch_1", liver=box(1, 4))
    save_masks(tmp_path / "pseudo" / "x" / "epoch_2" / "segmentations", liver=box(1, 4))
    np.save(tmp_path / "pseudo" / "x" / "epoch_3.npy", labels())
    (scan,), _ = sources.find_scans(tmp_path, tmp_path, tmp_path / "pseudo")
    assert sorted(map(sources.stage_name, scan.stages)) == ["epoch_1", "epoch_2", "epoch_3"]


def test_a_ct_is_not_taken_for_its_own_labels(tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", ct())
    with pytest.raises(ValueError, match="2 CTs would be their own labels: a, b; name the folder of the labels"):
        sources.find_scans(tmp_path, tmp_path)


def test_predicted_masks_may_overlap(tmp_path):
    masks = {"liver": box(0, 5), "spleen": box(1, 3), "unknown": box(0, 1)}
    folder = save_masks(tmp_path / "m", **masks)
    found = dict(sources.read_predicted(folder, from_array(ct()), label_table.dap_table(), [13, 26, 15]))
    np.testing.assert_array_equal(found[13], masks["liver"])
    np.testing.assert_array_equal(found[26], masks["spleen"])
    assert (found[15].dtype, found[15].any()) == (bool, False)
    np.save(folder / "spleen.npy", 2 * box(1, 3) + box(3, 4))
    with pytest.raises(ValueError, match="a mask holds 0 and 1"):
        dict(sources.read_predicted(folder, from_array(ct()), label_table.dap_table(), [26]))


def read(folder):
    found, notes = sources.read_classes(folder, from_array(ct()), label_table.dap_table())
    return found.array, notes


def test_masks_of_a_folder_become_classes(tmp_path):
    found, notes = read(save_masks(tmp_path / "m", liver=box(1, 3), kidney_left=box(3, 5), spinal_cord=box(5, 6)))
    np.testing.assert_array_equal(found, np.where(box(1, 3), 13, np.where(box(3, 5), 15, 0)))
    assert notes == ("left out, no class of the DAP-Atlas: spinal_cord",)


def test_an_organ_that_others_cover_is_left_out(tmp_path):
    """The heart without its atrium would be a wrong truth; the atrium, which is the smaller one, stays whole."""
    found, notes = read(save_masks(tmp_path / "m", heart=box(0, 5), heart_atrium_left=box(1, 2), liver=box(5, 6)))
    assert set(np.unique(found)) == {0, 13, 106}
    np.testing.assert_array_equal(found == 106, box(1, 2))
    assert notes == ("left out, covered by masks of smaller organs: heart",)


def test_a_single_voxel_in_two_masks_leaves_nothing_out(tmp_path):
    liver, spleen = box(1, 4), box(4, 5)
    spleen[3, 5, 5] = True
    found, notes = read(save_masks(tmp_path / "m", liver=liver, spleen=spleen))
    np.testing.assert_array_equal(found == 26, spleen)
    assert np.count_nonzero(found == 13) == np.count_nonzero(liver) - 1
    assert notes == ()


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"liver": box(1, 2), "Liver": box(1, 2)}, "both show liver"),
        ({"unknown": box(1, 2)}, "no mask has the name of an organ"),
        ({"liver": box(1, 2)[:3]}, "the mask is 3 x 48 x 52, the volume is 6 x 48 x 52"),
        ({"liver": 2 * box(1, 2) + box(2, 3)}, "a mask holds 0 and 1"),
    ],
)
def test_bad_folders_of_masks_are_refused(tmp_path, masks, message):
    with pytest.raises(ValueError, match=message):
        read(save_masks(tmp_path / "m", **masks))


def test_two_files_of_one_mask_are_refused(tmp_path):
    save_nifti(save_masks(tmp_path / "m", liver=box(1, 2)) / "liver.nii.gz", box(1, 2).astype(np.uint8))
    with pytest.raises(ValueError, match="several files are masks of liver"):
        read(tmp_path / "m")


def test_names_of_labels_are_refused_if_there_are_only_masks(tmp_path):
    scan = sources.Scan("x", tmp_path / "ct.npy", save_masks(tmp_path / "m", liver=box(1, 2)))
    assert sources.table_of_scans([scan]).organs[13].name == "liver"
    with pytest.raises(ValueError, match="all labels are masks named after organs"):
        sources.table_of_scans([scan], tmp_path / "t.json")
    assert read_volume(tmp_path / "m" / "liver.npy").shape == SHAPE
