"""The stages of a pipeline: what they write, what a second call redoes, changed settings and images, and failures."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from parity_kit import KIT
from PIL import Image
from pipeline_runs import NAMES, content, invert, run, write_models, write_phantoms
from report_kit import read_page

from jaxseg.pipeline import run as pipeline_run
from jaxseg.pipeline.run import Watch
from jaxseg.post_dae import denoise

pytestmark = pytest.mark.slow

STAGES = ["segment", "restore", "measure", "compare segment", "compare restore", "report"]


@pytest.fixture(scope="module")
def inverted():
    """Makes every mask model return the inverse of its input."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoise, "_forward", invert)
        yield


@pytest.fixture(scope="module")
def original(plain, inverted, tmp_path_factory):
    """Returns a folder with phantoms, models and the results of a whole pipeline."""
    folder = write_phantoms(tmp_path_factory.mktemp("pipeline"))
    write_models(folder)
    run(folder, folder / "results")
    return folder


@pytest.fixture
def work(original, tmp_path):
    """Returns a copy of the folder, whose images have the same times."""
    return shutil.copytree(original, tmp_path / "work")


@pytest.fixture
def seen():
    """Returns a list of the stages that run, and the `watch` that fills it."""
    stages = []

    @contextlib.contextmanager
    def watch(stage):
        stages.append(stage)
        yield Watch()

    return stages, watch


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def counts(result, stage) -> tuple[int, int, int]:
    return tuple(result.stages[stage][name] for name in ("done", "skipped", "failed"))


def record(folder) -> dict:
    return json.loads((folder / "results" / "pipeline.json").read_text())


def test_every_stage_writes_its_results(original):
    out = original / "results"
    for i in range(3):
        for folder in ("masks", "restored"):
            assert {path.stem for path in (out / folder / f"p{i}").glob("*.png")} == set(NAMES)
    assert len(rows(out / "masks" / "confidence.csv")) == 9
    table = rows(out / "measurements" / "images.csv")
    assert [row["filename"] for row in table] == ["p0.png", "p1.png", "p2.png"]
    areas = [int(row["right lung_area"]) for row in table]
    for i, area in enumerate(areas):  # those of the restored masks, on the network's grid
        restored = np.asarray(Image.open(out / "restored" / f"p{i}" / "right lung.png"))
        assert abs(restored.mean() - area / 64**2) < 0.02
        kept = [np.asarray(Image.open(out / name / f"p{i}" / "heart.png")) for name in ("masks", "restored")]
        np.testing.assert_array_equal(*kept)
    for side in ("masks", "restored"):
        assert {row["class"] for row in rows(out / "comparison" / f"{side}.csv")} == set(NAMES)
    found = record(original)
    assert (found["complete"], found["redo"], found["summary"]["failed"]) == (True, [], {})


def test_the_summary_shows_what_restoring_changed(original):
    done, scores, checked = record(original)["summary"]["tables"]
    assert [row[0] for row in done["rows"]] == ["segment", "restore", "confidence", "measure", "compare", "report"]
    assert scores["header"][2:5] == ["Dice segmented", "Dice restored", "change"]
    assert [row[0] for row in scores["rows"]] == [*NAMES, "mean of the classes"]
    for _, count, before, after, change, *_ in scores["rows"][:3]:
        assert count == "3"
        assert float(change) == pytest.approx(float(after) - float(before), abs=2e-4)
    assert float(scores["rows"][2][4]) == 0  # hearts are not restored
    lungs = [row for row in rows(original / "results/comparison/masks.csv") if row["class"] == "right lung"]
    assert float(scores["rows"][0][2]) == pytest.approx(np.mean([float(row["dice"]) for row in lungs]), abs=1e-4)
    assert sum(int(row[1]) for row in checked["rows"]) == 9


def test_the_page_shows_the_summary_and_the_confidence_of_the_network(original):
    page = read_page(original / "results" / "report.html")
    assert page.about["tables"] == record(original)["summary"]["tables"]
    assert "confidence" in [kind["ending"] for kind in page.about["kinds"]]
    assert all("/restored/" in item["masks"] for item in page.records)


def test_the_list_of_masks_to_check_begins_with_the_least_sure(original):
    listed = rows(original / "results" / "review.csv")
    values = [float(row["confidence"]) for row in listed if row["confidence"]]
    assert values == sorted(values)
    known = rows(original / "results" / "masks" / "confidence.csv")
    low = {(row["filename"], row["class"]) for row in known if not row["confidence"] or float(row["confidence"]) < 0.6}
    assert {(row["filename"], row["class"]) for row in listed if "below" in row["reason"]} <= low
    assert low <= {(row["filename"], row["class"]) for row in listed}
    assert listed


