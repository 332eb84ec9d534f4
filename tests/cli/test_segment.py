"""The command line of `jaxseg segment`."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from small_models import save_tiny

import jaxseg
from jaxseg.vocabulary import labels

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(tiny_plain):
    return tiny_plain


@pytest.fixture(scope="module")
def tiny_paxray(tiny_plain, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("paxray"), "paxray")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised by pycocotools
@pytest.mark.parametrize("output_type", ["npy", "npz", "png", "jpg", "json"])
def test_every_output_type_reads_back_equal_to_the_python_api(jaxseg_command, tiny, images, tmp_path, output_type):
    out = tmp_path / "out"
    code, _, err = jaxseg_command("segment", "-i", images, "-o", out, "-ot", output_type, "--weights", tiny)
    assert (code, "2 done" in err) == (0, True)
    for path in images.iterdir():
        masks = jaxseg.segment(path, jaxseg.load("cxas", tiny)).masks
        np.testing.assert_array_equal(read(out, path.stem, output_type, masks.shape), masks)


def read(out, stem, output_type, shape):
    if output_type == "npy":
        return np.load(out / f"{stem}.npy")
    if output_type == "npz":
        return np.load(out / f"{stem}.npz")["arr_0"]
    if output_type == "json":
        from pycocotools import mask as coco

        masks = np.zeros(shape, bool)
        for annotation in json.loads((out / f"{stem}.json").read_text())["annotations"]:
            masks[annotation["category_id"]] = coco.decode(annotation["segmentation"])
        return masks
    pictures = [np.asarray(Image.open(out / stem / f"{name}.{output_type}")) for name in labels.CXAS]
    return np.stack(pictures) > (128 if output_type == "jpg" else 0)


def test_a_folder_also_gets_one_coco_file(jaxseg_command, tiny, images, tmp_path):
    jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", "-ot", "json", "--weights", tiny)
    merged = json.loads((tmp_path / "out" / "images.json").read_text())
    assert [image["file_name"] for image in merged["images"]] == [str(images / "one.png"), str(images / "two.jpg")]
    ids = [annotation["id"] for annotation in merged["annotations"]]
    assert len(ids) == len(set(ids)) > 159


def test_both_spellings_of_options_and_the_alias_work(jaxseg_command, tiny, images, tmp_path):
    common = ["-m", "unet_resnet50_default", "-g", "cpu", "--weights", tiny]
    for option in ("--output_type", "--output-type"):
        folder = tmp_path / option.strip("-")
        code, _, _ = jaxseg_command("segment", "--input", images, "--output", folder, option, "npy", *common)
        assert code == 0
        assert (folder / "one.npy").is_file()
    code, _, _ = jaxseg_command(
        "segment", "-i", images, "-o", tmp_path / "x", "--batch_size", "2", "-ot", "npy", *common
    )
    np.testing.assert_array_equal(np.load(tmp_path / "x" / "one.npy"), np.load(tmp_path / "output_type" / "one.npy"))


def test_classes_and_threshold(jaxseg_command, tiny, images, tmp_path):
    options = ["-ot", "npy", "--weights", tiny, "--classes", "lung halves, heart", "--threshold", "0.4"]
    code, _, _ = jaxseg_command("segment", "-i", images / "one.png", "-o", tmp_path / "out", *options)
    model = jaxseg.load("cxas", tiny)
    wanted = jaxseg.segment(images / "one.png", model, threshold=0.4).masks[[121, 135, 136]]
    assert code == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "one.npy"), wanted)


def test_bad_files_are_reported_the_rest_is_done_and_a_second_run_skips(jaxseg_command, tiny, images, tmp_path):
    (images / "bad.png").write_bytes(b"no picture")
    (images / "bad.dcm").write_bytes(b"no dicom")
    arguments = ["segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny]
    code, _, err = jaxseg_command(*arguments)
    assert code == 1
    assert "bad.png: not a png or jpg file, or damaged" in err
    assert "bad.dcm: not a DICOM file" in err
    assert "2 done, 0 skipped, 2 failed" in err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["counts"] == {"done": 2, "skipped": 0, "failed": 2, "pending": 0}
    code, _, err = jaxseg_command(*arguments)
    assert "0 done, 2 skipped, 2 failed" in err
    code, _, err = jaxseg_command(*arguments, "--threshold", "0.3")
    assert (code, "made with other settings: threshold" in err, err.count("\n")) == (1, True, 1)
    code, _, err = jaxseg_command(*arguments, "--threshold", "0.3", "--overwrite")
    assert "2 done" in err


def test_the_report_states_versions_device_hash_and_seconds(jaxseg_command, tiny, images, tmp_path):
    report = tmp_path / "deep" / "run.json"
    jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny, "--report", report)
    content = json.loads(report.read_text())
    assert content["environment"]["versions"]["jax"] == jax.__version__
    assert content["environment"]["devices"]
    assert len(content["settings"]["weights_sha256"]) == 64
    assert set(content["seconds"]) == {"start", "compile", "images"}
    assert set(content["files"]["one"]["seconds"]) == {"read", "compute", "write"}


def test_several_devices_share_the_batch(jaxseg_command, tiny, images, tmp_path):
    one = jaxseg_command("segment", "-i", images, "-o", tmp_path / "a", "-ot", "npy", "--weights", tiny, "-g", "0")
    two = jaxseg_command("segment", "-i", images, "-o", tmp_path / "b", "-ot", "npy", "--weights", tiny, "-g", "1,3")
    assert (one[0], two[0]) == (0, 0)
    np.testing.assert_array_equal(np.load(tmp_path / "a" / "two.npy"), np.load(tmp_path / "b" / "two.npy"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-m", "cxsa"], "did you mean 'cxas'"),
        (["-g", "99"], "no device 99; JAX sees 0: cpu"),
        (["-g", "first"], "unknown devices 'first'; allowed: auto, cpu, gpu, tpu, or indices"),
        (["-g", "tpu"], "no tpu found"),
        (["--classes", "hart"], "did you mean 'heart'"),
        (["--threshold", "2"], "2.0 is not in the range"),
        (["-ot", "tif"], "'tif' is not one of"),
        (["-g", "0,1", "--batch-size", "3"], "cannot be split over 2 devices"),
        (["--nonsense"], "No such option"),
    ],
)
def test_wrong_options_give_a_one_line_error_and_exit_code_2(jaxseg_command, tiny, images, tmp_path, options, words):
    code, _, err = jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny, *options)
    assert (code, words in err, err.count("\n")) == (2, True, 1), err


def test_missing_input_and_missing_weights_give_a_one_line_error(jaxseg_command, images, tmp_path):
    code, _, err = jaxseg_command("segment", "-i", tmp_path / "none", "-o", tmp_path / "out")
    assert (code, "no such file or folder" in err) == (2, True)
    code, _, err = jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", "--weights", tmp_path / "none.pth")
    assert (code, err.count("\n")) == (2, 1)
    assert f"Error: --weights: {tmp_path / 'none.pth'}: no such file or folder; name a training run" in err
    (tmp_path / "empty").mkdir()
    code, _, err = jaxseg_command("segment", "-i", tmp_path / "empty", "-o", tmp_path / "out")
    assert (code, "--recursive looks into sub-folders" in err) == (2, True)


def test_a_real_process_leaves_stdout_clean_and_stderr_plain(tiny_unet, images, tmp_path, jaxseg_process):
    code, out, err = jaxseg_process("segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny_unet)
    assert (code, out) == (0, ""), err
    lines = err.strip().splitlines()
    assert lines[0].startswith("images 1/2: ")
    assert lines[-1].startswith("2 done, 0 skipped, 0 failed")
    assert len(lines) == 3, err


def test_a_model_directory_needs_no_model_name(jaxseg_command, tiny_paxray, images, tmp_path):
    code, _, _ = jaxseg_command("segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny_paxray)
    assert (code, np.load(tmp_path / "out" / "one.npy").shape[0]) == (0, 166)
    code, _, err = jaxseg_command("segment", "-i", images, "-o", tmp_path / "x", "--weights", tiny_paxray, "-m", "cxas")
    assert (code, "holds a 'paxray' model" in err) == (1, True)


def test_file_names_cannot_send_control_codes_to_the_terminal(jaxseg_command, tiny, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "\x1b]0;owned\x07[bold]\n.png").write_bytes(b"x")
    code, _, err = jaxseg_command("segment", "-i", tmp_path / "in", "-o", tmp_path / "out", "--weights", tiny)
    assert code == 1
    assert "\x1b" not in err
    assert r"\x1b]0;owned\x07[bold]\n.png" in err


def test_two_runs_do_not_write_into_one_folder(jaxseg_command, tiny, images, tmp_path):
    from jaxseg.files import only_writer

    (tmp_path / "out").mkdir()
    arguments = ["segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny]
    with only_writer(tmp_path / "out"):
        code, _, err = jaxseg_command(*arguments)
    assert (code, "another run is writing" in err) == (1, True)
    assert jaxseg_command(*arguments)[0] == 0


def test_impossible_outputs_are_refused_before_any_work(jaxseg_command, tiny, images, tmp_path):
    (tmp_path / "file").write_text("")
    common = ["segment", "-i", images, "--weights", tiny]
    assert jaxseg_command(*common, "-o", tmp_path / "file")[0] == 2
    assert jaxseg_command(*common, "-o", tmp_path / "out", "--report", tmp_path)[0] == 2
    code, _, err = jaxseg_command(*common, "-o", tmp_path / "out", "--report", images / "one.png")
    assert (code, "is not a jaxseg report" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_the_options_match_those_of_the_library():
    from jaxseg.cli import options
    from jaxseg.images.preprocess import PREPROCESSING
    from jaxseg.images.read import INTENSITIES
    from jaxseg.masks import cohort
    from jaxseg.masks.write import WRITERS

    assert set(options.OUTPUT_TYPES) == {*WRITERS, *cohort.TYPES}
    assert tuple(cohort.TYPES) == options.JOINT_TYPES
    assert set(options.PREPROCESSING) == set(PREPROCESSING)
    assert options.INTENSITIES == INTENSITIES


@pytest.mark.full
def test_on_a_terminal_a_bar_shows_rate_and_time_left(tiny_unet, images, tmp_path):
    import os
    import pty
    import subprocess
    import sys

    command = [
        sys.executable,
        "-m",
        "jaxseg.cli",
        "segment",
        "-i",
        images,
        "-o",
        tmp_path / "out",
        "--weights",
        tiny_unet,
    ]
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "120"}
    process = subprocess.Popen([str(word) for word in command], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 4096):
            shown += chunk
    except OSError:
        pass  # the other end of the pipe is closed
    os.close(ours)
    assert process.wait() == 0
    assert b"2/2" in shown
    assert b"/s" in shown
    assert b"0:00:0" in shown
