"""Files that are made from the results of all images of a run, such as a table: when they are made, and by what."""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxseg.folder_runs.account import Run

# Kind of product -> module and function (rows, path, **facts) that makes one file of all of them. They are named, not
# imported, because `jaxseg merge` finds the kind in a summary, and methods import this room.
MAKERS = {
    "confidence": ("jaxseg.masks.confidence", "merge_rows"),
    "json": ("jaxseg.masks.write", "merge_rows"),
    "measurements": ("jaxseg.anatomy.measure.table", "merge"),
}


@dataclasses.dataclass(frozen=True)
class Merged:
    """A file that is made from one product of every image.

    Attributes:
      suffix: of its name, with a dot; or the whole name of a file made from all results in the folder, also of other
        sources.
      kind: kind of the product, a key of `MAKERS`.
      facts: what the function in `MAKERS` needs besides, as JSON holds it.

    Raises:
      ValueError: the kind is unknown.
    """

    suffix: str
    kind: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in MAKERS or not isinstance(self.suffix, str) or not isinstance(self.facts, Mapping):
            raise ValueError(f"there is no file that is made from products of the kind {self.kind!r}")


def update(run: "Run", merged: Merged, path: Path, entries: Iterable[tuple[str, dict]], *, changed: bool) -> None:
    """Makes a merged file, unless it exists and nothing that it is made from has changed.

    Args:
      run: the run; `run.made_from` records what the file was made from.
      merged: the kind of file.
      path: the file.
      entries: (name of the file, its entry in the account) in the order of the merged file. Files that are neither done
        nor failed are left out.
      changed: whether a result was made anew.
    """
    rows: list[tuple[str, Path | str]] = []
    head = [merged.kind, dict(merged.facts), run.settings]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for name, entry in entries:
        product = entry["outputs"].get(merged.kind, {})
        if entry["status"] == "failed":
            rows.append((name, str(entry.get("reason", ""))))
        elif entry["status"] in ("done", "skipped") and product.get("stamp"):
            rows.append((name, run.output / product["path"]))
        else:
            continue
        digest.update(json.dumps([name, product.get("stamp"), product.get("extent"), entry.get("reason")]).encode())
    if not changed and run.made_from.get(path.name) == [digest.hexdigest(), _size(path)]:
        return
    module, maker = MAKERS[merged.kind]
    getattr(importlib.import_module(module), maker)(rows, path, **merged.facts)
    run.made_from[path.name] = [digest.hexdigest(), _size(path)]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
