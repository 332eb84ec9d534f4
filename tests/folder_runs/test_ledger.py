"""A ledger stores entries, settings and facts on disk during a run, and detects changed settings."""

import json
import os
import sys

import pytest

from jaxseg.folder_runs.ledger import Kind, Ledger
from jaxseg.journal import append, journal_of, line_at, read_document

SCORES = Kind("jaxseg_test", "case", "is not a journal of this test")


def test_entries_settings_and_facts_are_read_back(tmp_path):
    path = tmp_path / "summary.json"
    ledger = Ledger(path, {"threshold": 0.5})
    assert (ledger.entries, ledger.changed) == ({}, [])
    ledger.record("a", {"status": "done"})
    ledger.write(complete=False)
    again = Ledger(path, {"organ": "liver"})
    assert again.entries == {"a": {"status": "done"}}
    assert again.settings == {"threshold": 0.5, "organ": "liver"}
    assert again.facts["complete"] is False
    again.write(complete=True)
    content = json.loads(path.read_text())
    assert list(content)[0] == "jaxseg"
    assert content["complete"] is True
    assert content["files"] == {"a": {"status": "done"}}


def test_changed_settings_are_refused_unless_results_may_be_replaced(tmp_path):
    path = tmp_path / "summary.json"
    Ledger(path, {"threshold": 0.5, "seed": 1}).write()
    ledger = Ledger(path, {"threshold": 0.4, "seed": 1})
    assert ledger.changed == ["threshold"]
    with pytest.raises(ValueError, match="holds results made with other settings: threshold; name another folder"):
        ledger.refuse_changed_settings(overwrite=False)
    ledger.refuse_changed_settings(overwrite=True)
    assert ledger.settings == {"threshold": 0.4, "seed": 1}


DEEP = "[" * 50_000
OTHERS = ["{}", "[]", '{"settings": 1, "files": {}}', '{"settings": {}, "files": [1]}', "{", DEEP, '{"a": ' + DEEP]


@pytest.mark.parametrize("content", OTHERS)
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="summary.json is not a jaxseg summary"):
        Ledger(path, {})
    assert path.read_text() == content


def test_a_journal_that_is_nested_too_deeply_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(DEEP + "\n")
    with pytest.raises(ValueError, match="a.jsonl is not a jaxseg summary"):
        Ledger(path, {})


def test_a_document_that_can_be_read_but_not_written_again_is_refused(tmp_path):
    path = tmp_path / "summary.json"
    depth = sys.getrecursionlimit() - 250
    content = '{"settings": {}, "files": {}, "x": ' + "[" * depth + "]" * depth + "}"
    path.write_text(content)
    try:
        Ledger(path, {}).write()
    except ValueError as error:
        assert "summary.json is not a jaxseg summary" in str(error)  # noqa: PT017 -- the limit depends on Python
        assert path.read_text() == content


def test_recorded_entries_are_on_disk_before_the_document_is_written_again(tmp_path):
    path = tmp_path / "summary.json"
    ledger = Ledger(path, {"seed": 1})
    ledger.record("a", {"status": "done"})
    assert not path.exists()
    for _ in range(2):  # without a document, then with one
        document = path.read_bytes() if path.exists() else b""
        ledger.record("b", {"status": "done"})
        ledger.record("b", {"status": "failed"})
        again = Ledger(path, {})
        assert again.entries == {"a": {"status": "done"}, "b": {"status": "failed"}}
        assert again.settings == {"seed": 1}
        assert read_document(path)["files"] == again.entries
        assert (path.read_bytes() if path.exists() else b"") == document
        ledger.write(complete=True)
        assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
        assert json.loads(path.read_text())["files"] == again.entries


def test_the_journal_of_an_earlier_document_is_ignored(tmp_path):
    """A process can be killed after it has written the document, and before it has removed the journal."""
    path = tmp_path / "summary.json"
    ledger = Ledger(path, {"threshold": 0.5})
    ledger.write()
    ledger.record("a", {"status": "done"})
    old = journal_of(path).read_bytes()
    changed = Ledger(path, {"threshold": 0.7})
    changed.entries = {"a": {"status": "stale"}}
    changed.write()
    journal_of(path).write_bytes(old)
    assert Ledger(path, {}).entries == {"a": {"status": "stale"}}
    changed.record("b", {"status": "done"})
    assert Ledger(path, {}).entries == {"a": {"status": "stale"}, "b": {"status": "done"}}


