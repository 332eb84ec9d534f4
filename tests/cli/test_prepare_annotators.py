"""`jaxseg prepare mnist`, `lidc` and `phantom`."""

import json

from annotator_files import save_mnist_files
from lidc_files import four_readers, message, save_study
from PIL import Image

from jaxseg.annotators.data import lidc_slices, mnist_slices


def save_archive(root):
    for patient in (35, 36):
        series = f"1.2.{patient}"
        text = message(*four_readers(series), series=series)
        save_study(root / str(patient), text, series=series, patient=f"LIDC-IDRI-{patient:04}")


def test_lidc_is_built_with_its_tables_and_a_second_run_writes_nothing(tmp_path, jaxseg_command):
    save_archive(tmp_path / "raw")
    arguments = [
        "prepare",
        "lidc",
        tmp_path / "raw",
        "-o",
        tmp_path / "out",
        "--val_fraction",
        0.5,
        "--test_fraction",
        0,
    ]
    code, _, said = jaxseg_command(*arguments)
    assert code == 0
    assert "2 patients made (8 slices), 0 already done, 0 failed" in said
    assert len(lidc_slices(tmp_path / "out", "train")) == len(lidc_slices(tmp_path / "out", "validate")) == 4
    with Image.open(tmp_path / "out/meta/summary.png") as picture:
        assert picture.width > 400
    code, _, said = jaxseg_command(*arguments)
    assert code == 0
    assert "0 patients made (0 slices), 2 already done, 0 failed" in said
    code, _, said = jaxseg_command(*arguments, "--clahe")
    assert code == 2
    assert "was made with other settings: clahe" in said


def test_a_damaged_study_gives_exit_code_1_and_a_wrong_folder_2(tmp_path, jaxseg_command):
    save_archive(tmp_path / "raw")
    path = tmp_path / "raw/36/000005.dcm"
    path.write_bytes(path.read_bytes()[:-50])
    code, _, said = jaxseg_command("prepare", "lidc", tmp_path / "raw", "-o", tmp_path / "out")
    assert code == 1
    assert "0036: 000005.dcm: " in said
    assert "1 patients made (4 slices), 0 already done, 1 failed" in said
    (tmp_path / "empty").mkdir()
    code, _, said = jaxseg_command("prepare", "lidc", tmp_path / "empty", "-o", tmp_path / "none")
    assert code == 2
    assert "none belong together" in said
    assert not (tmp_path / "none").exists()


def test_mnist_is_built(tmp_path, jaxseg_command):
    save_mnist_files(tmp_path / "raw", packed=True)
    options = ["--train", 3, "--validate", 2, "--test", 1]
    code, _, said = jaxseg_command("prepare", "mnist", tmp_path / "raw", "-o", tmp_path / "out", *options)
    assert code == 0
    assert "6 digits made" in said
    assert len(mnist_slices(tmp_path / "out", "train")) == 3
    code, _, said = jaxseg_command("prepare", "mnist", tmp_path / "out", "-o", tmp_path / "none")
    assert code == 2
    assert "MNIST consists of four files" in said


def test_phantoms_are_built(tmp_path, jaxseg_command):
    for kind, options in (("annotators", []), ("xray", ["--size", 48])):
        counts = ["--train", 2, "--validate", 1, "--test", 0]
        arguments = ["prepare", "phantom", "--kind", kind, "-o", tmp_path / kind, *counts, *options]
        code, _, said = jaxseg_command(*arguments)
        assert code == 0
        assert "3 phantoms made" in said
        assert json.loads((tmp_path / kind / "summary.json").read_text())["kind"] == kind
    assert len(lidc_slices(tmp_path / "annotators", "train")) == 8
