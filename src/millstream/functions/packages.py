"""Deploys function code: a snapshot of a folder or .zip file, by its content, compiled, read-only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from millstream.functions.contents import reading
from millstream.functions.entries import BYTECODE, UNZIPPED_BYTES, Entry, Rules, entries
from millstream.functions.snapshots import Snapshot, compiled, snapshot

SKIPPED = frozenset({BYTECODE, "venv"})
"""Folders that are no part of a package, like those whose names begin with a dot, and virtualenvs."""

FOREIGN = "node_modules"
"""No part of a Python package, though it may lie beside it."""

TASK = "/var/task"


def deploy(code: Path, store: Path, *, python: bool = True, room_bytes: int = UNZIPPED_BYTES) -> Snapshot:
    """The snapshot of a package below `store`, made if this content is not there yet.

    Cost: reads the whole package. Raises:
        InvalidConfiguration: it has more than `room_bytes`, cannot be read, or holds an entry that must
            not be unpacked.
        StateUnavailable: `store` cannot be written.
    """
    ours = (store.resolve(), store.resolve().parent)  # the data directory: state, logs
    skipped = SKIPPED | {FOREIGN} if python else SKIPPED
    rules = Rules("code", links=False, hidden=False, skipped=skipped, virtualenvs=False, ours=ours)
    return snapshot(read_entries(code, rules), store, rules, room_bytes, compiled(TASK))


def read_entries(source: Path, rules: Rules) -> Iterator[Entry]:
    """The entries; what cannot be read is the user's to mend, unlike a store that cannot be written."""
    found = entries(source, rules)
    while True:
        with reading(rules.field):
            entry = next(found, None)
        if entry is None:
            return
        yield entry
