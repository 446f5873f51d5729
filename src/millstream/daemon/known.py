"""Finds the mapping that a declaration means among those that the store knows. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from millstream.aws.arn import same_source
from millstream.contract.state import MappingRow


def called_otherwise(
    rows: Sequence[MappingRow], wanted: MappingRow, declared: Collection[tuple[str, str, str]]
) -> MappingRow | None:
    """The mapping of the same source and function whose source was called by another name of it.

    A queue that was declared by its name, and now is by its ARN, keeps its uuid and cursors. None: there is
    one by that very name, or none at all, or one that is `declared` itself (by function, kind and source).
    """
    alike = [row for row in rows if _key(row)[:2] == _key(wanted)[:2] and row.app == wanted.app]
    if any(row.source == wanted.source for row in alike):
        return None
    others = [row for row in alike if same_source(row.source, wanted.source) and _key(row) not in declared]
    return max(others, key=lambda row: row.last_modified, default=None)


def _key(row: MappingRow) -> tuple[str, str, str]:
    return row.function, row.kind, row.source
