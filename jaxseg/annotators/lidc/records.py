"""Records of a LIDC set: its finished patients in meta/patients.jsonl, and its settings in meta/summary.json."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxseg.annotators.lidc.crops import Settings
from jaxseg.datasets.dataset_summary import read_summary
from jaxseg.files import atomic_file
from jaxseg.folder_runs.ledger import Kind, Ledger

PATIENTS, SUMMARY = "meta/patients.jsonl", "meta/summary.json"
MADE_BY = "prepare lidc"


def open_ledger(out: Path, settings: Settings | None = None) -> Ledger:
    """Opens the ledger of a set, patient -> record without the patient; settings are only needed to write it.

    Raises:
      ValueError: the file is not such a ledger.
    """
    return Ledger(out / PATIENTS, {} if settings is None else plain(settings), kind=_PATIENTS)


def read_records(out: Path) -> list[dict[str, Any]]:
    """Returns the records of all finished patients of a set, sorted by patient.

    Raises:
      ValueError: the ledger is damaged.
      OSError: it cannot be read.
    """
    records = open_ledger(out).entries
    return [{"patient": patient} | records[patient] for patient in sorted(records)]


def read_settings(out: Path) -> dict[str, Any] | None:
    """Returns the settings of the set in a folder; None if there is no set.

    Raises:
      ValueError: the summary is damaged, or was written by another command or program.
    """
    found = read_summary(out / SUMMARY, MADE_BY)
    if found is not None and not isinstance(found.get("settings"), dict):
        raise ValueError(f"{out / SUMMARY}: damaged, it has no settings; name another folder")
    return found["settings"] if found else None


def plain(settings: Settings) -> dict[str, Any]:
    """Returns settings as JSON gives them back."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_record(record: dict[str, Any]) -> dict[str, Any]:
    if not {"split", "nodules"} <= set(record):
        raise ValueError("not the record of a patient")
    return record


_PATIENTS = Kind("jaxseg_lidc", "patient", f"was not written by `jaxseg {MADE_BY}`; name another folder", _read_record)
