"""The command lines of `jaxseg register` and `--check-orientation`."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from vertebra_model import vertebra_model

import jaxseg
from jaxseg.datasets import phantom
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network(shallow, tmp_path_factory):
    """Returns the folder of a tiny network that distinguishes the eight orientations of one phantom."""
    model = vertebra_model()
    return save_model(model, tmp_path_factory.mktemp("network") / "model", model.card)


@pytest.fixture
def model(network, tmp_path):
    """Returns a copy of the network's folder, which may get a reference."""
    return shutil.copytree(network, tmp_path / "model")


@pytest.fixture
def films(tmp_path):
    """Returns a folder with one phantom as it is, upside down, and inverted."""
    folder, upright = tmp_path / "films", phantom.draw(0, 64)[0]
    folder.mkdir()
    pictures = {"upright": upright, "down": np.rot90(upright, 2), "inverted": 255 - upright}
    for name, pixels in pictures.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def with_reference(jaxseg_command, model, films):
    """Returns the folder of the network with its `reference.npz`."""
    reference = ("--build-reference", "--reference-out", model / "reference.npz")
    code, _, err = jaxseg_command("register", "-i", films / "upright.png", "--weights", model, *reference)
    assert (code, "reference.npz (images: 1)" in err) == (0, True), err
    return model


def test_images_are_corrected_and_registered_to_the_built_reference(jaxseg_command, with_reference, films, tmp_path):
    (films / "bad.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    words = ("register", "-i", films, "-o", out, "--weights", with_reference, "--save-mask")
    code, _, err = jaxseg_command(*words, "--preview")
    assert (code, "3 done, 0 skipped, 1 failed" in err) == (1, True), err
    assert "down.png: the image looks turned by 180 degrees (upside down); it was corrected" in err
    assert "inverted.png: the image looks inverted; it was corrected" in err
    entries = json.loads((out / "summary.json").read_text())["files"]
    upright = np.asarray(Image.open(films / "upright.png"))
    for name in ("upright", "down", "inverted"):
        assert entries[name]["registration"]["reason"] == ""
        np.testing.assert_allclose(entries[name]["registration"]["matrix"], np.eye(2, 3), atol=1e-2)
        moved = np.asarray(Image.open(out / f"{name}_registered.png"))[..., 0]
        assert np.abs(moved.astype(int) - upright).max() <= 3  # to itself: the identity, up to rounding
        assert np.load(out / f"{name}_registered_mask.npy").shape == (5, 64, 64)
        assert (out / f"{name}_registered.preview.jpg").is_file()
    assert json.loads((out / "down_metadata.json").read_text())["rotation_detected"] == 180
    code, _, err = jaxseg_command(*words, "--preview")
    assert (code, "0 done, 3 skipped, 1 failed" in err) == (1, True), err
    code, _, err = jaxseg_command(*words, "--preview", "--no-correction")
    assert (code, "made with other settings: orientation" in err) == (1, True), err


def test_only_a_reference_is_replaced_and_only_on_request(jaxseg_command, with_reference, films):
    path, more = with_reference / "reference.npz", ["--build-reference", "--overwrite", "--reference-out"]
    words = ("register", "-i", films / "upright.png", "--weights", with_reference)
    code, _, err = jaxseg_command(*words, "--build-reference", "--reference-out", path)
    assert (code, "exists; name another file, or replace it with --overwrite" in err) == (2, True), err
    before = path.stat().st_mtime_ns
    assert jaxseg_command(*words, *more, path)[0] == 0
    assert path.stat().st_mtime_ns != before
    other = with_reference / "other.npz"
    np.savez(other, masks=np.zeros(2))
    content = other.read_bytes()
    code, _, err = jaxseg_command(*words, *more, other)
    assert (code, "is not a reference" in err, other.read_bytes() == content) == (2, True, True), err


def test_the_note_of_the_model_stands_in_the_summary(jaxseg_command, films, tmp_path):
    model = vertebra_model()
    card = dataclasses.replace(model.card, note="trained on phantoms")
    save_model(model, tmp_path / "noted", card)
    weights = ("--weights", tmp_path / "noted", "-r", films / "upright.png")
    code, _, err = jaxseg_command("register", "-i", films / "upright.png", "-o", tmp_path / "out", *weights)
    assert (code, err.count("trained on phantoms")) == (0, 1), err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["note"] == "trained on phantoms"


def test_a_folder_or_an_image_serves_as_reference(jaxseg_command, model, films, tmp_path):
    (films / "down.png").unlink()
    (films / "inverted.png").unlink()
    words = ("register", "-i", films, "--weights", model)
    for number, reference in enumerate((films, films / "upright.png")):
        code, _, err = jaxseg_command(*words, "-o", tmp_path / str(number), "-r", reference)
        assert (code, "1 done" in err) == (0, True), err
    first, second = (np.loadtxt(tmp_path / str(number) / "upright_affine.txt") for number in (0, 1))
    np.testing.assert_array_equal(first, second)


def test_a_reference_without_a_digest_is_used_with_a_warning_and_one_of_other_weights_is_refused(
    jaxseg_command, with_reference, films, tmp_path
):
    found = jaxseg.read_reference(with_reference / "reference.npz")
    words = ("register", "-i", films / "upright.png", "--weights", with_reference)
    for number, (digest, want) in enumerate((("", (0, "Warning: ")), ("c" * 64, (2, "made with other weights")))):
        path = tmp_path / f"{number}.npz"
        jaxseg.write_reference(dataclasses.replace(found, weights_sha256=digest), path)
        code, _, err = jaxseg_command(*words, "-o", tmp_path / f"out{number}", "-r", path)
        assert (code, want[1] in err) == (want[0], True), err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--output: name the folder of the results"),
        (("-o", "OUT", "--reference-out", "x.npz"), "--reference-out: only with --build-reference"),
        (("--build-reference",), "--reference-out: name an .npz file in an existing folder"),
        (("--build-reference", "--reference-out", "nowhere/x.npz"), "--reference-out: name an .npz file"),
        (("--build-reference", "--reference-out", "x.npz", "-o", "OUT"), "--output: not with --build-reference"),
        (("-o", "OUT", "-r", "missing.npz"), "missing.npz: no such file or folder; name a reference (.npz)"),
        (("-o", "OUT"), "no reference is known for these weights; build one with jaxseg register --build-reference"),
    ],
)
def test_wrong_options_give_a_one_line_error(jaxseg_command, model, films, tmp_path, words, message):
    words = [tmp_path / "out" if word == "OUT" else word for word in words]
    code, _, err = jaxseg_command("register", "-i", films, "--weights", model, *words)
    assert (code, message in err, err.count("\n")) == (2, True, 1), err


