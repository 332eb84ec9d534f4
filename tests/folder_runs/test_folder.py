"""A folder run survives bad files, accounts for every file, and never reports an old result as a new one."""

import dataclasses
import errno
import gc
import json
import os
import threading
import weakref

import jax
import numpy as np
import pytest
from fake_segmenter import FakeSegmenter, draw, finish, start, statuses, summary, tree
from flax import nnx

import jaxseg
from jaxseg.anatomy.products import merge_masks
from jaxseg.folder_runs.account import merged_path
from jaxseg.journal import journal_of, read_document
from jaxseg.masks import cohort, write
from jaxseg.masks.results import find_masks


@pytest.fixture
def images(tmp_path):
    """Returns a folder with the images a.png to d.png."""
    for name in "abcd":
        draw(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


@pytest.fixture(scope="module")
def segmenter():
    """Returns a real segmenter: a tiny network with random weights."""
    options = {"class_names": ("a", "b", "c"), "backbone": "resnet18", "width": 4}
    model = nnx.eval_shape(lambda: jaxseg.create("cxas", **options))
    rng = np.random.default_rng(0)
    fill = lambda x: rng.uniform(-0.3 if x.ndim > 1 else 0.1, 0.3, x.shape).astype(np.float32)  # noqa: E731
    nnx.update(model, jax.tree.map(fill, nnx.state(model)))
    model.card = dataclasses.replace(model.card, input_size=(64, 64))
    return jaxseg.Segmenter(model, batch_size=2)


@pytest.mark.slow
def test_good_and_bad_files_are_all_accounted_for(segmenter, kit, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    for name in ("a.png", "UPPER.PNG", "sub/deeper/a.png", "e.png", ".hidden.png"):
        draw(source / name, size=(33, 47))
    (source / "film.dcm").write_bytes((kit.folder / "files" / "mono1_12bit.dcm").read_bytes())
    (source / "clipped.png").write_bytes((kit.folder / "files" / "gray16_range4095.png").read_bytes())
    (source / "bad.jpg").write_bytes(b"no picture")
    (source / "empty.dcm").write_bytes(b"")
    (source / "notes.txt").write_text("no image")
    run, outcomes = finish(source, output, segmenter=segmenter, recursive=True, settings={"threshold": 0.5})
    assert len(outcomes) == 7  # there are two files named a.png
    written = summary(output)
    assert written["complete"]
    assert written["jaxseg"] == jaxseg.__version__
    assert (written["products"], written["settings"]) == (["npy"], {"threshold": 0.5})
    assert written["counts"] == {"done": 6, "skipped": 0, "failed": 2, "pending": 0}
    assert statuses(output) == {
        name: "failed" if name in ("bad", "empty") else "done"
        for name in ("a", "UPPER", "sub/deeper/a", "e", "film", "clipped", "bad", "empty")
    }
    assert written["files"]["bad"]["reason"] == "bad.jpg: not a png or jpg file, or damaged"
    assert written["files"]["clipped"]["notes"][0].startswith("clipped.png: 16-bit grey values")
    assert sorted(tree(output)) == sorted(
        f"{name}.npy" for name, status in statuses(output).items() if status == "done"
    )
    for name, entry in written["files"].items():
        assert set(entry["seconds"]) == ({"read"} if entry["status"] == "failed" else {"read", "compute", "write"})
        if entry["status"] == "done":
            masks = np.load(output / f"{name}.npy")
            assert 0 < masks.mean() < 1
            np.testing.assert_array_equal(masks, segmenter(output / entry["source"]).masks)
            assert entry["outputs"]["npy"]["path"] == f"{name}.npy"
    assert run.count("failed") == 2


@pytest.mark.parametrize("output_type", [kind for kind in (*write.WRITERS, *cohort.TYPES) if kind != "dicom-seg"])
def test_a_second_run_repeats_nothing(images, tmp_path, output_type):
    output = tmp_path / "out"
    finish(images, output, output_type)
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.name != "summary.json"}
    again = FakeSegmenter()
    run, outcomes = finish(images, output, output_type, segmenter=again)
    assert outcomes == {}
    assert again.prepared == []
    assert set(statuses(output).values()) == {"skipped"}
    assert run.complete
    assert times == {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.name != "summary.json"}
    redone, outcomes = finish(images, output, output_type, overwrite=True)
    assert len(outcomes) == redone.count("done") == 4


def test_only_a_changed_image_is_redone(images, tmp_path):
    finish(images, tmp_path / "out")
    draw(images / "b.png", size=(40, 41), seed=1)
    _, outcomes = finish(images, tmp_path / "out")
    assert list(outcomes) == ["b.png"]
    assert np.load(tmp_path / "out" / "b.npy").shape == (3, 40, 41)
    old = (images / "c.png").stat()
    draw(images / "c.png", seed=2)  # the file may have the same size; its time differs
    os.utime(images / "c.png", ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    assert list(finish(images, tmp_path / "out")[1]) == ["c.png"]


def test_an_image_that_changes_during_its_segmentation_is_redone_by_the_next_run(images, tmp_path):
    class Late(FakeSegmenter):
        def predict(self, prepared):
            if not (tmp_path / "out" / "a.npy").exists():
                draw(images / "a.png", size=(50, 51))
            return super().predict(prepared)

    finish(images, tmp_path / "out", segmenter=Late())
    _, outcomes = finish(images, tmp_path / "out")
    assert list(outcomes) == ["a.png"]
    assert np.load(tmp_path / "out" / "a.npy").shape == (3, 50, 51)


def test_an_image_that_became_damaged_fails_until_it_is_good_again(images, tmp_path):
    good = (images / "a.png").read_bytes()
    finish(images, tmp_path / "out")
    (images / "a.png").write_bytes(good[:200])
    for _ in range(3):  # the old mask still exists, but it does not belong to this image
        run, outcomes = finish(images, tmp_path / "out")
        assert list(outcomes) == ["a.png"]
        assert statuses(tmp_path / "out")["a"] == "failed"
        assert run.count("failed") == 1
    (images / "a.png").write_bytes(good)
    finish(images, tmp_path / "out")
    assert statuses(tmp_path / "out")["a"] == "done"


def test_other_settings_are_refused_unless_overwriting(images, tmp_path):
    output = tmp_path / "out"
    finish(images, output, settings={"threshold": 0.5, "model": "x"})
    before = tree(tmp_path), summary(output)
    with pytest.raises(ValueError, match="made with other settings: model, threshold; name another folder, or redo"):
        finish(images, output, settings={"threshold": 0.7, "model": "y"})
    assert (tree(tmp_path), summary(output)) == before
    _, outcomes = finish(images, output, settings={"threshold": 0.7, "model": "y"}, overwrite=True)
    assert len(outcomes) == 4
    assert summary(output)["settings"] == {"threshold": 0.7, "model": "y"}


def test_results_made_with_other_settings_are_stale_until_they_are_redone(images, tmp_path):
    output, new = tmp_path / "out", {"threshold": 0.7}
    finish(images, output)
    finish(images / "a.png", output, settings=new, overwrite=True)
    assert statuses(output) == {"a": "done", "b": "stale", "c": "stale", "d": "stale"}
    _, outcomes = finish(images, output, settings=new)
    assert sorted(outcomes) == ["b.png", "c.png", "d.png"]


def test_after_an_interrupted_overwrite_no_old_result_counts_as_new(images, tmp_path):
    output, new = tmp_path / "out", {"threshold": 0.7}
    finish(images, output)
    _, _, outcomes = start(images, output, settings=new, overwrite=True, segmenter=FakeSegmenter(seconds=0.01))
    first = next(outcomes)
    outcomes.close()
    assert not summary(output)["complete"]
    assert first.item.source.name == "a.png"
    _, rest = finish(images, output, settings=new)
    assert {"c.png", "d.png"} <= rest.keys()
    assert "a.png" not in rest


def test_a_finished_image_is_known_at_once_without_a_new_summary(images, tmp_path):
    """A run that is killed after its first image leaves this; `find_masks` is the reader of other commands."""
    output = tmp_path / "out"
    _, _, outcomes = start(images, output)
    before = (output / "summary.json").read_bytes()
    for count, outcome in enumerate(outcomes, 1):
        found = [entry["status"] for entry in read_document(output / "summary.json")["files"].values()]
        assert sorted(found) == ["done"] * count + ["pending"] * (4 - count)
        assert find_masks(output, outcome.item.source) == output / f"{outcome.item.source.stem}.npy"
        assert (output / "summary.json").read_bytes() == before
    assert set(statuses(output).values()) == {"done"}
    assert not journal_of(output / "summary.json").exists()


def test_runs_on_single_files_share_a_folder(images, tmp_path):
    for name in "abcd":
        finish(images / f"{name}.png", tmp_path / "out")
    assert set(statuses(tmp_path / "out").values()) == {"done"}
    run, outcomes = finish(images, tmp_path / "out")
    assert (outcomes, run.count("skipped")) == ({}, 4)


def test_output_types_share_a_folder_but_png_and_jpg_not(images, tmp_path):
    output = tmp_path / "out"
    for output_type in ("npy", "json", "png"):
        assert len(finish(images, output, output_type)[1]) == 4
    for output_type in ("npy", "json", "png"):
        assert finish(images, output, output_type)[1] == {}
    before = tree(output)
    with pytest.raises(ValueError, match=r"a is in the way: it holds the png result"):
        finish(images, output, "jpg")
    assert tree(output) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_that_jaxseg_did_not_write_are_never_replaced(images, tmp_path, overwrite):
    output = tmp_path / "out"
    (output / "b").mkdir(parents=True)
    (output / "b" / "thesis.txt").write_text("precious")
    (output / "c.json").write_text("precious")
    before = tree(tmp_path)
    for output_type, name in (("png", "b"), ("json", "c.json")):
        with pytest.raises(ValueError, match=f"{name} is in the way"):
            finish(images, output, output_type, overwrite=overwrite)
    for content in ("{}", "[]", '{"settings": 1, "files": {}}', '{"settings": {}, "files": [1]}', "\x00", "{"):
        (output / "summary.json").write_text(content)
        with pytest.raises(ValueError, match="is not a jaxseg summary"):
            finish(images, output, "npy", overwrite=overwrite)
        assert (output / "summary.json").read_text() == content
    assert tree(tmp_path) == before


def test_an_output_folder_that_cannot_be_created_or_written_is_an_os_error(images, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match="file"):
            finish(images, output)

    def read_only(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", read_only)
    with pytest.raises(PermissionError):
        finish(images, tmp_path / "out")


def test_a_full_disk_ends_the_run_at_once_and_the_next_run_resumes(images, tmp_path, monkeypatch):
    for i in range(30):
        draw(images / f"more_{i}.png")
    tried = []

    def full(masks, base, **options):
        tried.append(base.name)
        raise OSError(errno.ENOSPC, "No space left on device", str(base))

    with monkeypatch.context() as patch:
        patch.setitem(write.WRITERS, "npy", full)
        with pytest.raises(OSError, match="No space left on device"):
            finish(images, tmp_path / "out")
    assert 0 < len(tried) < 10  # those that were being written or waited for it
    assert set(statuses(tmp_path / "out").values()) == {"pending"}
    run, _ = finish(images, tmp_path / "out")
    assert set(statuses(tmp_path / "out").values()) == {"done"}
    assert run.complete


def test_only_finished_images_go_into_the_merged_file(images, tmp_path):
    (images / "bad.png").write_text("x")
    draw(images / "in.png")
    finish(images, tmp_path / "out", "json")
    (images / "b.png").write_text("gone bad; its old masks are still there")
    fake = FakeSegmenter()
    run, jobs, outcomes = start(images, tmp_path / "out", "json", segmenter=fake)
    assert len(list(outcomes)) == 2
    path = merge_masks(jobs, run, merged_path(run, tmp_path / "in", ".json"), fake)
    assert path == tmp_path / "out" / "in_all.json"
    merged = json.loads(path.read_text())
    assert [os.path.basename(image["file_name"]) for image in merged["images"]] == ["a.png", "c.png", "d.png", "in.png"]
    assert merged_path(run, tmp_path / "summary", ".json").name == "summary_all.json"
    assert merged_path(run, tmp_path / "in", ".json") == path  # a merged file of jaxseg may be replaced
    with pytest.raises(ValueError, match="in_all.json is in the way: it was not made from"):
        merged_path(run, tmp_path / "other" / "in", ".json")
    (tmp_path / "out" / "truth.json").write_text('{"images": [], "annotations": [], "categories": []}')
    with pytest.raises(ValueError, match="truth.json is in the way"):
        merged_path(run, tmp_path / "truth", ".json")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    alive, most, lock = [0], [0], threading.RLock()

    def gone():
        with lock:
            alive[0] -= 1

    def counted(value):
        with lock:
            alive[0] += 1
            most[0] = max(most[0], alive[0])
        weakref.finalize(value, gone)
        return value

    class Counting(FakeSegmenter):
        def prepare(self, path):
            return counted(super().prepare(path))

        def predict(self, prepared):
            return [counted(masks) for masks in super().predict(prepared)]

    for i in range(200):
        draw(tmp_path / "in" / f"{i}.png", size=(8, 8))
    finish(tmp_path / "in", tmp_path / "out", segmenter=Counting(batch_size=2))
    gc.collect()
    assert alive == [0]
    # Images read ahead, then images and masks until they are written.
    assert 0 < most[0] <= (2 * 2 + 2) + 2 * (2 * 2 + 2)
