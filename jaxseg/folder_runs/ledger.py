"""A ledger of finished work: one JSON file that says what was made with which settings, so that a run can resume."""

import json
from collections.abc import Callable
from pathlib import Path

from jaxseg import __version__
from jaxseg.files import atomic_file


class Ledger:
    """Entries by key in one JSON file, together with the settings that all of them depend on.

    Use it under the lock of the folder, and write it before the first result appears and after the last one, so that a
    run that was killed leaves no doubt which results are its own:

        with files.only_writer(folder):
            ledger = Ledger(folder / "summary.json", {"threshold": 0.5})
            ledger.refuse_changed_settings(overwrite=overwrite)
            todo = [key for key in keys if ledger.entries.get(key, {}).get("status") != "done"]
            ledger.write(complete=False)
            for key in todo:
                ledger.record(key, {"status": "done", "seconds": work(key)})
            ledger.write(complete=True)

    All reading and writing of the file happens here. The file appears whole or not at all.

    Args:
      path: the file. If it exists, it is read.
      settings: what the results depend on, as JSON holds it.
      read_entry: brings an entry of the file into the form that the caller works with; raises a KeyError, TypeError,
        ValueError or AttributeError for one that jaxseg did not write. None: entries stay as JSON gives them.

    Attributes:
      path: the file.
      settings: those given, and the others in the file: commands may each have settings of their own.
      changed: sorted names of the settings whose value in the file is another.
      entries: key -> entry, a dict that JSON can hold.
      facts: the other top-level fields of the file.

    Raises:
      ValueError: the file is not a jaxseg summary.
    """

    ENTRIES = "files"  # name of the field with the entries

    def __init__(self, path: Path, settings: dict, *, read_entry: Callable[[dict], dict] | None = None):
        self.path = path
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            stored = dict(content.pop("settings"))
            entries = {str(key): dict(entry) for key, entry in content.pop(self.ENTRIES).items()}
            self.entries = {key: read_entry(entry) if read_entry else entry for key, entry in entries.items()}
        except FileNotFoundError:
            content, stored, self.entries = {}, {}, {}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(f"{path} is not a jaxseg summary; name another output folder, or remove it") from None
        self.facts: dict = content
        self.settings = stored | settings
        self.changed = sorted(key for key in settings.keys() & stored.keys() if settings[key] != stored[key])

    def refuse_changed_settings(self, *, overwrite: bool) -> None:
        """Raises a ValueError if results in the folder were made with other settings, unless they may be replaced."""
        if self.changed and not overwrite:
            raise ValueError(
                f"{self.path.parent} holds results made with another {', '.join(self.changed)}; name another folder, "
                "or redo them with --overwrite"
            )

    def record(self, key: str, entry: dict) -> None:
        """Sets the entry of a key; `write` brings it to disk."""
        self.entries[key] = entry

    def write(self, **facts) -> None:
        """Writes the file anew.

        Args:
          **facts: further top-level fields, as JSON holds them; fields that were set before keep their values.
        """
        self.facts |= {"jaxseg": __version__} | facts
        content = {"jaxseg": __version__} | self.facts | {"settings": self.settings, self.ENTRIES: self.entries}
        with atomic_file(self.path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
