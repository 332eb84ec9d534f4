"""Parts together equal a run without parts, and a merge finds what is missing or double."""

import json
import os
import shutil

import numpy as np
import pytest
from fake_segmenter import draw, finish, statuses, summary, tree
from part_runs import contents, killed_part, part_files, run_part

from jaxseg.folder_runs.inputs import find_images, plan
from jaxseg.folder_runs.merge import merge_folder
from jaxseg.folder_runs.parts import Part, locked
from jaxseg.journal import journal_of
from jaxseg.masks import cohort, lines
from jaxseg.masks.read import read_masks
from jaxseg.masks.results import find_masks, read_summary
from jaxseg.report.reading import read_run


@pytest.fixture
def images(tmp_path):
    """Returns a folder with 12 images in two folders."""
    for number in range(12):
        draw(tmp_path / "in" / f"p{number % 2}" / f"{number}.png")
    return tmp_path / "in"


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out"


def comparable(folder) -> dict:
    """Returns a summary without what differs between equal runs."""
    content = summary(folder)
    for entry in content["files"].values():
        entry.pop("seconds", None)
    for name in ("run", "merged_from"):
        content.pop(name, None)
    return content


@pytest.mark.parametrize("output_type", ["npy", "png", "json"])
def test_merged_parts_equal_a_run_without_parts(images, output, tmp_path, output_type):
    (images / "p0" / "bad.png").write_bytes(b"no picture")
    read = [run_part(images, output, f"{index}/3", output_type)[0] for index in (2, 1, 3)]
    assert sorted(sum(read, [])) == sorted(path.name for path in find_images(images, recursive=True))
    assert part_files(output) == sorted(
        [f"{name}.{index}-of-3.{end}" for index in (1, 2, 3) for name, end in (("run", "log"), ("summary", "json"))]
    )
    found = merge_folder(output)
    assert (found.parts, found.done, found.failed, found.problems) == (3, 12, 1, ())
    run_part(images, tmp_path / "whole", None, output_type)
    assert tree(output) == tree(tmp_path / "whole")
    assert comparable(output) == comparable(tmp_path / "whole")
    assert part_files(output) == []
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("output_type", cohort.TYPES)
def test_files_with_all_masks_are_joined(images, output, tmp_path, output_type):
    run_part(images, output, "1/2", output_type)
    draw(images / "p0" / "6.png", seed=1)  # it has changed, so that two files hold its masks
    processed = sum((run_part(images, output, f"{index}/3", output_type)[0] for index in (1, 2, 3)), [])
    assert len(processed) == 12 - 5 + 1
    before = {path: read_masks(find_masks(output, path), image=path) for path in find_images(images, recursive=True)}
    found = merge_folder(output)
    assert (found.done, found.problems) == (12, ())
    assert [path.name for path in found.merged] == [cohort.file_name(output_type), "summary.json"]
    assert sorted(contents(output)) == [cohort.file_name(output_type), "summary.json"]
    run_part(images, tmp_path / "whole", None, output_type)
    assert len(before) == 12
    for image, earlier in before.items():
        for folder in (output, tmp_path / "whole"):
            again = read_masks(find_masks(folder, image), image=image)
            np.testing.assert_array_equal(again.masks, earlier.masks)
    for part in (None, "1/2"):
        assert run_part(images, output, part, output_type)[0] == []


@pytest.mark.parametrize("output_type", cohort.TYPES)
def test_a_run_without_any_masks_is_merged(tmp_path, output, output_type):
    bad = tmp_path / "in" / "bad.png"
    bad.parent.mkdir()
    bad.write_bytes(b"no picture")
    for part in ("1/2", "2/2"):
        run_part(bad.parent, output, part, output_type)
    found = merge_folder(output)
    assert (found.failed, found.merged, found.problems) == (1, (output / "summary.json",), ())
    assert list(contents(output)) == ["summary.json"]
    assert summary(output)["files"]["bad"]["outputs"][output_type]["path"] == cohort.file_name(output_type)