@pytest.mark.slow
def test_segment_and_extract_warn_or_correct_and_say_so(jaxseg_command, with_reference, films, tmp_path):
    def run(command, output, *more):
        words = (command, "-i", films, "-o", tmp_path / output, "--weights", with_reference)
        code, _, err = jaxseg_command(*words, *more)
        assert code == 0, err
        return err, json.loads((tmp_path / output / "summary.json").read_text())

    err, summary = run("segment", "warned", "-ot", "npy")
    assert "Warning: down.png: the image looks turned by 180 degrees (upside down); it is segmented as it is" in err
    assert "Warning: inverted.png: the image looks inverted" in err
    assert "upright.png: the" not in err
    assert summary["settings"]["orientation"] == "as stored"
    assert summary["files"]["down"]["orientation"]["rotation"] == 180
    assert len(summary["files"]["down"]["notes"]) == 1
    err, summary = run("segment", "fixed", "-ot", "npy", "--check-orientation", "fix")
    masks = {name: np.load(tmp_path / "fixed" / f"{name}.npy") for name in ("upright", "down")}
    assert (np.rot90(masks["down"], 2, axes=(1, 2)) != masks["upright"]).mean() < 1e-3
    err, _ = run("segment", "off", "-ot", "npy", "--check-orientation", "off")
    assert "looks" not in err
    np.testing.assert_array_equal(np.load(tmp_path / "off" / "down.npy"), np.load(tmp_path / "warned" / "down.npy"))
    run("extract", "numbers", "-f", "centroid,area", "--check-orientation", "fix", "--draw")
    with (tmp_path / "numbers" / "films.csv").open(newline="") as file:
        rows = {row["filename"]: row for row in csv.DictReader(file)}
    assert "upside down" in rows["down.png"]["reason"]
    assert "upside down" not in rows["upright.png"]["reason"]
    for column in ("heart_area", "heart_cx", "heart_cy"):
        assert abs(float(rows["down.png"][column]) - float(rows["upright.png"][column])) <= 1


def test_a_report_of_corrected_masks_measures_them_upright_and_says_so(jaxseg_command, with_reference, films, tmp_path):
    masks = tmp_path / "masks"
    shared = ("--weights", with_reference, "--check-orientation", "fix", "-ot", "npy")
    assert jaxseg_command("segment", "-i", films, "-o", masks, *shared)[0] == 0
    page = tmp_path / "report.html"
    code, _, err = jaxseg_command("report", "-i", films, "--masks", masks, "-o", page, "--features", "centroid")
    assert (code, "down.png: the image looks turned" in err) == (0, True), err
    text = page.read_text()
    assert text.count("(upside down); it was corrected") == 1
    from jaxseg.anatomy.measure.features import find_all
    from jaxseg.report.reading import read_image

    found = [
        read_image(films / f"{name}.png", masks / f"{name}.npy", features=find_all("centroid"))
        for name in ("upright", "down")
    ]
    for column, value in found[0].values.items():
        assert found[1].values[column] == pytest.approx(value, abs=1, nan_ok=True)
