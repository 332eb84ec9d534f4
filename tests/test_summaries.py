"""The summaries of a folder are found and joined; of two entries of one file, that of the later run stays."""

import json
import os
import time

import pytest

from jaxseg import summaries


def save(folder, name: str, number: int | None, **entries) -> None:
    content = {"jaxseg": "0.1", "settings": {name: number}, "files": entries}
    content |= {} if number is None else {"run": number}
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("summary.json", True),
        ("SUMMARY.json", True),
        ("summary.1-of-2.json", True),
        ("summary.12-of-200.json", True),
        ("summary.0-of-2.json", False),
        ("summary.1-of-2", False),
        ("my.summary.json", False),
    ],
)
def test_names_of_summaries(name, expected):
    assert summaries.is_summary(name) is expected


def test_summaries_are_found_and_joined(tmp_path):
    assert summaries.summary_files(tmp_path) == []
    assert summaries.part_summaries(tmp_path / "none") == []
    save(tmp_path, "summary.10-of-10.json", 3, a={"status": "failed"})
    save(tmp_path, "summary.2-of-10.json", 2, b={"status": "done", "run": 5}, c={"status": "done"})
    save(tmp_path, "summary.json", None, a={"status": "done"}, b={"status": "done"}, c={"status": "stale"})
    names = [path.name for path in summaries.summary_files(tmp_path)]
    assert names == ["summary.json", "summary.2-of-10.json", "summary.10-of-10.json"]
    found = summaries.joined(summaries.summary_files(tmp_path))
    assert {key: (entry["status"], entry["run"]) for key, entry in found["files"].items()} == {
        "a": ("failed", 3),
        "b": ("done", 5),
        "c": ("done", 2),
    }
    assert len(found["settings"]) == 3
    assert summaries.part_numbers(tmp_path / "summary.10-of-10.json") == (10, 10)


def test_a_folder_that_did_not_change_is_listed_once(tmp_path, monkeypatch):
    save(tmp_path, "summary.1-of-1.json", 1)
    listed, real = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or real(path))
    old = time.time() - 60
    os.utime(tmp_path, (old, old))
    for _ in range(50):
        assert len(summaries.part_summaries(tmp_path)) == 1
    assert len(listed) == 1
    save(tmp_path, "summary.1-of-2.json", 1)
    assert len(summaries.part_summaries(tmp_path)) == 2


def test_a_summary_that_is_removed_while_it_is_read_is_left_out(tmp_path):
    save(tmp_path, "summary.1-of-1.json", 1)
    paths = [tmp_path / "summary.1-of-1.json", tmp_path / "summary.2-of-2.json"]
    assert len(list(summaries.read(paths))) == 1
    with pytest.raises(FileNotFoundError):
        summaries.joined(paths[1:])
