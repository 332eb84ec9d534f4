"""A ledger stores entries, settings and facts in one file, and detects changed settings."""

import json

import pytest

from jaxseg.folder_runs.ledger import Ledger


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
    with pytest.raises(ValueError, match="holds results made with another threshold; name another folder"):
        ledger.refuse_changed_settings(overwrite=False)
    ledger.refuse_changed_settings(overwrite=True)
    assert ledger.settings == {"threshold": 0.4, "seed": 1}


@pytest.mark.parametrize("content", ["{}", "[]", '{"settings": 1, "files": {}}', '{"settings": {}, "files": [1]}', "{"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="summary.json is not a jaxseg summary"):
        Ledger(path, {})
    assert path.read_text() == content