@pytest.mark.parametrize("output_type", cohort.TYPES)
def test_the_summaries_and_not_the_times_of_files_say_which_masks_are_valid(images, output, output_type):
    run_part(images, output, "1/2", output_type)
    image = next(path for path in find_images(images, recursive=True) if Part(1, 2).holds(_name(path, images)))
    draw(image, seed=1)
    for index in (1, 2, 3):
        run_part(images, output, f"{index}/3", output_type)
    wanted = read_masks(find_masks(output, image), image=image).masks
    os.utime(output / cohort.file_name(output_type, "1-of-2"))  # such as after a copy
    merge_folder(output)
    np.testing.assert_array_equal(read_masks(find_masks(output, image), image=image).masks, wanted)


@pytest.fixture
def read(monkeypatch):
    """Returns the set of names of the files of COCO lines that were read, which grows."""
    names, real = set(), lines.read_index

    def read_index(path):
        names.add(path.name)
        return real(path)

    monkeypatch.setattr(lines, "read_index", read_index)
    return names


def test_a_part_reads_only_the_files_that_hold_masks_of_its_images(images, output, read):
    run_part(images, output, "1/2", "coco-lines")
    read.clear()
    run_part(images, output, "2/2", "coco-lines")
    assert read == {"masks.2-of-2.jsonl"}
    read.clear()
    processed, result = run_part(images, output, "2/3", "coco-lines")  # 2/2 had all of its images
    assert (processed, result.skipped) == ([], 3)
    assert read == {"masks.2-of-2.jsonl", "masks.2-of-3.jsonl"}
    assert {path.name for each in result for path in each.outputs.values()} == {"masks.2-of-2.jsonl"}


@pytest.mark.parametrize("merges", [True, False])
def test_a_table_never_takes_the_name_of_the_file_with_the_masks(images, output, tmp_path, merges):
    images = images.rename(tmp_path / "masks")
    for part in ("1/2", "2/2"):
        run_part(images, output, part, "parquet", table=True)
    found = merge_folder(output) if merges else run_part(images, output, None, "parquet", table=True)[1]
    assert [path.name for path in found.merged][:2] == ["masks_all.parquet", "masks.parquet"]
    assert len(cohort.image_names(output / "masks.parquet")) == 12


def test_a_second_merge_says_that_there_is_nothing_to_do(images, output, tmp_path):
    with pytest.raises(ValueError, match="is not a folder of results"):
        merge_folder(output)
    run_part(images, output, "1/1")
    assert merge_folder(output).parts == 1
    before = contents(output)
    found = merge_folder(output)
    assert (found.parts, found.merged, found.problems) == (0, (), ())
    assert contents(output) == before
    tmp_path.joinpath("empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no results of jaxseg"):
        merge_folder(tmp_path / "empty")


def test_parts_resume_with_another_count(images, output):
    first, _ = run_part(images, output, "1/2")
    rest = [run_part(images, output, f"{index}/3") for index in (1, 2, 3)]
    assert sorted(first + sum((read for read, _ in rest), [])) == sorted(f"{number}.png" for number in range(12))
    assert sum(result.skipped for _, result in rest) == len(first) > 0
    assert run_part(images, output, "2/2")[0] == []
    assert sum(len(run_part(images, output, f"{index}/5")[0]) for index in range(1, 6)) == 0
    assert merge_folder(output).done == 12
    assert {name.split(".")[0] for name in part_files(output)} == set()
    assert run_part(images, output)[0] == []
    assert run_part(images, output, "1/2")[0] == []  # after the merge, too


def test_a_killed_part_resumes_with_another_count_and_loses_nothing(images, output):
    killed_part(images, output, "1/1", 5)
    done = [path.stem for path in output.rglob("[!.]*.npy")]
    assert journal_of(output / "summary.1-of-1.json").is_file()
    assert "7 files are not processed yet; run it again" in merge_folder(output).problems[0]
    read = sum((run_part(images, output, f"{index}/4")[0] for index in (1, 2, 3, 4)), [])
    assert len(read) == len(set(read)) == 12 - len(done)
    assert merge_folder(output).problems == ()
    assert set(statuses(output).values()) <= {"done", "skipped"}


