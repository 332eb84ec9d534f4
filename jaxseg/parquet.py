"""Parquet tables, written in groups of rows, so that a table may be larger than the memory. They need pyarrow."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxseg.files import atomic_file

GROUP = 2**15  # rows that are in memory at once, and that a reader decodes at once
MAX_GROUP_BYTES = 2**30  # of a group of rows that is read, uncompressed
COMPRESSION = "zstd"


def require_pyarrow() -> Any:
    """Returns the module pyarrow, with its `parquet` and `compute`.

    Raises:
      ValueError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise ValueError("Parquet files need pyarrow: pip install 'jaxseg[parquet]'") from None
    return pyarrow


def is_parquet(path: Path) -> bool:
    """Returns whether the suffix of a path is that of a Parquet file; if so, pyarrow must be installed.

    Raises:
      ValueError: the suffix is that of a Parquet file, but pyarrow is not installed.
    """
    if path.suffix.lower() != ".parquet":
        return False
    require_pyarrow()
    return True


def schema_of(columns: Mapping[str, str], metadata: Mapping[str, str] | None = None) -> Any:
    """Returns a schema of pyarrow.

    Args:
      columns: name of a column -> name of its type, such as "string", "int32" or "double". Every cell may be null.
      metadata: texts that the file holds beside its columns, by name.
    """
    arrow = require_pyarrow()
    types = {name: arrow.type_for_alias(kind) for name, kind in columns.items()}
    return arrow.schema(list(types.items()), metadata=dict(metadata or {}))


def write_table(path: Path, columns: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table as a whole or not at all; a file at `path` is replaced.

    Args:
      path: the table.
      columns: as in `schema_of`.
      rows: one value per column; None is a missing value.

    Raises:
      ValueError: pyarrow is not installed, or a value does not fit the type of its column.
      OSError: the file cannot be written.
    """
    with table_writer(path, schema_of(columns)) as table:
        for row in rows:
            table.add(dict(zip(columns, row, strict=True)))


@contextmanager
def table_writer(path: Path, schema: Any, *, dictionary: Sequence[str] = ()) -> Iterator["Groups"]:
    """Yields the `Groups` that write a table; it appears at `path` as a whole when the body ends.

    Args:
      path: the table.
      schema: as `schema_of` returns it.
      dictionary: the columns in which few texts are repeated often.

    Raises:
      OSError: the file cannot be written.
    """
    arrow = require_pyarrow()
    with atomic_file(path) as temporary:
        options = {"compression": COMPRESSION, "use_dictionary": list(dictionary)}
        with arrow.parquet.ParquetWriter(temporary, schema, **options) as file:
            groups = Groups(arrow, file, schema)
            yield groups
            groups.flush()


@dataclasses.dataclass
class Groups:
    """Collects rows and tables, and writes them in groups of about `GROUP` rows."""

    arrow: Any
    file: Any
    schema: Any
    rows: list[dict] = dataclasses.field(default_factory=list)
    tables: list[Any] = dataclasses.field(default_factory=list)

    def add(self, row: dict) -> None:
        """Adds a row: name of a column -> value."""
        self.rows.append(row)
        if len(self.rows) >= GROUP:
            self._collect()

    def add_table(self, table: Any) -> None:
        """Adds a table of pyarrow with the columns of the schema."""
        self._collect()
        self.tables.append(table.cast(self.schema))
        self._write_full()

    def flush(self) -> None:
        """Writes the rows that are left."""
        self._collect()
        if self.tables:
            self.file.write_table(self.arrow.concat_tables(self.tables), row_group_size=GROUP)
            self.tables.clear()

    def _collect(self) -> None:
        if self.rows:
            self.tables.append(self.arrow.Table.from_pylist(self.rows, schema=self.schema))
            self.rows.clear()
            self._write_full()

    def _write_full(self) -> None:
        """Writes as many groups as are full."""
        if sum(table.num_rows for table in self.tables) < GROUP:
            return
        joined = self.arrow.concat_tables(self.tables)
        whole = joined.num_rows // GROUP * GROUP
        self.file.write_table(joined.slice(0, whole), row_group_size=GROUP)
        self.tables = [joined.slice(whole)] if joined.num_rows > whole else []


def check_group(file: Any, group: int) -> None:
    """Checks a group of rows of a file of unknown origin before it is read.

    Args:
      file: a `pyarrow.parquet.ParquetFile`.
      group: index of the group.

    Raises:
      ValueError: the group needs more memory than `MAX_GROUP_BYTES`.
    """
    size = file.metadata.row_group(group).total_byte_size
    if size > MAX_GROUP_BYTES:
        raise ValueError(f"a group of its rows has {size:,} bytes; at most {MAX_GROUP_BYTES:,} can be read")
