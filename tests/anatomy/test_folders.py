"""Segmenting and measuring folders from Python: results, callbacks, resuming, and what is refused."""

import csv
import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import jaxseg
from jaxseg.anatomy.folders import write_report
from jaxseg.anatomy.segment import Segmenter


@pytest.fixture(scope="module")
def segmenter():
    model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
    model.card = dataclasses.replace(model.card, input_size=(32, 32))
    return Segmenter(model)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("one.png", "two.png"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (40, 30), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.mark.slow
def test_a_folder_is_segmented_and_a_second_call_skips(segmenter, images, tmp_path):
    (images / "bad.png").write_bytes(b"not an image")
    seen, outcomes = [], []
    callbacks = {"progress": lambda *given: seen.append(given), "report": outcomes.append}
    result = jaxseg.segment_folder(images, tmp_path / "out", segmenter, output_type="npy", preview=True, **callbacks)
    assert (result.done, result.skipped, result.failed) == (2, 0, 1)
    assert [seen[0], seen[-1][:2], len(seen)] == [(0, 3, ""), (3, 3), 4]
    assert {outcome.item.source.name for outcome in outcomes if outcome.error} == {"bad.png"}
    bad, one, _ = result.files
    assert (bad.source.name, bad.status, bad.outputs) == ("bad.png", "failed", {})
    assert "not a png or jpg file" in bad.reason
    assert (one.status, set(one.outputs), one.reason) == ("done", {"npy", "preview"}, None)
    np.testing.assert_array_equal(np.load(one.outputs["npy"]), segmenter(images / "one.png").masks)
    assert json.loads(result.summary.read_text())["counts"]["done"] == 2
    again = jaxseg.segment_folder(images, tmp_path / "out", segmenter, output_type="npy", preview=True)
    assert (again.done, again.skipped, again.failed) == (0, 2, 1)


class SlowCopy:
    """An array on a fake accelerator that records when it is copied to the host."""

    def __init__(self, array, record):
        self.array, self.record = array, record

    def __array__(self, dtype=None, copy=None):
        self.record()
        return np.asarray(self.array)


def test_on_accelerators_the_next_batch_is_dispatched_before_the_last_is_copied(
    segmenter, images, tmp_path, monkeypatch
):
    Image.fromarray(np.full((30, 30), 90, np.uint8)).save(images / "zz.png")
    wanted = jaxseg.segment_folder(images, tmp_path / "cpu", segmenter, output_type="npy")
    runner, events = segmenter._runner, []

    def start(*arrays):
        number = sum(what == "dispatch" for what, _ in events)
        events.append(("dispatch", number))
        answer = type(runner).start(runner, *arrays)
        return jax.tree.map(lambda leaf: SlowCopy(leaf, lambda: events.append(("copy", number))), answer)

    monkeypatch.setattr(runner, "start", start)
    monkeypatch.setattr(jaxseg.Segmenter, "devices", [SimpleNamespace(platform="gpu")])
    found = jaxseg.segment_folder(images, tmp_path / "gpu", segmenter, output_type="npy")
    order = [("dispatch", 0), ("dispatch", 1), ("copy", 0), ("dispatch", 2), ("copy", 1), ("copy", 2)]
    assert list(dict.fromkeys(events)) == order
    assert [file.notes for file in found.files] == [file.notes for file in wanted.files]
    for ours, theirs in zip(found.files, wanted.files, strict=True):
        assert ours.outputs["npy"].name == theirs.outputs["npy"].name
        np.testing.assert_array_equal(np.load(ours.outputs["npy"]), np.load(theirs.outputs["npy"]))


def test_only_the_given_files_are_segmented(segmenter, images, tmp_path):
    files = [images / "two.png"]
    result = jaxseg.segment_folder(images, tmp_path / "out", segmenter, files=files, output_type="npy")
    assert [file.source for file in result.files] == files


def test_a_folder_is_measured_into_one_table(segmenter, images, tmp_path):
    result = jaxseg.extract_folder(images, tmp_path / "out", "area", segmenter, store_masks=True, output_type="npy")
    assert result.merged == (tmp_path / "out" / "images.csv",)
    with result.merged[0].open(newline="") as file:
        rows = {row["filename"]: row for row in csv.DictReader(file)}
    areas = jaxseg.extract(images / "one.png", "area", model=segmenter).values
    assert float(rows["one.png"]["heart_area"]) == areas["heart_area"]
    assert set(result.files[0].outputs) == {"measurements", "npy"}


def test_postprocessing_needs_settings_and_the_old_name_after_still_works(segmenter, images, tmp_path):
    changed = Segmenter(jaxseg.create("cxas", num_classes=2, backbone="resnet18", width=4), after=lambda found: found)
    assert changed.after is changed.postprocess
    with pytest.raises(ValueError, match="postprocess needs an attribute `settings`"):
        jaxseg.segment_folder(images, tmp_path / "out", changed)
    changed.after = None
    assert changed.settings["denoise"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labelmap": True}, "labelmap is only for DICOM SEG"),
        ({"strict_projection": True, "output_type": "npy"}, "strict_projection is only for DICOM SEG"),
        ({"threshold": 0.3}, "options threshold belong to the Segmenter"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(segmenter, images, tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        jaxseg.segment_folder(images, tmp_path / "out", segmenter, **options)
    assert not (tmp_path / "out").exists()


def test_the_report_of_a_run_replaces_only_reports(tmp_path):
    xrays = tmp_path / "xrays"
    xrays.mkdir()
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(xrays / "a.png")
    model = jaxseg.create("cxas", class_names=("heart", "lung"), backbone="resnet18", width=4)
    segmenter = Segmenter(model)
    result = jaxseg.segment_folder(xrays, tmp_path / "masks", segmenter)
    path = tmp_path / "new" / "report.json"
    for seconds in (1.0, 2.0):
        write_report(path, result, segmenter, start_seconds=seconds)
        assert json.loads(path.read_text())["seconds"]["start"] == seconds
    path.write_text("mine")
    with pytest.raises(ValueError, match="is not a jaxseg report"):
        write_report(path, result, segmenter)
    with pytest.raises(ValueError, match="the name of the summary"):
        write_report(path.with_name("summary.json"), result, segmenter)
