"""The table of labels in a NIfTI header: what TotalSegmentator writes is read, damaged tables are refused."""

import numpy as np
import pytest
from volume_files import TABLE, save_labels, save_nifti

from jaxseg.segae.label_table import shared_table, table_of
from jaxseg.volumes.label_names import LabelNamesError, read_label_names
from jaxseg.volumes.read import read_labels
from jaxseg.volumes.volume import VolumeError

LABELS = np.zeros((3, 4, 5), np.uint8)
BOMB = '<!DOCTYPE a [<!ENTITY b "' + "c" * 100 + '"><!ENTITY d "' + "&b;" * 100 + '">]>'


def test_the_table_of_totalsegmentator_is_read(kit):
    path = kit.folder / "cases" / "totalseg_ml.nii.gz"
    names = ("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach")
    assert read_label_names(path) == dict(enumerate(names, 1))
    table = table_of(path)
    assert {label: organ.name for label, organ in table.organs.items()}[5] == "liver"
    assert (table.note, table.others) == ("", {})


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("code", [0, 6, 30])
def test_a_table_of_any_extension_is_read_and_does_not_change_the_voxels(tmp_path, suffix, code):
    path = save_labels(tmp_path / f"x.{suffix}", LABELS + np.uint8(2), {0: "???", 2: " a &amp; b "}, code=code)
    assert read_label_names(path) == {2: "a & b"}
    np.testing.assert_array_equal(read_labels(path).array, LABELS + 2)


def test_files_without_a_table_have_no_names(tmp_path):
    assert read_label_names(save_nifti(tmp_path / "x.nii.gz", LABELS)) == {}
    np.save(tmp_path / "x.npy", LABELS)
    assert read_label_names(tmp_path / "x.npy") == {}
    assert read_label_names(save_labels(tmp_path / "y.nii", LABELS, {}, xml="a comment")) == {}
    (tmp_path / "z.nii.gz").write_bytes(b"nothing")
    with pytest.raises(VolumeError, match="z.nii.gz: "):
        read_label_names(tmp_path / "z.nii.gz")


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (BOMB + TABLE.format(labels=""), "it declares a document type or entities"),
        ('<?xml version="1.0" encoding="x-none"?>' + TABLE.format(labels=""), "unknown encoding"),
        (TABLE.format(labels="")[:-5], "damaged"),
        (TABLE.format(labels='<Label Key="-1">liver</Label>'), "the label '-1' is not a whole number"),
        (TABLE.format(labels='<Label Key="65536">liver</Label>'), "is not a whole number from 0 to 65535"),
        (TABLE.format(labels="<Label>liver</Label>"), "the label '' is not a whole number"),
        (TABLE.format(labels='<Label Key="1">a</Label><Label Key="1">b</Label>'), "the label 1 appears twice"),
        (TABLE.format(labels='<Label Key="1"></Label>'), "the label 1 has no name"),
        (TABLE.format(labels='<Label Key="1">' + "a" * 201 + "</Label>"), "more than 200 characters"),
        ("<A>" + TABLE.format(labels="") * 2 + "</A>", "2 tables of labels"),
        (TABLE.format(labels=" " * 2**22), "more than 4,194,304 bytes"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path, xml, reason):
    path = save_labels(tmp_path / "x.nii", LABELS, {}, xml=xml)
    with pytest.raises(LabelNamesError, match=f"^x.nii: .*{reason}"):
        read_label_names(path)
    read_labels(path)  # the voxels do not depend on it


def test_wrong_sizes_of_extensions_are_refused(tmp_path):
    path = save_labels(tmp_path / "x.nii", LABELS, {1: "liver"})
    content = bytearray(path.read_bytes())
    for size in (0, 7, 2**31 - 1, -16):
        content[352:356] = int(size).to_bytes(4, "little", signed=True)
        path.write_bytes(content)
        with pytest.raises(LabelNamesError, match=f"an extension of its header has {size} bytes"):
            read_label_names(path)


def test_names_that_are_no_organs_or_ambiguous_are_refused(tmp_path):
    path = save_labels(tmp_path / "x.nii", LABELS, {1: "lung_vessels", 2: "lung_trachea_bronchia"})
    with pytest.raises(ValueError, match=r"x.nii: the table in its header names no organ .lung_vessels, .*--label-n"):
        table_of(path)
    save_labels(path, LABELS, {1: "kidney_left", 2: "left kidney"})
    with pytest.raises(ValueError, match="x.nii: two labels of the table in its header mean kidney left"):
        table_of(path)


def test_the_volumes_of_a_data_set_share_one_table(tmp_path):
    paths = [save_labels(tmp_path / f"{k}.nii", LABELS, {1: "liver", 2: "face"}) for k in range(2)]
    (tmp_path / "bad.nii").write_bytes(b"nothing")  # reported when the case is built
    table = shared_table([tmp_path / "bad.nii", *paths])
    assert {label: organ.name for label, organ in table.organs.items()} == {1: "liver"}
    assert set(table.others) == {2}
    other = save_nifti(tmp_path / "other.nii", LABELS)
    with pytest.raises(ValueError, match="0.nii and .*other.nii have different tables of labels"):
        shared_table([*paths, other])
    assert "DAP-Atlas" in shared_table([other]).note