@pytest.mark.parametrize("name", ["summary.json", "scores.jsonl"])
@pytest.mark.parametrize("kept", [1, 5, 25])
def test_an_incomplete_last_line_is_ignored_and_removed_by_the_next(tmp_path, name, kept):
    path = tmp_path / name
    ledger = Ledger(path, {}, kind=SCORES)
    ledger.write()
    for key in "ab":
        ledger.record(key, {"value": key * 40})
    journal = journal_of(path) if ledger.is_document else path
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-kept])
    if not ledger.is_document:  # a document's journal is continued only by the process that started it
        again = Ledger(path, {}, kind=SCORES)
        assert again.entries == {"a": {"value": "a" * 40}}
        again.record("b", {"value": "b" * 40})
        assert path.read_bytes() == whole
    else:
        append(journal, {"file": "c"})
        assert journal.read_text().splitlines()[1:] == [whole.decode().splitlines()[1], '{"file": "c"}']


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "scores.jsonl", {}, kind=SCORES)
    ledger.write()
    before = ledger.path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        ledger.record("a", {"value": 1})
    monkeypatch.undo()
    assert ledger.path.read_bytes() == before
    assert ledger.entries == {}
    ledger.record("b", {"value": 2})
    assert Ledger(ledger.path, {}, kind=SCORES).entries == {"b": {"value": 2}}


def test_a_journal_without_a_document_keeps_one_line_per_key_when_it_is_written_again(tmp_path):
    path = tmp_path / "scores.jsonl"
    ledger = Ledger(path, {"slices": 3}, kind=SCORES)
    ledger.write()
    for value in range(3):
        ledger.record("a", {"value": value})
    assert len(path.read_text().splitlines()) == 4
    ledger.write()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"jaxseg_test": 1, "settings": {"slices": 3}},
        {"case": "a", "value": 2},
    ]
    assert Ledger(path, {"slices": 4, "size": 9}, kind=SCORES).changed == ["size", "slices"]
    with pytest.raises(ValueError, match="scores.jsonl is not a journal of another test"):
        Ledger(path, {}, kind=Kind("jaxseg_other", foreign="is not a journal of another test"))


def test_facts_and_places_of_a_journal_are_read_back(tmp_path):
    path = tmp_path / "scores.jsonl"
    ledger = Ledger(path, {}, kind=SCORES)
    ledger.write()
    ledger.note(complete=False, columns=["a"])
    for value in range(3):
        ledger.record("a", {"value": value})
    ledger.note(complete=True)
    again = Ledger(path, {}, kind=SCORES)
    assert again.facts == ledger.facts == {"complete": True, "columns": ["a"]}
    assert again.places == ledger.places
    assert line_at(path, again.places["a"]) == {"case": "a", "value": 2}
    again.write()
    assert Ledger(path, {}, kind=SCORES).facts == again.facts


def test_entries_and_settings_of_other_summaries_are_joined(tmp_path):
    for name, number, value in (("summary.1-of-2.json", 2, "new"), ("summary.2-of-2.json", 1, "old")):
        ledger = Ledger(tmp_path / name, {"seed": 1, name: number})
        ledger.entries = {"a": {"value": value}, name: {"value": value}}
        ledger.write(run=number)
    paths = sorted(tmp_path.glob("summary.*"))
    ledger = Ledger(tmp_path / "summary.json", {"seed": 2})
    assert ledger.join(paths, wanted=lambda key, entry: key != "summary.1-of-2.json") == 2
    assert {key: entry["value"] for key, entry in ledger.entries.items()} == {"a": "new", "summary.2-of-2.json": "old"}
    assert ledger.changed == ["seed"]
    assert ledger.settings == {"seed": 2, "summary.1-of-2.json": 2, "summary.2-of-2.json": 1}