@pytest.mark.parametrize("output_type", ["npy", "json", *cohort.TYPES])
def test_a_run_without_parts_continues_parts_and_replaces_them(images, output, tmp_path, output_type):
    first, _ = run_part(images, output, "1/2", output_type)
    killed_part(images, output, "2/2", 2, output_type)
    draw(images / "new.png")
    (images / "p0" / "0.png").unlink()
    second, result = run_part(images, output, None, output_type)
    assert "new.png" in second
    assert not {*first} & {*second}
    assert result.done + result.skipped == len(result.files) == 12
    assert all(path.exists() for each in result for path in each.outputs.values())
    assert part_files(output) == []
    before = contents(output)
    assert merge_folder(output).parts == 0
    assert contents(output) == before
    run_part(images, tmp_path / "whole", None, output_type)
    for image in find_images(images, recursive=True):
        found, wanted = (read_masks(find_masks(folder, image), image=image) for folder in (output, tmp_path / "whole"))
        np.testing.assert_array_equal(found.masks, wanted.masks)
    if output_type == "json":
        assert (output / "in.json").read_bytes() == (tmp_path / "whole" / "in.json").read_bytes()


@pytest.mark.parametrize("output_type", cohort.TYPES)
@pytest.mark.parametrize("killed", ["1/1", None])
def test_the_masks_of_a_killed_run_are_not_made_again_by_parts(images, output, killed, output_type):
    killed_part(images, output, killed, 5, output_type)
    name = cohort.file_name(output_type, "1-of-1" if killed else None)
    (left,) = (path for path in output.iterdir() if path in (output / name, journal_of(output / name)))
    assert left.name.startswith(".") == (output_type == "parquet")
    count = len(cohort.image_names(left))
    processed = sum((run_part(images, output, f"{index}/3", output_type)[0] for index in (1, 2, 3)), [])
    assert len(processed) == 12 - count
    found = merge_folder(output)
    assert (found.done, found.problems) == (12, ())
    assert sorted(contents(output)) == [cohort.file_name(output_type), "summary.json"]
    assert len(cohort.image_names(output / cohort.file_name(output_type))) == 12


def test_a_run_over_other_images_or_of_other_results_leaves_parts_to_be_merged(images, output):
    run_part(images, output, "1/2", "json")
    run_part(images, output, None, "npy")
    run_part(images, output, None, "json", files=find_images(images, recursive=True)[:3])
    run_part(images, output, "2/2", "json")
    found = merge_folder(output)
    assert (found.parts, found.done, found.problems) == (2, 12, ())
    assert len(json.loads((output / "in.json").read_text())["images"]) == 12


def test_a_missing_part_changes_nothing_until_it_was_run(images, output):
    run_part(images, output, "1/3", "json")
    run_part(images, output, "3/3", "json")
    before = contents(output)
    found = merge_folder(output)
    assert found.problems == ("part 2 of 3: no summary; run it",)
    assert found.merged == ()
    assert contents(output) == before
    partial = merge_folder(output, partial=True)
    assert partial.problems == found.problems
    assert [path.name for path in partial.merged] == ["in.json", "summary.json"]
    assert not summary(output)["complete"]
    listed = json.loads((output / "in.json").read_text())["images"]
    assert 0 < len(listed) == partial.done < 12
    assert len(part_files(output)) == 4
    run_part(images, output, "2/3", "json")
    assert merge_folder(output).problems == ()
    assert len(json.loads((output / "in.json").read_text())["images"]) == 12


