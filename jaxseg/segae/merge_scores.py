"""Joins the parts of a run of `jaxseg score` over a data set: their journals into one, and from that the CSV."""

import collections
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxseg import journal
from jaxseg.files import atomic_file, sweep
from jaxseg.folder_runs.ledger import Ledger, refuse_changed
from jaxseg.folder_runs.merge import SHOWN, MergeResult, shown_parts
from jaxseg.folder_runs.parts import Part, locked, remove_parts
from jaxseg.segae.score_table import SCORES, ScoreTable, journal_of, parts_of
from jaxseg.summaries import number_of

_FACTS = {"columns": list, "cases": list, "listed": dict}  # what the journal of a part records, and its type


def merge_scores(output: str | Path, *, partial: bool = False) -> MergeResult:
    """Joins the parts of `jaxseg.score_dataset`, and removes the files of the parts.

    If a case is missing or double, nothing is written or removed. A second call finds nothing to merge. The other
    files, such as the picture of the worst masks, are written by a later call of `jaxseg.score_dataset` without a part.

    Args:
      output: the CSV that the parts share.
      partial: write the CSV of the cases that there are, although some are missing. The files of the parts stay.

    Returns:
      What was found and done. `problems` lists what is missing; cases with masks that failed are not missing.

    Raises:
      ValueError: there are no scores of jaxseg, a journal is damaged, the parts were made with different settings, the
        CSV was not written by jaxseg, or a part is still running.
      OSError: a file cannot be read or written.

    Example:
      >>> import dataclasses, jax, jaxseg, numpy as np
      >>> for name in ("t1", "t2", "t3"):
      ...     Path("parted", name, "segmentations").mkdir(parents=True)
      ...     ct, liver = np.zeros((4, 40, 40), np.int16), np.zeros((4, 40, 40), np.uint8)
      ...     ct[:, 5:35], liver[:, 10:30, 10:30] = -500, 1
      ...     np.save(f"parted/{name}/ct.npy", ct)
      ...     np.save(f"parted/{name}/segmentations/liver.npy", liver)
      >>> model = jaxseg.create("segae", backbone="resnet18", width=4)
      >>> model.card = dataclasses.replace(model.card, input_size=(32, 32))
      >>> model.embeddings.set_value(jax.numpy.ones((145, 512)))  # instead of label_embedding.pkl
      >>> for part in ("1/2", "2/2"):
      ...     found = jaxseg.score_dataset("parted", "table.csv", model, part=part)
      >>> jaxseg.merge_scores("table.csv").done
      3
    """
    output = Path(output)
    if not output.parent.is_dir():
        raise ValueError(f"{output.parent} is not a folder")
    with locked(output, None):
        whole, parts = journal_of(output), parts_of(output)
        if not parts:
            if not whole.is_file():
                raise ValueError(f"{output}: there are no scores of jaxseg")
            return MergeResult(output, 0)
        if output.exists() and not whole.is_file():
            raise ValueError(f"{output} exists, and was not written by `jaxseg score`; remove it")
        ledgers = _opened([*parts, *[whole] * whole.is_file()])
        count = parts[max(parts, key=lambda path: number_of(ledgers[path].facts))].count
        newest = {part.index: ledgers[path] for path, part in parts.items() if part.count == count}
        chosen = _latest(ledgers)
        problems = tuple(_problems(newest, count, chosen))
        failed = sum(bool(ledger.entries[case]["failed"]) for case, ledger in chosen.items())
        result = MergeResult(output, count, len(chosen) - failed, failed, problems)
        if problems and not partial:
            return result
        head = next(iter(newest.values()))
        _write(whole, head.settings, chosen)
        ScoreTable(output, head.facts["columns"], head.settings).write()
        if not problems:
            remove_parts(list(parts), output)
            sweep(output.parent)
    return dataclasses.replace(result, merged=(output,))


def _opened(paths: Iterable[Path]) -> dict[Path, Ledger]:
    """Opens the journals, and checks that they have the same settings and columns.

    Raises:
      ValueError: they differ, or one is damaged.
    """
    ledgers: dict[Path, Ledger] = {}
    settings: dict = {}
    for path in paths:
        head, _ = journal.read(path)
        settings = settings or dict(head.get("settings") or {})
        ledgers[path] = ledger = Ledger(path, settings, kind=SCORES)
        refuse_changed(f"{path} was written", ledger.changed, "score all parts with the same settings")
        if path.name.endswith(".scores.jsonl"):
            continue
        if not all(isinstance(ledger.facts.get(name), kind) for name, kind in _FACTS.items()):
            raise ValueError(f"{path} is damaged; remove it, and run its part again")
    return ledgers


def _latest(ledgers: Mapping[Path, Ledger]) -> dict[str, Ledger]:
    """Returns for each case the journal with its latest scores, sorted by the names of the cases."""
    found: dict[str, Ledger] = {}
    for ledger in ledgers.values():
        for case, entry in ledger.entries.items():
            if case not in found or number_of(found[case].entries[case]) < number_of(entry):
                found[case] = ledger
    return dict(sorted(found.items()))


def _problems(newest: Mapping[int, Ledger], count: int, chosen: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is missing or double."""
    missing = [index for index in range(1, count + 1) if index not in newest]
    if missing:
        yield f"{shown_parts(missing, count)}: no journal; run {'it' if len(missing) == 1 else 'them'}"
    owners: dict[str, list[int]] = collections.defaultdict(list)
    lists: dict[tuple, list[int]] = collections.defaultdict(list)
    for index, ledger in newest.items():
        cases, listed = ledger.facts["cases"], ledger.facts["listed"]
        rest = [case for case in cases if case not in chosen]
        if rest or not ledger.facts.get("complete"):
            yield f"part {Part(index, count)}: {len(rest):,} cases are not scored yet; run it again"
        for case in cases:
            owners[case].append(index)
        lists[listed.get("files"), listed.get("digest"), tuple(ledger.facts["columns"])].append(index)
    for case in [case for case, indices in owners.items() if len(indices) > 1][:SHOWN]:
        yield f"{case}: in more than one part ({', '.join(map(str, owners[case]))} of {count})"
    if len(lists) > 1:
        seen = "; ".join(f"{files} by {shown_parts(indices, count)}" for (files, *_), indices in lists.items())
        yield f"the parts found different cases or organs in the data set: {seen}; run all parts again"


def _write(whole: Path, settings: Mapping, chosen: Mapping[str, Ledger]) -> None:
    """Writes the journal of the whole table, with one case in memory at a time."""
    with atomic_file(whole) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps({SCORES.mark: 1, "settings": dict(settings)}) + "\n")
        for case, ledger in chosen.items():
            line = journal.line_at(ledger.path, ledger.places[case])
            file.write(json.dumps(line) + "\n")
