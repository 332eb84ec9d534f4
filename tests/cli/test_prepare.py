"""`jaxseg prepare segae`."""

import json

import pytest
from segae_files import ct, labels
from volume_files import save_nifti


@pytest.fixture
def folders(tmp_path):
    for name in ("cts", "labels"):
        (tmp_path / name).mkdir()
    for seed, name in enumerate("ab"):
        save_nifti(tmp_path / "cts" / f"{name}.nii.gz", ct(seed))
        save_nifti(tmp_path / "labels" / f"{name}.nii.gz", labels())
    return tmp_path


def test_the_data_set_is_built_and_found_by_a_second_run(folders, jaxseg_command):
    arguments = ["prepare", "segae", folders / "cts", folders / "labels", "-o", folders / "out", "--per_organ", 2]
    code, _, said = jaxseg_command(*arguments)
    assert code == 0
    assert "2 cases made, 0 were there, 0 failed" in said
    summary = json.loads((folders / "out" / "summary.json").read_text())
    assert {case["split"] for case in summary["cases"].values()} == {"train", "val"}
    code, _, said = jaxseg_command(*arguments)
    assert code == 0
    assert "0 cases made, 2 were there, 0 failed" in said


def test_one_folder_of_cases_is_enough(folders, jaxseg_command):
    for name in "ab":
        masks = folders / "cases" / name / "segmentations"
        masks.mkdir(parents=True)
        (folders / "cts" / f"{name}.nii.gz").rename(masks.parent / "ct.nii.gz")
        save_nifti(masks / "liver.nii.gz", (labels() == 13).astype("u1"))
    code, _, said = jaxseg_command("prepare", "segae", folders / "cases", "-o", folders / "out", "--per-organ", 2)
    assert code == 0
    assert "2 cases made" in said
    assert (folders / "out" / "train").is_dir()
    code, _, said = jaxseg_command("prepare", "segae", folders / "cases", "-o", folders / "more", "--stages", 5)
    assert code == 2
    assert "stages and steps belong to segmenter" in said


def test_a_bad_case_gives_exit_code_1_and_the_others_are_built(folders, jaxseg_command):
    (folders / "cts" / "a.nii.gz").write_bytes(b"")
    code, _, said = jaxseg_command("prepare", "segae", folders / "cts", folders / "labels", "-o", folders / "out")
    assert code == 1
    assert "a: a.nii.gz: " in said
    assert "1 cases made, 0 were there, 1 failed" in said


def test_invalid_arguments_give_one_line_and_exit_code_2(folders, jaxseg_command):
    code, _, said = jaxseg_command("prepare", "segae", folders / "cts", folders, "-o", folders / "out")
    assert code == 2
    assert said.startswith("Error: no CT has labels of the same name")
    assert not (folders / "out").exists()
    (folders / "t.json").write_text('{"1": "livver"}')
    for name in ("--names-table", "--names"):  # the present and the earlier name
        options = [name, folders / "t.json", "-o", folders / "out"]
        code, _, said = jaxseg_command("prepare", "segae", folders / "cts", folders / "labels", *options)
        assert code != 0
        assert "did you mean 'liver'" in said
        assert len(said.strip().split("\n")) == 1
    (folders / "out").mkdir()
    (folders / "out" / "mine.txt").write_text("")
    code, _, said = jaxseg_command("prepare", "segae", folders / "cts", folders / "labels", "-o", folders / "out")
    assert code == 2
    assert "did not write" in said
