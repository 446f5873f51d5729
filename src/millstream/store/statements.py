"""The statements of a state store, in the SQL that SQLite and PostgreSQL share.

Values are named `:so`, tables `here.so`. `now_s()` stands for the store's own clock in Unix seconds. It may
be set, so no lease and no announcement goes by it: each has a `beat` that grows with every renewal, and
others watch it by their own monotonic clocks; see `millstream.store.silence`.
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
_DECLARED = "EXISTS (SELECT 1 FROM here.mappings WHERE uuid = :mapping)"

_PARTITION = "mapping = :mapping AND partition = :partition"

_LEASE = f"{_PARTITION} AND owner = :owner AND epoch = :epoch AND NOT ended"

PUT_MAPPING = f"""
    INSERT INTO here.mappings ({_columns(_MAPPING)}) VALUES ({_values(_MAPPING)})
    ON CONFLICT (app, function, kind, source)
    DO UPDATE SET {_excluded(["enabled", "last_modified", "retired_at"])}
    RETURNING {_columns(_MAPPING)}
"""

MAPPINGS = f"SELECT {_columns(_MAPPING)} FROM here.mappings ORDER BY app, function, kind, source"

NAME_SOURCE = "UPDATE here.mappings SET source = :source WHERE uuid = :mapping"

RETIRE = "UPDATE here.mappings SET retired_at = coalesce(retired_at, now_s()) WHERE uuid = :mapping"

# Its statuses, partitions and members go with it, by their foreign keys.
DELETE_MAPPING = "DELETE FROM here.mappings WHERE uuid = :mapping"

STARTED_AT = """
    UPDATE here.mappings SET started_at = coalesce(started_at, :at) WHERE uuid = :mapping RETURNING started_at
"""

# Of two daemons that find a new stream at once, the second waits for the first, and finds nothing to do.
KNOW_IDENTITY = "UPDATE here.mappings SET identity = :identity WHERE uuid = :mapping AND identity IS NULL"

ADOPT = """
    UPDATE here.mappings SET identity = :identity WHERE uuid = :mapping AND identity <> :identity
    RETURNING uuid
"""

# Epochs go on, so that no lease on the old stream's partition of the same name is ever good again.
READ_ANEW = """
    UPDATE here.partitions
    SET owner = NULL, epoch = epoch + 1, position = NULL, ended = FALSE, missing_since = NULL
    WHERE mapping = :mapping
"""

SUCCEED = (
    "UPDATE here.partitions SET owner = :owner, epoch = epoch + 1 WHERE owner = :before",
    "DELETE FROM here.members WHERE owner = :before",
    "DELETE FROM here.attendants WHERE owner = :before",
    "UPDATE here.statuses SET owner = :owner WHERE owner = :before",
)

PUT_STATUS = f"""
    INSERT INTO here.statuses ({_columns(_STATUS)}) SELECT {_values(_STATUS)} WHERE {_DECLARED}
    ON CONFLICT (owner, uuid) DO UPDATE SET {_excluded(_STATUS[2:])}
"""

STATUSES = f"SELECT {_columns(_STATUS[1:])} FROM here.statuses WHERE owner = :owner ORDER BY uuid"

PARTITIONS = """
    SELECT partition, owner, epoch, beat, lasts_s, position, ended, now_s() - missing_since
    FROM here.partitions WHERE mapping = :mapping ORDER BY partition
"""

HOLDER = f"SELECT owner, epoch, beat, lasts_s FROM here.partitions WHERE {_PARTITION} AND owner IS NOT NULL"

# A holder that fell silent is passed over only if its mark is still the one that was watched.
TAKE = f"""
    INSERT INTO here.partitions (mapping, partition, owner, epoch, beat, lasts_s)
    SELECT :mapping, :partition, :owner, 1, 0, :ttl_s WHERE {_DECLARED}
    ON CONFLICT (mapping, partition) DO UPDATE
    SET owner = excluded.owner, epoch = partitions.epoch + 1, lasts_s = excluded.lasts_s
    WHERE NOT partitions.ended AND (
        partitions.owner IS NULL OR partitions.owner = excluded.owner
        OR (partitions.epoch = :silent_epoch AND partitions.beat = :silent_beat)
    )
    RETURNING epoch
"""

RENEW = f"UPDATE here.partitions SET beat = beat + 1, lasts_s = :ttl_s WHERE {_LEASE}"

RELEASE = f"UPDATE here.partitions SET owner = NULL, ended = :ended WHERE {_LEASE}"

CURSOR = f"SELECT position FROM here.partitions WHERE {_PARTITION}"

# A lease whose time has run out, but that nobody took, may still commit.
COMMIT = f"UPDATE here.partitions SET position = :position WHERE {_LEASE}"

MISSING = f"UPDATE here.partitions SET missing_since = coalesce(missing_since, now_s()) WHERE {_PARTITION}"

FOUND = f"UPDATE here.partitions SET missing_since = NULL WHERE {_PARTITION}"

FORGET = f"DELETE FROM here.partitions WHERE {_PARTITION} AND owner IS NULL"


class Roll:
    """The statements on a table of who runs which mapping."""

    def __init__(self, table: str) -> None:
        self.enter = f"""
            INSERT INTO here.{table} (mapping, owner, beat, lasts_s) SELECT :mapping, :owner, 0, :ttl_s
            WHERE {_DECLARED}
            ON CONFLICT (mapping, owner) DO UPDATE SET beat = {table}.beat + 1, lasts_s = excluded.lasts_s
        """
        self.leave = f"DELETE FROM here.{table} WHERE mapping = :mapping AND owner = :owner"
        self.strike = f"{self.leave} AND beat = :beat"
        self.all = f"SELECT owner, beat, lasts_s FROM here.{table} WHERE mapping = :mapping ORDER BY owner"


MEMBERS = Roll("members")

ATTENDANTS = Roll("attendants")
