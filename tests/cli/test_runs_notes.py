"""The name and the note of a model that was trained with jaxseg: on the terminal, in the results and in the report."""

import dataclasses
import json
import shutil

import numpy as np
import pydicom
import pytest
from PIL import Image

import jaxseg
from jaxseg.card import read_card
from jaxseg.weights.store import save_model

pytestmark = pytest.mark.slow
NOTE = "its masks mean nothing"
WARNING = f"Warning: the model my_run: {NOTE}"


def summary(folder) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture
def named(tiny, tmp_path):
    """Returns a copy of the tiny model whose card has a name and a note."""
    folder = shutil.copytree(tiny, tmp_path / "named")
    dataclasses.replace(read_card(folder), name="my_run", note=NOTE).write(folder)
    return folder


@pytest.fixture
def results(jaxseg_command, named, images, tmp_path):
    """Returns the results of a run with three images, the last of which is damaged, and what it printed."""
    (images / "zzz.png").write_bytes(b"rubbish")
    words = ["segment", "-i", images, "-o", tmp_path / "out", "--weights", named, "--classes", "heart, lung"]
    code, out, err = jaxseg_command(*words)
    assert (code, out) == (1, "")
    return tmp_path / "out", err


def test_the_note_is_said_once_and_stored(results):
    out, err = results
    assert err.splitlines().count(WARNING) == 1
    assert (summary(out)["note"], summary(out)["settings"]["model"]) == (NOTE, "my_run")


def test_the_report_repeats_the_note_and_the_reason_of_a_failure(jaxseg_command, results, images, tmp_path):
    out, _ = results
    code, _, err = jaxseg_command("report", "-i", images, "--masks", out, "-o", tmp_path / "r.html")
    assert code == 1
    reason = summary(out)["files"]["zzz"]["reason"].removeprefix("zzz.png: ")
    assert f"Failed: {images / 'zzz.png'}: no masks of zzz.png, because its run failed: {reason}" in err
    text = (tmp_path / "r.html").read_text()
    assert f'"note":"Model my_run: {NOTE}."' in text
    assert '"model":"my_run"' in text
    assert f"because its run failed: {reason}" in text


def test_without_a_note_nothing_is_said(jaxseg_command, tiny, images, tmp_path):
    words = ["segment", "-i", images, "-o", tmp_path / "out", "--weights", tiny, "--classes", "heart"]
    assert "Warning" not in jaxseg_command(*words)[2]
    assert (summary(tmp_path / "out")["note"], summary(tmp_path / "out")["settings"]["model"]) == ("", "cxas")
    jaxseg_command("report", "-i", images, "--masks", tmp_path / "out", "-o", tmp_path / "r.html")
    assert '"note":""' in (tmp_path / "r.html").read_text()


def test_a_dicom_seg_names_the_run(jaxseg_command, named, kit, tmp_path):
    shutil.copy(kit.folder / "files" / "mono2_12bit.dcm", tmp_path / "film.dcm")
    words = ["segment", "-i", tmp_path / "film.dcm", "-o", tmp_path / "out", "--weights", named, "--threshold", "0.4"]
    code, _, err = jaxseg_command(*words, "--classes", "lung halves, heart", "-ot", "dicom-seg")
    assert code == 0, err
    found = pydicom.dcmread(tmp_path / "out" / "film.seg.dcm")
    assert found.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "my_run"


def test_samples_of_a_barely_trained_model_say_so(jaxseg_command, tmp_path):
    np.save(tmp_path / "one.npy", np.random.default_rng(0).normal(size=(32, 32)))
    model = jaxseg.create("cmvae", image_size=(32, 32), width=4, depth=2, latent=4)
    sheets = {}
    for note in ("", "barely trained (2 steps): its samples mean little"):
        folder, out = tmp_path / f"model{len(note)}", tmp_path / f"out{len(note)}"
        save_model(model, folder, dataclasses.replace(model.card, name="my_run", note=note))
        words = ["sample", "-i", tmp_path / "one.npy", "-o", out, "--weights", folder, "-n", "2", "--preview"]
        code, _, err = jaxseg_command(*words)
        assert code == 0, err
        assert err.splitlines().count(f"Warning: the model my_run: {note}") == bool(note)
        assert summary(out)["note"] == note
        with Image.open(out / "one.preview.jpg") as sheet:
            sheets[note] = np.asarray(sheet.convert("L"), np.int32)
    plain, noted = sheets.values()
    rows = min(len(plain), len(noted))
    changed = np.flatnonzero((abs(plain[:rows] - noted[:rows]) > 50).any(axis=1))
    assert len(noted) >= len(plain)
    assert changed.size
    assert changed.min() > 500  # only the caption below the pictures differs