def test_a_second_call_does_nothing(work, seen):
    stages, watch = seen
    run(work, work / "results", watch=watch)
    stages.clear()
    before = {path: path.stat().st_mtime_ns for path in (work / "results").rglob("*.[ph][nt][gm]*")}
    result = run(work, work / "results", watch=watch)
    assert [counts(result, stage) for stage in STAGES[:3]] == [(0, 3, 0)] * 3
    assert stages == STAGES[:3]
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_changed_image_and_a_new_one_are_processed_and_what_depends_on_them(work, seen):
    stages, watch = seen
    run(work, work / "results")
    image = np.asarray(Image.open(work / "images" / "p1.png"))
    Image.fromarray(255 - image).save(work / "images" / "p1.png")
    Image.fromarray(np.fliplr(image)).save(work / "images" / "p9.png")
    result = run(work, work / "results", watch=watch)
    assert [counts(result, stage) for stage in STAGES[:3]] == [(2, 2, 0)] * 3
    assert stages == STAGES
    assert result.stages["compare segment"] == {"images": 3, "failed": {}, "images_without": 1}
    assert "1 with masks on one side only" in str(result.tables[0].rows)


def test_a_changed_true_mask_repeats_only_the_comparison_and_the_page(work, seen):
    stages, watch = seen
    run(work, work / "results")
    path = work / "truth" / "p0" / "heart.png"
    Image.fromarray(~np.asarray(Image.open(path))).save(path)
    result = run(work, work / "results", watch=watch)
    assert [counts(result, stage) for stage in STAGES[:3]] == [(0, 3, 0)] * 3
    assert stages == STAGES


def test_a_changed_title_repeats_only_the_page(work, seen):
    stages, watch = seen
    run(work, work / "results")
    run(work, work / "results", watch=watch, report={"title": "Another"})
    assert stages == [*STAGES[:3], "report"]
    assert read_page(work / "results" / "report.html").about["title"] == "Another"


def test_changed_settings_are_refused_and_redone_on_request(work):
    before = content(work / "results")
    changed = {"segment": {"threshold": 0.4}}
    message = r"other settings \(segment: threshold; restore: threshold\)"
    with pytest.raises(ValueError, match=message):
        run(work, work / "results", **changed)
    assert content(work / "results") == before
    result = run(work, work / "results", overwrite=True, **changed)
    assert [counts(result, stage) for stage in STAGES[:3]] == [(3, 0, 0)] * 3
    assert content(work / "results") != before
    assert counts(run(work, work / "results", **changed), "restore") == (0, 3, 0)


def test_a_changed_format_of_the_masks_is_refused_and_redone_on_request(work):
    before, changed = content(work / "results"), {"segment": {"output_type": "npz", "preview": True}}
    message = r"\(segment: output_type, preview; restore: output_type, preview\)"
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            run(work, work / "results", **changed)
    assert content(work / "results") == before
    with pytest.raises(ValueError, match=r"\(segment: preview, threshold; restore: preview, threshold\)"):
        run(work, work / "results", segment={"preview": True, "threshold": 0.4})
    result = run(work, work / "results", overwrite=True, **changed)
    assert [counts(result, stage) for stage in STAGES[:3]] == [(3, 0, 0)] * 3
    assert (work / "results" / "restored" / "p0.npz").is_file()
    assert counts(run(work, work / "results", **changed), "restore") == (0, 3, 0)


def test_only_the_changed_stage_and_those_after_it_are_redone(work):
    changed = {"restore": {"largest_component": 1}, "confidence": {"shape_check": False}}
    with pytest.raises(ValueError, match=r"segment: shape_check; restore: denoise"):
        run(work, work / "results", **changed)
    changed = {"restore": {"threshold": 0.9}, "confidence": None}
    with pytest.raises(ValueError, match=r"\(restore: denoise\)"):
        run(work, work / "results", **changed)
    result = run(work, work / "results", overwrite=True, **changed)
    assert [counts(result, stage) for stage in STAGES[:3]] == [(0, 3, 0), (3, 0, 0), (3, 0, 0)]


def test_without_a_change_everything_is_redone(work):
    result = run(work, work / "results", overwrite=True)
    assert [counts(result, stage) for stage in STAGES[:3]] == [(3, 0, 0)] * 3


def test_an_interrupted_redo_continues_without_being_asked_again(work):
    changed = {"segment": {"threshold": 0.4}}

    @contextlib.contextmanager
    def watch(stage):
        if stage == "restore":
            raise KeyboardInterrupt
        yield Watch()

    with pytest.raises(KeyboardInterrupt):
        run(work, work / "results", overwrite=True, watch=watch, **changed)
    assert record(work)["redo"] == ["restore", "measure"]
    result = run(work, work / "results", **changed)
    assert [counts(result, stage) for stage in STAGES[:3]] == [(0, 3, 0), (3, 0, 0), (3, 0, 0)]
    assert record(work)["redo"] == []


