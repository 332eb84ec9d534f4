"""What the commands say of images that are read with a doubt, and the orientation in which they show them."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from child_commands import run_commands
from dicom_files import RAMP, write_dicom
from PIL import ExifTags, Image

import jaxseg
from jaxseg.anatomy.segment import Segmenter
from jaxseg.cli.runs import Notes
from jaxseg.images.preprocess import PREPROCESSING
from jaxseg.images.read import INTENSITIES, read_picture
from jaxseg.weights.store import save_model

WINDOW = {"WindowCenter": 1000, "WindowWidth": 801}
NO_X_RAY = "NOT A PROJECTION X-RAY: its Modality is MR."


@pytest.fixture(scope="module")
def saved(shallow, tmp_path_factory):
    """Returns a function that saves a small network of two classes as a model: name of the model -> its folder."""

    def save(name):
        model = jaxseg.create(name, class_names=("heart", "lung"), backbone="resnet18", width=4)
        model.card = dataclasses.replace(model.card, input_size=(32, 32))
        return save_model(model, tmp_path_factory.mktemp(name) / "model", model.card)

    return save


@pytest.fixture(scope="module")
def tiny(saved):
    return saved("cxas")


@pytest.fixture
def scans(tmp_path):
    """Returns a folder with three DICOM files whose window would change the picture."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(3):
        write_dicom(folder / f"{i}.dcm", RAMP + i, Modality="CR", **WINDOW)
    return folder


@pytest.mark.slow
def test_a_note_of_many_files_is_shown_once_and_kept_with_each(jaxseg_command, tiny, scans, tmp_path):
    arguments = ["-i", scans, "--weights", tiny, "--classes", "heart"]
    code, _, err = jaxseg_command("segment", *arguments, "-o", tmp_path / "a")
    note = "its window or look-up table was not applied"
    lines = [line for line in err.splitlines() if note in line]
    assert (code, len(lines)) == (0, 2), err
    assert re.match(r"Warning: [012]\.dcm: its window", lines[0])
    assert lines[1].startswith("Warning: 2 more images: its window")
    entries = json.loads((tmp_path / "a" / "summary.json").read_text())["files"].values()
    assert [[note in text for text in entry["notes"]] for entry in entries] == [[True]] * 3


@pytest.mark.slow
def test_a_modality_that_is_no_x_ray_is_a_warning_that_one_option_hides(jaxseg_command, tiny, tmp_path):
    image = write_dicom(tmp_path / "x.dcm", RAMP, Modality="MR")
    code, _, err = jaxseg_command("segment", "-i", image, "--weights", tiny, "-o", tmp_path / "segment")
    assert (code, f"Warning: x.dcm: {NO_X_RAY}" in err) == (0, True), err
    arguments = ["extract", "-f", "area", "-i", image, "--weights", tiny, "-o", tmp_path / "extract"]
    code, _, err = jaxseg_command(*arguments, "--any-modality")
    assert (code, "Warning" in err) == (0, False), err
    masks = tmp_path / "segment"
    for arguments in (("show", "-o", tmp_path / "x.png"), ("report", "-o", tmp_path / "x.html")):
        code, _, err = jaxseg_command(*arguments, "-i", image, "--masks", masks)
        assert (code, NO_X_RAY in err) == (0, True), err


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "intensity"), [("square", "clinical"), ("wide", "original")])
def test_pictures_and_reports_show_an_image_as_its_masks_lie(jaxseg_command, tiny, tmp_path, kind, intensity):
    folder = tmp_path / "in"
    folder.mkdir()
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 3 if kind == "square" else 8
    grey = np.random.default_rng(0).integers(0, 256, (40, 40 if kind == "square" else 60), np.uint8)
    Image.fromarray(grey).save(folder / "x.png", exif=tags)
    arguments = ["-i", folder, "-o", tmp_path / "out", "--weights", tiny, "--intensity", intensity]
    code, _, err = jaxseg_command("segment", *arguments, "--preview")
    assert (code, "EXIF orientation" in err) == (0, intensity == "original"), err
    code, _, err = jaxseg_command("report", "-i", folder, "--masks", tmp_path / "out", "-o", tmp_path / "r.html")
    assert (code, "1 shown" in err) == (0, True), err
    code, _, _ = jaxseg_command("show", "-i", folder / "x.png", "--masks", tmp_path / "out", "-o", tmp_path / "s.png")
    assert code == 0
    picture = read_picture(folder / "x.png", intensity=intensity)
    right = np.asarray(jaxseg.visualize(picture, tmp_path / "out" / "x"))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "s.png")), right)
    for masks in (tmp_path / "out" / "x", jaxseg.segment(folder / "x.png", str(tiny), intensity=intensity)):
        np.testing.assert_array_equal(np.asarray(jaxseg.visualize(folder / "x.png", masks)), right)
    preview = np.asarray(Image.open(tmp_path / "out" / "x.preview.jpg")).astype(int)
    assert np.abs(preview - right).mean() < 8  # jpg is lossy
    assert np.abs(preview - right[::-1, ::-1]).mean() > 16


@pytest.mark.slow
def test_a_model_of_paxray_segments_dicom_files(jaxseg_command, saved, scans, tmp_path):
    weights = saved("paxray")
    code, _, err = jaxseg_command("segment", "-i", scans, "-o", tmp_path / "out", "--weights", weights)
    assert (code, "3 done, 0 skipped, 0 failed" in err) == (0, True), err
    model = jaxseg.load(weights)
    for preprocessing in PREPROCESSING:
        for intensity in INTENSITIES:
            prepared = Segmenter(model, preprocessing=preprocessing, intensity=intensity).prepare(scans / "0.dcm")
            assert (prepared.x.shape, prepared.x.dtype) == ((32, 32, 3), np.float32)


@pytest.mark.full
def test_tracebacks_of_a_broken_image_and_of_broken_weights_are_shown_only_with_debug(tiny, images, tmp_path):
    (images / "broken.png").write_bytes(b"no picture")
    (tmp_path / "none.pth").write_text("no weights")
    words = ["segment", "-i", images, "-o"]
    good, bad = [*words, "masks", "--weights", tiny], [*words, "nothing", "--weights", "none.pth"]
    good_debug, bad_debug = [*good, "--overwrite", "--debug"], [*bad, "--debug"]
    *plain, image, weights = run_commands(good, bad, good_debug, bad_debug, folder=tmp_path)
    assert [(code, "Traceback" in said) for code, said in plain] == [(1, False), (1, False)], plain
    assert image[1].count("Traceback (most recent call last)") == 1, image[1]
    assert re.search(r'File ".*jaxseg/images/\w+\.py", line \d+, in ', image[1])
    for code, said in (plain[0], image):
        assert (code, said.count(f"Failed: {images / 'broken.png'}: ")) == (1, 1), said
        assert "2 done, 0 skipped, 1 failed" in said
    assert "Traceback" in weights[1]


def test_a_note_of_two_files_counts_one_more_in_the_singular(capsys):
    notes = Notes("images")
    for name in ("a.png", "b.png"):
        notes.show(Path(name), [f"{name}: it is dark"])
    notes.finish()
    assert capsys.readouterr().err.splitlines() == ["Warning: a.png: it is dark", "Warning: 1 more image: it is dark"]
