"""The schema of the SQLite store, as steps from each version to the next.

See docs/adr/0003-migrations.md for why no library does this.
"""

from __future__ import annotations

import sqlite3

STEPS = (
    """
    CREATE TABLE mappings (
        uuid TEXT PRIMARY KEY,
        app TEXT NOT NULL,
        function TEXT NOT NULL,
        kind TEXT NOT NULL,
        source TEXT NOT NULL,
        enabled INTEGER NOT NULL,
        last_modified REAL NOT NULL,
        UNIQUE (app, function, kind, source)
    );
    CREATE TABLE statuses (
        uuid TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        state_reason TEXT NOT NULL,
        last_result TEXT NOT NULL,
        updated_at REAL NOT NULL,
        received INTEGER NOT NULL,
        filtered INTEGER NOT NULL,
        delivered INTEGER NOT NULL,
        returned INTEGER NOT NULL,
        discarded INTEGER NOT NULL,
        invocations INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        throttles INTEGER NOT NULL
    );
    CREATE TABLE cursors (
        mapping TEXT NOT NULL,
        partition TEXT NOT NULL,
        position TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        PRIMARY KEY (mapping, partition)
    );
    """,
)
"""Step n leads from version n to version n + 1. A step that was released is never changed."""

SCHEMA_VERSION = len(STEPS)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Lead a database of `version` to the newest one, each step in a transaction of its own."""
    for number, step in enumerate(STEPS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")
