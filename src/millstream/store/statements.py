"""The statements of a state store, in the SQL that SQLite and PostgreSQL share.

Values are named `:so`. `now_s()` stands for the store's own clock in Unix seconds: expiry times never
meet the clock of a caller, so two hosts whose clocks differ agree on who holds a lease.
"""

from __future__ import annotations

from dataclasses import fields

from millstream.contract.state import MappingRow, MappingStatus

_MAPPING = [field.name for field in fields(MappingRow)]
_STATUS = ["owner", *(field.name for field in fields(MappingStatus))]


def _columns(names: list[str]) -> str:
    return ", ".join(names)


def _values(names: list[str]) -> str:
    return ", ".join(f":{name}" for name in names)


def _excluded(names: list[str]) -> str:
    return ", ".join(f"{name} = excluded.{name}" for name in names)


# A late write must not bring a deleted mapping back.
_DECLARED = "EXISTS (SELECT 1 FROM mappings WHERE uuid = :mapping)"

_PARTITION = "mapping = :mapping AND partition = :partition"

_LEASE = f"{_PARTITION} AND owner = :owner AND epoch = :epoch AND NOT ended"

PUT_MAPPING = f"""
    INSERT INTO mappings ({_columns(_MAPPING)}) VALUES ({_values(_MAPPING)})
    ON CONFLICT (app, function, kind, source)
    DO UPDATE SET {_excluded(["enabled", "last_modified", "retired_at"])}
    RETURNING {_columns(_MAPPING)}
"""

MAPPINGS = f"SELECT {_columns(_MAPPING)} FROM mappings ORDER BY app, function, kind, source"

NAME_SOURCE = "UPDATE mappings SET source = :source WHERE uuid = :mapping"

RETIRE = "UPDATE mappings SET retired_at = coalesce(retired_at, now_s()) WHERE uuid = :mapping"

# Its statuses, partitions and members go with it, by their foreign keys.
DELETE_MAPPING = "DELETE FROM mappings WHERE uuid = :mapping"

STARTED_AT = """
    UPDATE mappings SET started_at = coalesce(started_at, :at) WHERE uuid = :mapping RETURNING started_at
"""

# Of two daemons that find a new stream at once, the second waits for the first, and finds nothing to do.
KNOW_IDENTITY = "UPDATE mappings SET identity = :identity WHERE uuid = :mapping AND identity IS NULL"

ADOPT = """
    UPDATE mappings SET identity = :identity WHERE uuid = :mapping AND identity <> :identity RETURNING uuid
"""

# Epochs go on, so that no lease on the old stream's partition of the same name is ever good again.
READ_ANEW = """
    UPDATE partitions
    SET owner = NULL, expires_at = 0, epoch = epoch + 1, position = NULL, ended = FALSE, missing_since = NULL
    WHERE mapping = :mapping
"""

SUCCEED = (
    "UPDATE partitions SET owner = :owner, epoch = epoch + 1 WHERE owner = :before",
    "DELETE FROM members WHERE owner = :before",
    "DELETE FROM attendants WHERE owner = :before",
    "UPDATE statuses SET owner = :owner WHERE owner = :before",
)

ATTEND = f"""
    INSERT INTO attendants (mapping, owner, expires_at)
    SELECT :mapping, :owner, now_s() + :ttl_s WHERE {_DECLARED}
    ON CONFLICT (mapping, owner) DO UPDATE SET expires_at = excluded.expires_at
"""

ATTENDANTS = """
    SELECT owner FROM attendants WHERE mapping = :mapping AND expires_at > now_s() ORDER BY owner
"""

PUT_STATUS = f"""
    INSERT INTO statuses ({_columns(_STATUS)}) SELECT {_values(_STATUS)} WHERE {_DECLARED}
    ON CONFLICT (owner, uuid) DO UPDATE SET {_excluded(_STATUS[2:])}
"""

STATUSES = f"SELECT {_columns(_STATUS[1:])} FROM statuses WHERE owner = :owner ORDER BY uuid"

JOIN = f"""
    INSERT INTO members (mapping, owner, expires_at)
    SELECT :mapping, :owner, now_s() + :ttl_s WHERE {_DECLARED}
    ON CONFLICT (mapping, owner) DO UPDATE SET expires_at = excluded.expires_at
"""

LEAVE = "DELETE FROM members WHERE mapping = :mapping AND (owner = :owner OR expires_at <= now_s())"

MEMBERS = "SELECT owner FROM members WHERE mapping = :mapping AND expires_at > now_s() ORDER BY owner"

PARTITIONS = """
    SELECT partition, CASE WHEN expires_at > now_s() THEN owner END, epoch, position, ended,
        now_s() - missing_since
    FROM partitions WHERE mapping = :mapping ORDER BY partition
"""

TAKE = f"""
    INSERT INTO partitions (mapping, partition, owner, epoch, expires_at)
    SELECT :mapping, :partition, :owner, 1, now_s() + :ttl_s WHERE {_DECLARED}
    ON CONFLICT (mapping, partition) DO UPDATE
    SET owner = excluded.owner, epoch = partitions.epoch + 1, expires_at = now_s() + :ttl_s
    WHERE NOT partitions.ended AND (
        partitions.owner IS NULL OR partitions.owner = excluded.owner OR partitions.expires_at <= now_s()
    )
    RETURNING epoch
"""

RENEW = f"UPDATE partitions SET expires_at = now_s() + :ttl_s WHERE {_LEASE}"

RELEASE = f"UPDATE partitions SET owner = NULL, expires_at = 0, ended = :ended WHERE {_LEASE}"

CURSOR = f"SELECT position FROM partitions WHERE {_PARTITION}"

# A lease whose time has run out, but that nobody took, may still commit.
COMMIT = f"UPDATE partitions SET position = :position WHERE {_LEASE}"

MISSING = f"UPDATE partitions SET missing_since = coalesce(missing_since, now_s()) WHERE {_PARTITION}"

FOUND = f"UPDATE partitions SET missing_since = NULL WHERE {_PARTITION}"

FORGET = f"DELETE FROM partitions WHERE {_PARTITION} AND (owner IS NULL OR expires_at <= now_s())"