def test_lost_results_are_found(images, output):
    for part in ("1/2", "2/2"):
        run_part(images, output, part)
    (output / "p1" / "3.npy").unlink()
    (output / "p0" / "2.npy").write_bytes(b"short")
    (problem,) = merge_folder(output).problems
    assert problem == "results are missing or incomplete: p0/2.npy, p1/3.npy; run the parts again"
    for part in ("1/2", "2/2"):
        run_part(images, output, part)
    assert merge_folder(output).problems == ()


@pytest.mark.parametrize("output_type", cohort.TYPES)
def test_a_file_that_lost_the_masks_of_images_is_found(images, output, output_type):
    for part in ("1/2", "2/2"):
        run_part(images, output, part, output_type)
    first, second = (output / cohort.file_name(output_type, f"{index}-of-2") for index in (1, 2))
    holders = dict.fromkeys(cohort.image_names(first), first)
    assert len(holders) == 5
    cohort.join(dict(list(holders.items())[2:]), first)
    second.write_bytes(b"damaged")
    (problem,) = merge_folder(output).problems
    assert problem == f"results are missing or incomplete: {second.name}, {first.name}; run the parts again"
    made = sum(run_part(images, output, part, output_type)[1].done for part in ("1/2", "2/2"))
    assert made == 2 + 7
    assert merge_folder(output).problems == ()
    assert len(cohort.image_names(output / cohort.file_name(output_type))) == 12


def test_files_in_two_parts_are_found(images, output):
    for part in ("1/2", "2/2"):
        run_part(images, output, part)
    paths = [output / f"summary.{index}-of-2.json" for index in (1, 2)]
    first, second = (json.loads(path.read_text()) for path in paths)
    key = next(iter(first["files"]))
    second["files"][key] = first["files"][key] | {"run": second["run"]}
    paths[1].write_text(json.dumps(second))
    problems = merge_folder(output).problems
    assert problems[0] == f"{key}: in more than one part (1, 2 of 2)"


def test_parts_of_different_inputs_are_found(images, output):
    run_part(images, output, "1/2")
    draw(images / "new.png")
    run_part(images, output, "2/2")
    (problem,) = merge_folder(output).problems
    assert problem == (
        "the parts found different files in the input: 12 by part 1 of 2; 13 by part 2 of 2; run all parts again"
    )


def test_parts_have_the_same_settings(images, output):
    run_part(images, output, "1/2")
    for part, overwrite in (("2/2", False), ("1/3", True), ("1/2", True)):
        with pytest.raises(ValueError, match="made with other settings: threshold; name another folder for the parts"):
            run_part(images, output, part, settings={"threshold": 0.7}, overwrite=overwrite)
    with pytest.raises(ValueError, match="other settings: threshold"):
        run_part(images, output, settings={"threshold": 0.7})
    run_part(images, output, settings={"threshold": 0.7}, overwrite=True)  # replaces everything
    assert part_files(output) == []
    assert set(statuses(output).values()) == {"done"}


def test_the_entry_of_the_latest_run_is_the_valid_one(images, output):
    for part in ("1/2", "2/2"):
        run_part(images, output, part)
    changed = images / "p0" / "4.png"
    changed.write_bytes(b"no picture any more")
    for index in (1, 2, 3):
        run_part(images, output, f"{index}/3")
    assert read_summary(output).by_source[str(changed.resolve())]["status"] == "failed"
    found = merge_folder(output)
    assert (found.done, found.failed, found.problems) == (11, 1, ())
    assert statuses(output)["p0/4"] == "failed"


def test_results_of_parts_are_found_before_the_merge(images, output):
    run_part(images, output, "1/2")
    image = next(path for path in find_images(images, recursive=True) if Part(1, 2).holds(_name(path, images)))
    masks = find_masks(output, image)
    assert np.load(masks).shape[0] == 3
    assert read_summary(output).paths >= {masks.relative_to(output).as_posix()}
    run_part(images, output, "2/2")
    assert len(read_summary(output).by_source) == 12
    assert read_run(output)[0]["jaxseg"]
    with pytest.raises(ValueError, match="is a result of jaxseg"):
        find_images(masks)


