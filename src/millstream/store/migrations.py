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
    """
    ALTER TABLE mappings ADD COLUMN started_at REAL;
    DROP TABLE statuses;
    CREATE TABLE statuses (
        owner TEXT NOT NULL,
        uuid TEXT NOT NULL REFERENCES mappings ON DELETE CASCADE,
        state TEXT NOT NULL,
        state_reason TEXT NOT NULL,
        last_result TEXT NOT NULL,
        updated_at REAL NOT NULL,
        received INTEGER NOT NULL,
        filtered INTEGER NOT NULL,
        delivered INTEGER NOT NULL,
        returned INTEGER NOT NULL,
        discarded INTEGER NOT NULL,
        dropped INTEGER NOT NULL,
        invocations INTEGER NOT NULL,
        errors INTEGER NOT NULL,
        throttles INTEGER NOT NULL,
        invoked_records INTEGER NOT NULL,
        failed_records INTEGER NOT NULL,
        delivery_failures INTEGER NOT NULL,
        iterator_age_s REAL,
        partitions INTEGER,
        PRIMARY KEY (owner, uuid)
    );
    CREATE INDEX statuses_uuid ON statuses (uuid);
    CREATE TABLE partitions (
        mapping TEXT NOT NULL REFERENCES mappings ON DELETE CASCADE,
        partition TEXT NOT NULL,
        owner TEXT,
        epoch INTEGER NOT NULL,
        expires_at REAL NOT NULL,
        position TEXT,
        ended INTEGER NOT NULL DEFAULT FALSE,
        PRIMARY KEY (mapping, partition)
    );
    INSERT INTO partitions (mapping, partition, epoch, expires_at, position)
        SELECT mapping, partition, epoch, 0, position FROM cursors
        WHERE mapping IN (SELECT uuid FROM mappings);
    DROP TABLE cursors;
    CREATE TABLE members (
        mapping TEXT NOT NULL REFERENCES mappings ON DELETE CASCADE,
        owner TEXT NOT NULL,
        expires_at REAL NOT NULL,
        PRIMARY KEY (mapping, owner)
    );
    """,
    """
    ALTER TABLE mappings ADD COLUMN retired_at REAL;
    ALTER TABLE mappings ADD COLUMN identity TEXT;
    ALTER TABLE partitions ADD COLUMN missing_since REAL;
    CREATE TABLE attendants (
        mapping TEXT NOT NULL REFERENCES mappings ON DELETE CASCADE,
        owner TEXT NOT NULL,
        expires_at REAL NOT NULL,
        PRIMARY KEY (mapping, owner)
    );
    """,
    """
    ALTER TABLE partitions ADD COLUMN beat INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE partitions ADD COLUMN lasts_s REAL NOT NULL DEFAULT 7;
    ALTER TABLE partitions DROP COLUMN expires_at;
    ALTER TABLE members ADD COLUMN beat INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE members ADD COLUMN lasts_s REAL NOT NULL DEFAULT 7;
    ALTER TABLE members DROP COLUMN expires_at;
    ALTER TABLE attendants ADD COLUMN beat INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE attendants ADD COLUMN lasts_s REAL NOT NULL DEFAULT 35;
    ALTER TABLE attendants DROP COLUMN expires_at;
    """,
)
"""Step n leads from version n to version n + 1. A step that was released is never changed."""

SCHEMA_VERSION = len(STEPS)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Lead a database of `version` to the newest one, within the caller's transaction."""
    for step in STEPS[version:]:
        for statement in step.split(";"):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