def test_images_that_fail_are_listed_and_the_others_are_processed(work):
    (work / "images" / "bad.png").write_bytes(b"not an image")
    result = run(work, work / "results")
    assert [*result.failed] == ["bad.png"]
    assert result.failed["bad.png"].startswith("segment: ")
    assert [counts(result, stage) for stage in STAGES[:2]] == [(0, 3, 1), (0, 3, 0)]
    assert "3 images, 1 failed" in result.tables[0].rows[0][1]
    for image in (work / "images").glob("p*.png"):
        image.unlink()
    with pytest.raises(ValueError, match="no image could be processed; the first, bad.png: segment: "):
        run(work, work / "other", compare=None)


def test_earlier_masks_of_an_image_that_fails_now_are_not_scored(work):
    (work / "images" / "p1.png").write_bytes(b"not an image")
    result = run(work, work / "results")
    for side in ("masks", "restored"):
        assert {row["image"] for row in rows(work / "results" / "comparison" / f"{side}.csv")} == {"p0", "p2"}
    assert "2 images with true masks, 1 with masks on one side only" in str(result.tables[0].rows)


def test_masks_of_earlier_weights_in_another_format_are_not_scored(work):
    changed = {"restore": None, "confidence": None, "measure": None, "report": None}
    run(work, work / "other", **changed | {"segment": {"output_type": "npz", "threshold": 0.9999}})
    run(work, work / "other", overwrite=True, **changed)
    expected = (work / "results" / "comparison" / "masks.csv").read_text()
    assert (work / "other" / "comparison" / "masks.csv").read_text() == expected


def test_with_too_many_images_those_with_masks_to_check_are_shown(original, tmp_path, monkeypatch):
    """Under any name: those that are equal without their suffix, and those that end like a suffix."""
    (tmp_path / "images").mkdir()
    for i, name in enumerate(("1.2.840.10008", "a.jpg", "a.png")):
        Image.open(original / "images" / f"p{i}.png").save(tmp_path / "images" / name, "JPEG" if "j" in name else "PNG")
    for doubtful in ("a_png", "a_jpg", "1.2.840.10008"):

        def read(path, doubtful=doubtful):
            sure = 0.1 if path.name.startswith(doubtful) else 0.9
            return path.name, [{"class": "heart", "pixels": 9, "confidence": sure}]

        monkeypatch.setattr(pipeline_run, "read_confidence", read)
        changed = {"segment": {"weights": str(original / "network")}, "confidence": {"shape_check": False}}
        left = dict.fromkeys(("restore", "measure", "compare"))
        result = run(tmp_path, tmp_path / "out", **changed, **left, report={"most": 1})
        assert result.stages["confidence"] == {"masks": 3, "to_check": 1}
        (shown,) = read_page(result.report).records
        assert shown["name"].replace(".", "_") == doubtful.replace(".", "_")


def test_results_of_another_input_or_origin_are_refused(original, work):
    with pytest.raises(ValueError, match="holds results of another input; name another folder"):
        run(original, work / "results")
    (work / "results" / "pipeline.json").write_text("{}")
    with pytest.raises(ValueError, match="is not the record of a pipeline"):
        run(work, work / "results")
    (work / "results" / "pipeline.json").unlink()
    (work / "results" / "report.html").write_text("my page")
    with pytest.raises(ValueError, match="report.html is not a jaxseg report"):
        run(work, work / "results")


def test_stages_without_a_section_are_left_out(original, tmp_path, seen):
    stages, watch = seen
    left = dict.fromkeys(("restore", "confidence", "measure", "compare", "report"))
    result = run(original, tmp_path / "out", watch=watch, **left)
    assert (stages, result.report) == (["segment"], None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks", "pipeline.json"]


def test_a_pipeline_that_is_killed_at_any_moment_continues(original, tmp_path):
    """Every process kills itself one result later than the one before, until one reaches the end."""
    run(original, tmp_path / "expected")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command, codes = [sys.executable, str(KIT / "pipeline_runs.py")], []
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as server:
        while not codes or codes[-1] == -signal.SIGKILL:
            line = [str(original), str(tmp_path / "killed"), 1 + len(codes), False, {}]
            server.stdin.write(json.dumps(line) + "\n")
            server.stdin.flush()
            codes.append(int(server.stdout.readline()))
        server.stdin.close()
    assert codes[-1] == 0
    assert len(codes) > 5
    assert content(tmp_path / "killed") == content(tmp_path / "expected")
