"""A ledger of finished work: which results were made, with which settings, so that an interrupted run can resume."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from jaxseg import __version__, journal, summaries
from jaxseg.files import atomic_file, only_writer


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a ledger is about; it distinguishes the ledgers of different commands.

    Attributes:
      mark: field of the first line of the journal; its value is 1.
      item: field of the other lines that holds the key of an entry.
      foreign: what an error says about a file that is not such a ledger, after its path.
      read_entry: brings an entry of the file into the form that the caller works with; raises a KeyError, TypeError,
        ValueError or AttributeError for an entry that jaxseg did not write.
      unrecorded: settings that earlier versions did not record -> (a setting that the same runs recorded, the value
        that they used).
      kept: the part of an entry of a journal that stays in memory.
    """

    mark: str = "jaxseg_run"
    item: str = journal.ITEM
    foreign: str = "is not a jaxseg summary; name another output folder, or remove it"
    read_entry: Callable[[dict], dict] = lambda entry: entry
    unrecorded: Mapping[str, tuple[str, object]] = dataclasses.field(default_factory=dict)
    kept: Callable[[dict], dict] = lambda entry: entry


class Ledger:
    """Entries by key, together with the settings that all of them depend on.

    A ledger is a journal of JSON lines, see `jaxseg.journal`: its first line holds the settings, and `record` appends
    one line per entry. There are two forms. NAME.jsonl is only a journal. NAME.json is a document, which `write` writes
    as a whole; between two calls of `write` its entries are in a hidden journal beside it, and every reader sees both.

    Use it under the lock of the folder. Write it before the first result appears, so that a run that is killed leaves
    no doubt which results are its own:

        with files.only_writer(folder):
            ledger = Ledger(folder / "summary.json", {"threshold": 0.5})
            ledger.refuse_changed_settings(overwrite=overwrite)
            todo = [key for key in keys if ledger.entries.get(key, {}).get("status") != "done"]
            ledger.write(complete=False)
            for key in todo:
                ledger.record(key, {"status": "done", "seconds": work(key)})
            ledger.write(complete=True)

    Args:
      path: the file, .jsonl or .json. If it exists, it is read. A damaged line of a journal is left out, so that its
        item is done again.
      settings: what the results depend on, as JSON holds it.
      kind: what the ledger is about; None: a run over files.

    Attributes:
      path: the file.
      settings: those given. In a document also the others in the file: commands may each have settings of their own.
      changed: sorted names of the settings whose value in the file is another.
      entries: key -> entry, a dict that JSON can hold.
      facts: the other top-level fields of a document; of a journal, those of its lines that have no key.
      places: key -> position of the entry's line in a journal without a document, in bytes.

    Raises:
      ValueError: the file is not a ledger of this kind.
    """

    ENTRIES = "files"  # name of the field of a document with the entries

    def __init__(self, path: Path, settings: Mapping, *, kind: Kind | None = None):
        self.places: dict[str, int] = {}
        self.path, self.kind = path, kind or Kind()
        self.is_document = path.suffix == ".json"
        self._journal = journal.journal_of(path) if self.is_document else path
        self._recording = not self.is_document
        new = False
        try:
            stored, self.entries, self.facts = self._read_document() if self.is_document else self._read_journal()
        except FileNotFoundError:
            new, stored, self.entries, self.facts = True, {}, {}, {}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ValueError(f"{path} {self.kind.foreign}") from None
        stored = self._completed(stored, settings)
        self.settings = stored | dict(settings) if self.is_document else dict(settings)
        self.changed = sorted(changed_settings(stored, settings, partly=self.is_document or new))

    def join(self, paths: Iterable[Path], *, wanted: Callable[[str, dict], bool] | None = None) -> int:
        """Adds the settings and entries of other summaries in the folder, see `jaxseg.summaries.add_entries`.

        Args:
          paths: the other summaries; those that were removed are left out.
          wanted: (key, entry) -> whether to add an entry; None: all are added.

        Returns:
          The largest number of the runs that wrote the summaries.

        Raises:
          ValueError: one of them is not a ledger of this kind.
          OSError: one of them cannot be read.
        """
        most, asked, changed = summaries.number_of(self.facts), dict(self.settings), set(self.changed)
        mine = {"files": self.entries, summaries.NUMBER: most}
        found: dict[str, dict] = {}
        summaries.add_entries(found, mine)
        for path in paths:
            try:
                for content in summaries.read([path]):
                    stored = self._completed(dict(content["settings"]), asked)
                    changed.update(changed_settings(stored, asked, partly=True))
                    self.settings = stored | self.settings
                    most = max(most, summaries.number_of(content))
                    others: dict[str, dict] = {}
                    summaries.add_entries(others, content, wanted=wanted)
                    others = {key: self.kind.read_entry(entry) for key, entry in others.items()}
                    summaries.add_entries(found, {"files": others})
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                raise ValueError(f"{path} {self.kind.foreign}") from None
        self.entries, self.changed = found, sorted(changed)
        return most

    def refuse_changed_settings(self, *, overwrite: bool) -> None:
        """Raises a ValueError if results in the folder were made with other settings, unless they may be replaced."""
        if not overwrite:
            made = f"{self.path.parent} holds results made"
            refuse_changed(made, self.changed, "name another folder, or redo them with --overwrite")

    def record(self, key: str, entry: dict) -> None:
        """Sets the entry of a key, and appends it to the journal, which is synced to disk.

        Raises:
          OSError: the journal cannot be written.
        """
        if not self._recording:
            document = {"jaxseg": __version__, "document": journal.digest_of(self.path)}
            journal.create(self._journal, self._head() | document)
            self._recording = True
        self.places[key] = journal.append(self._journal, {self.kind.item: key} | entry)
        self.entries[key] = entry if self.is_document else self.kind.kept(entry)

    def write(self, **facts) -> None:
        """Writes the file as a whole, with one entry per key; a document's journal is removed afterwards.

        Args:
          **facts: further top-level fields of a document, as JSON holds them; fields that were set before keep their
            values.
        """
        self.facts |= facts
        if not self.is_document:
            lines = ({self.kind.item: key} | entry for key, entry in self.entries.items())
            journal.create(self.path, self._head(), [*([self.facts] if self.facts else []), *lines])
            return
        try:
            with atomic_file(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.writelines(self._document())
        except RecursionError:  # fields of a file of unknown origin are nested almost too deeply to be read
            raise ValueError(f"{self.path} {self.kind.foreign}") from None
        self._journal.unlink(missing_ok=True)
        self._recording = False

    def note(self, **facts) -> None:
        """Appends facts to a journal without a document, and syncs it; later facts replace earlier ones.

        Raises:
          OSError: the journal cannot be written.
        """
        journal.append(self.path, facts)
        self.facts |= facts

    def _document(self) -> Iterator[str]:
        """Yields the text of a document, with one line per entry."""
        content = {"jaxseg": __version__} | self.facts | {"jaxseg": __version__, "settings": self.settings}
        yield json.dumps(content, indent=1)[:-2] + f',\n "{self.ENTRIES}": {{'
        between = "\n"
        for key, entry in self.entries.items():
            yield f"{between}  {json.dumps(key)}: {json.dumps(entry)}"
            between = ",\n"
        yield "\n }\n}\n"

    def _head(self) -> dict:
        return {self.kind.mark: 1, "settings": self.settings}

    def _completed(self, stored: dict, wanted: Mapping) -> dict:
        """Adds to stored settings those that earlier versions did not record."""
        known = {name: value for name, (mark, value) in self.kind.unrecorded.items() if mark in stored}
        return {name: value for name, value in known.items() if name in wanted} | stored

    def _read_document(self) -> tuple[dict, dict, dict]:
        content = journal.read_document(self.path, self.ENTRIES)
        settings = dict(content.pop("settings"))
        entries = {str(key): self.kind.read_entry(dict(entry)) for key, entry in content.pop(self.ENTRIES).items()}
        content.pop(self.kind.mark, None)
        return settings, entries, content

    def _read_journal(self) -> tuple[dict, dict, dict]:
        head, lines = journal.read(self.path)
        if head[self.kind.mark] != 1 or not isinstance(head["settings"], dict):
            raise ValueError("another kind of journal")
        entries, facts = {}, {}
        for place, line in lines:
            if self.kind.item not in line:
                facts |= line
                continue
            try:
                key = line.pop(self.kind.item)
                entry = self.kind.kept(self.kind.read_entry(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
            if isinstance(key, str):
                entries[key], self.places[key] = entry, place
        return head["settings"], entries, facts


def changed_settings(stored: Mapping, wanted: Mapping, *, partly: bool = False) -> list[str]:
    """Returns the names of the settings that differ.

    Args:
      stored: the settings with which results were made, as JSON holds them.
      wanted: the settings of this run.
      partly: compare only the settings that both have; otherwise a setting that one of the two lacks differs.
    """
    names = [name for name in wanted if name in stored] if partly else [*wanted, *(stored.keys() - wanted.keys())]
    missing = object()
    return [name for name in names if stored.get(name, missing) != wanted.get(name, missing)]


def refuse_changed(made: str, changed: Iterable[str], advice: str) -> None:
    """Raises a ValueError if results were made with other settings.

    Args:
      made: start of the error: what was made, such as "out was made".
      changed: names of the settings that differ.
      advice: end of the error: what to do.
    """
    if names := ", ".join(changed):
        raise ValueError(f"{made} with other settings: {names}; {advice}")


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Makes a folder if it does not exist, and holds its lock.

    Raises:
      BlockingIOError: another process holds it, which is not a fault of the caller's options.
      OSError: the folder cannot be made or opened.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_writer(folder))
        except ValueError as error:
            raise BlockingIOError(str(error)) from None
        yield
