"""Plans which partitions a daemon reads, so that daemons on one store share them evenly. Pure.

docs/lease-lifecycle.md draws the whole of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from millstream.contract.state import PartitionRow
from millstream.contract.streams import Partition

FORGET_AFTER_S = 86_400.0
"""How long a partition must be missing from its stream before what is kept of it is dropped.

A list that shrinks for a moment must not make a partition look new, and be read a second time.
"""


@dataclass(frozen=True, slots=True)
class LeasePlan:
    """What one daemon does next; partition ids."""

    take: tuple[str, ...] = ()
    give_up: tuple[str, ...] = ()  # held beyond its share: finish softly, then release


def readable(partitions: Sequence[Partition], rows: Sequence[PartitionRow]) -> list[str]:
    """Partitions that may be read now: not ended, and all their parents ended or long gone.

    A parent that the stream does not list any more holds its children back as long as it is known
    and has not ended. Such a partition may be read itself: its reader finds out what is left of it.
    """
    listed = {partition.id for partition in partitions}
    ended = {row.partition for row in rows if row.ended}
    known = listed | {row.partition for row in rows}
    found = [
        partition.id
        for partition in partitions
        if partition.id not in ended and all(p in ended or p not in known for p in partition.parents)
    ]
    return found + sorted(row.partition for row in rows if row.partition not in listed and not row.ended)


def plan_leases(
    partitions: Sequence[Partition], rows: Sequence[PartitionRow], owners: Sequence[str], me: str
) -> LeasePlan:
    """What `me`, one of `owners`, takes and gives up.

    Every owner computes the same quotas, which add up to all that is readable: no two want the same
    partition for long, and none is wanted by nobody. A dead owner's quota waits until it has left.
    """
    can = readable(partitions, rows)
    holders = {row.partition: row.owner for row in rows}
    mine = [partition for partition in can if holders.get(partition) == me]
    free = [partition for partition in can if holders.get(partition) is None]
    room = quota(len(can), sorted({*owners, me}).index(me), len({*owners, me})) - len(mine)
    if room >= 0:
        return LeasePlan(take=tuple(free[:room]))
    return LeasePlan(give_up=tuple(mine[room:]))


def next_look_s(rows: Sequence[PartitionRow], me: str, most_s: float) -> float:
    """Return the time until another look is of use: `most_s`, or less if another's lease runs out before."""
    others = [row.free_in_s for row in rows if row.owner not in (None, me) and row.free_in_s is not None]
    return min([most_s, *others])


def quota(partitions: int, rank: int, owners: int) -> int:
    """How many partitions the owner of a rank (from 0) holds: all of them over all ranks, evenly."""
    return partitions // owners + (rank < partitions % owners)


def forgettable(rows: Sequence[PartitionRow]) -> tuple[str, ...]:
    """Ended partitions that have been missing from their stream long enough, over all restarts."""
    return tuple(
        row.partition
        for row in rows
        if row.ended and row.missing_s is not None and row.missing_s >= FORGET_AFTER_S
    )