def _name(path, root) -> str:
    return path.relative_to(root).as_posix()


def test_results_among_the_images_are_no_images(images):
    inside = images / "results"
    for part in ("1/2", "2/2"):
        run_part(images, inside, part, "png")
    assert len(find_images(images, recursive=True)) == 12


def test_images_with_the_names_of_summaries_of_parts_replace_nothing(tmp_path):
    draw(tmp_path / "in" / "summary.1-of-1.png")
    run_part(tmp_path / "in", tmp_path / "out", "1/1", "json")
    assert merge_folder(tmp_path / "out").done == 1
    assert list(summary(tmp_path / "out")["files"]) == ["summary.1-of-1_png"]


def test_a_part_logs_each_file_and_a_run_without_parts_nothing(images, output):
    (images / "p1" / "bad.png").write_bytes(b"no picture")
    for part in ("1/2", "2/2"):
        run_part(images, output, part)
    lines = [line.split("\t") for path in sorted(output.glob("run.*.log")) for line in path.read_text().splitlines()]
    assert sorted(line[3] for line in lines) == sorted(
        _name(path, images) for path in find_images(images, recursive=True)
    )
    assert {line[1] for line in lines} == {"done", "failed"}
    assert all(float(line[2]) >= 0 for line in lines)
    (failed,) = (line for line in lines if line[1] == "failed")
    assert failed[3:] == ["p1/bad.png", "bad.png: not a png or jpg file, or damaged"]
    finish(images, output.with_name("other"), recursive=True)
    assert not list(output.with_name("other").glob("*.log"))


def test_a_merge_waits_for_running_parts(images, output):
    run_part(images, output, "1/1")
    with locked(output / "summary.json", Part(1, 1)), pytest.raises(ValueError, match="another run is writing into"):
        merge_folder(output)


def test_a_damaged_summary_of_a_part_is_named(images, output):
    for part in ("1/2", "2/2"):
        run_part(images, output, part)
    (output / "summary.2-of-2.json").write_text('{"jaxseg": 1')
    with pytest.raises(ValueError, match=r"summary.2-of-2.json is not a jaxseg summary, or is damaged; remove it"):
        merge_folder(output)
    with pytest.raises(ValueError, match=r"summary.2-of-2.json is not a jaxseg summary"):
        run_part(images, output, "1/2")


def test_parts_can_be_empty(tmp_path):
    draw(tmp_path / "in" / "a.png")
    read = [run_part(tmp_path / "in", tmp_path / "out", f"{index}/4")[0] for index in (1, 2, 3, 4)]
    assert sorted(map(len, read)) == [0, 0, 0, 1]
    assert merge_folder(tmp_path / "out").done == 1


def test_listed_files_lie_anywhere_and_may_be_missing(images, output, tmp_path):
    other = draw(tmp_path / "elsewhere" / "0.png")
    files = [images / "p0" / "0.png", other, images / "p1" / "none.png"]
    jobs = plan(files, images, output)
    inside = "/".join(other.with_suffix("").parts[1:])
    assert [job.base.relative_to(output).as_posix() for job in jobs] == ["p0/0", inside, "p1/none"]
    assert [job.name for job in jobs] == ["p0/0.png", other.as_posix(), "p1/none.png"]
    for part in ("1/2", "2/2"):
        run_part(images, output, part, "json", files=files)
    found = merge_folder(output)
    assert (found.done, found.failed, found.problems) == (2, 1, ())
    assert "No such file or directory" in summary(output)["files"]["p1/none"]["reason"]


def test_a_copied_folder_is_merged_elsewhere(images, output, tmp_path):
    for part in ("1/2", "2/2"):
        run_part(images, output, part, "json")
    (tmp_path / "there").mkdir()
    shutil.copytree(output, tmp_path / "there" / "out")
    found = merge_folder(tmp_path / "there" / "out")  # the input is not there
    assert found.problems == ()
    assert (tmp_path / "there" / "out" / "in.json").is_file()
