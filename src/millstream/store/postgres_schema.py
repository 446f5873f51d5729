"""The schema of the PostgreSQL store, as steps from each version to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import psycopg

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

STEPS = (
    b"""
    CREATE TABLE mappings (
        uuid text PRIMARY KEY,
        app text COLLATE "C" NOT NULL,
        function text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL,
        source text COLLATE "C" NOT NULL,
        enabled boolean NOT NULL,
        last_modified double precision NOT NULL,
        started_at double precision,
        UNIQUE (app, function, kind, source)
    );
    CREATE TABLE statuses (
        owner text NOT NULL,
        uuid text COLLATE "C" NOT NULL REFERENCES mappings ON DELETE CASCADE,
        state text NOT NULL,
        state_reason text NOT NULL,
        last_result text NOT NULL,
        updated_at double precision NOT NULL,
        received bigint NOT NULL,
        filtered bigint NOT NULL,
        delivered bigint NOT NULL,
        returned bigint NOT NULL,
        discarded bigint NOT NULL,
        dropped bigint NOT NULL,
        invocations bigint NOT NULL,
        errors bigint NOT NULL,
        throttles bigint NOT NULL,
        invoked_records bigint NOT NULL,
        failed_records bigint NOT NULL,
        delivery_failures bigint NOT NULL,
        iterator_age_s double precision,
        partitions bigint,
        PRIMARY KEY (owner, uuid)
    );
    CREATE INDEX statuses_uuid ON statuses (uuid);
    -- Half of each page is left free: a checkpoint then rewrites its row in place and touches no index.
    CREATE TABLE partitions (
        mapping text NOT NULL REFERENCES mappings ON DELETE CASCADE,
        partition text COLLATE "C" NOT NULL,
        owner text,
        epoch bigint NOT NULL,
        expires_at double precision NOT NULL,
        position text,
        ended boolean NOT NULL DEFAULT FALSE,
        PRIMARY KEY (mapping, partition)
    ) WITH (fillfactor = 50);
    CREATE TABLE members (
        mapping text NOT NULL REFERENCES mappings ON DELETE CASCADE,
        owner text COLLATE "C" NOT NULL,
        expires_at double precision NOT NULL,
        PRIMARY KEY (mapping, owner)
    );
    """,
    b"""
    ALTER TABLE mappings ADD COLUMN retired_at double precision;
    ALTER TABLE mappings ADD COLUMN identity text;
    ALTER TABLE partitions ADD COLUMN missing_since double precision;
    CREATE TABLE attendants (
        mapping text NOT NULL REFERENCES mappings ON DELETE CASCADE,
        owner text COLLATE "C" NOT NULL,
        expires_at double precision NOT NULL,
        PRIMARY KEY (mapping, owner)
    );
    """,
    # A daemon of before, which goes by the clock, finds no column of it, and writes no lease any more.
    b"""
    ALTER TABLE partitions ADD COLUMN beat bigint NOT NULL DEFAULT 0;
    ALTER TABLE partitions ADD COLUMN lasts_s double precision NOT NULL DEFAULT 7;
    ALTER TABLE partitions DROP COLUMN expires_at;
    ALTER TABLE members ADD COLUMN beat bigint NOT NULL DEFAULT 0;
    ALTER TABLE members ADD COLUMN lasts_s double precision NOT NULL DEFAULT 7;
    ALTER TABLE members DROP COLUMN expires_at;
    ALTER TABLE attendants ADD COLUMN beat bigint NOT NULL DEFAULT 0;
    ALTER TABLE attendants ADD COLUMN lasts_s double precision NOT NULL DEFAULT 35;
    ALTER TABLE attendants DROP COLUMN expires_at;
    """,
)
"""Step n leads from version n to version n + 1. A step that was released is never changed."""

SCHEMA_VERSION = len(STEPS)

# Any number does, if it is always the same and no other program on the database has it.
_MIGRATION = 0x6D696C6C


def version_of(connection: Connection) -> int:
    """The version of the schema that is there; 0 for none."""
    (table,) = connection.execute("SELECT to_regclass('millstream.schema_version')").fetchone() or (None,)
    if table is None:
        return 0
    (version,) = connection.execute("SELECT version FROM millstream.schema_version").fetchone() or (0,)
    return int(version)


def migrate(connection: Connection, version: Callable[[Connection], int]) -> None:
    """Lead the schema to the newest version, within the caller's transaction.

    Of daemons that start at once one does it, and the others wait.
    """
    connection.execute("SET LOCAL statement_timeout = '60s'; SET LOCAL search_path = millstream")
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MIGRATION])
    (schema,) = connection.execute("SELECT to_regnamespace('millstream')").fetchone() or (None,)
    if schema is None:  # IF NOT EXISTS would ask for the right to make one even where one is
        connection.execute("CREATE SCHEMA millstream")
    found = version(connection)
    if found == 0:
        connection.execute("CREATE TABLE schema_version (version bigint NOT NULL)")
        connection.execute("INSERT INTO schema_version VALUES (0)")
    for step in STEPS[found:]:
        connection.execute(step)
    connection.execute("UPDATE schema_version SET version = %s", [SCHEMA_VERSION])
