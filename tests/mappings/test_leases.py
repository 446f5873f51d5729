"""The lease planner: parents first, an even share for each daemon, nothing left out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.records import Position
from millstream.contract.state import PartitionRow
from millstream.contract.streams import Partition
from millstream.mappings.leases import (
    FORGET_AFTER_S,
    LeasePlan,
    forgettable,
    next_look_s,
    plan_leases,
    quota,
    readable,
)


def row(
    partition: str, owner: str | None = None, *, ended: bool = False, missing_s: float | None = None
) -> PartitionRow:
    return PartitionRow(partition, owner, 1, Position("1"), ended, missing_s)


def part(name: str, *parents: str) -> Partition:
    return Partition(name, frozenset(parents))


SPLIT = [part("a"), part("b", "a"), part("c", "a")]
MERGE = [part("a"), part("b"), part("c", "a", "b")]


def test_children_wait_for_their_parent() -> None:
    assert readable(SPLIT, []) == ["a"]
    assert readable(SPLIT, [row("a", "me")]) == ["a"]
    assert readable(SPLIT, [row("a", ended=True)]) == ["b", "c"]


def test_a_merged_child_waits_for_both_parents() -> None:
    assert readable(MERGE, [row("a", ended=True)]) == ["b"]
    assert readable(MERGE, [row("a", ended=True), row("b", ended=True)]) == ["c"]


def test_a_parent_that_was_trimmed_before_it_was_ever_seen_holds_nobody_back() -> None:
    assert readable([part("b", "a")], []) == ["b"]


def test_a_parent_that_vanishes_from_the_list_unread_holds_its_children_back() -> None:
    assert readable([part("b", "a")], [row("a")]) == ["a"]


def test_a_list_that_shrinks_for_a_moment_loses_nothing_that_is_known() -> None:
    rows = [row("a", "me"), row("b", "me"), row("z", ended=True)]
    assert readable([], rows) == ["a", "b"]
    assert plan_leases([], rows, ["me"], "me") == LeasePlan()


def test_one_daemon_takes_all() -> None:
    assert plan_leases([part("a"), part("b")], [], ["me"], "me") == LeasePlan(take=("a", "b"))


def test_an_older_daemon_gives_up_what_is_beyond_its_share() -> None:
    rows = [row(p, "me") for p in "abcd"]
    assert plan_leases([part(p) for p in "abcd"], rows, ["me", "you"], "me") == LeasePlan(give_up=("c", "d"))


def test_a_younger_daemon_waits_for_what_is_held() -> None:
    rows = [row(p, "me") for p in "abcd"]
    assert plan_leases([part(p) for p in "abcd"], rows, ["me", "you"], "you") == LeasePlan()


def test_what_a_dead_daemon_held_is_taken_once_its_leases_are_over() -> None:
    rows = [row("a", "me"), row("b", None)]
    assert plan_leases([part("a"), part("b")], rows, ["me"], "me") == LeasePlan(take=("b",))


@given(st.integers(0, 200), st.integers(1, 9))
def test_quotas_add_up_to_all_and_differ_by_one_at_most(partitions: int, owners: int) -> None:
    quotas = [quota(partitions, rank, owners) for rank in range(owners)]
    assert sum(quotas) == partitions
    assert max(quotas) - min(quotas) <= 1


@given(st.integers(1, 30), st.integers(1, 5), st.randoms())
def test_daemons_that_look_in_any_order_come_to_rest_with_all_shared(
    count: int, daemons: int, random: object
) -> None:
    partitions = [part(f"p{n}") for n in range(count)]
    owners = [f"d{n}" for n in range(daemons)]
    held: dict[str, str | None] = {p.id: None for p in partitions}
    for _ in range(3):
        random.shuffle(owners)  # type: ignore[attr-defined]  # Hypothesis gives random.Random
        for me in owners:
            plan = plan_leases(partitions, [row(p, o) for p, o in held.items()], owners, me)
            held |= dict.fromkeys(plan.take, me)
            held |= dict.fromkeys(plan.give_up, None)
    shares = [list(held.values()).count(owner) for owner in owners]
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1
    rows = [row(p, o) for p, o in held.items()]
    assert all(plan_leases(partitions, rows, owners, me) == LeasePlan() for me in owners)


def test_what_has_ended_is_forgotten_a_day_after_its_stream_forgot_it() -> None:
    rows = [
        row("old", ended=True, missing_s=FORGET_AFTER_S),
        row("new", ended=True, missing_s=FORGET_AFTER_S - 1),
        row("listed", ended=True),
        row("unread", missing_s=FORGET_AFTER_S),
    ]
    assert forgettable(rows) == ("old",)


@pytest.mark.parametrize(
    ("owner", "free_in_s", "wait_s"),
    [
        ("other", 5.0, 2.0),
        ("other", 0.5, 0.5),
        ("other", None, 2.0),  # of a store that cannot tell
        ("me", 0.5, 2.0),
        (None, 0.5, 2.0),
    ],
)
def test_a_daemon_looks_again_when_the_first_lease_of_another_runs_out(
    owner: str | None, free_in_s: float | None, wait_s: float
) -> None:
    rows = [PartitionRow("p", owner, 1, None, False, None, free_in_s), row("q")]
    assert next_look_s(rows, "me", 2.0) == wait_s
