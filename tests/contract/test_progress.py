"""How far a partition is resolved, whatever is let go and read again meanwhile."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.progress import Position, Progress


def at(*numbers: int) -> list[Position]:
    return [Position(str(number)) for number in numbers]


def test_the_cursor_stays_before_what_was_let_go_until_that_is_resolved() -> None:
    progress = Progress()
    progress.admit(at(0, 1))
    progress.stay()
    progress.admit(at(2, 3, 4))
    progress.let_go(at(2, 4))
    assert progress.complete(at(0, 1, 3)) == "1"
    progress.admit_again(at(2, 4))
    assert progress.caught_up() is None
    assert progress.complete(at(4)) is None
    assert progress.complete(at(2)) == "4"
    assert len(progress) == 0


def test_what_is_read_beyond_and_not_resolved_keeps_the_cursor_in_its_place() -> None:
    progress = Progress()
    progress.stay()
    progress.admit(at(0, 1, 2))
    progress.let_go(at(0))
    progress.admit_again(at(0))
    progress.caught_up()
    assert progress.complete(at(2)) is None
    assert progress.complete(at(0)) == "0"
    assert progress.complete(at(1)) == "2"


def test_memory_is_that_of_what_is_unresolved_however_long_something_is_let_go() -> None:
    progress = Progress()
    progress.stay()
    for number in range(10_000):
        progress.admit(at(number))
        if number % 3:
            progress.complete(at(number))
        else:
            progress.let_go(at(number))
    assert len(progress) == 0
    assert progress.beyond == 10_000


@given(st.integers(), st.integers(1, 40))
def test_no_cursor_ever_passes_a_record_that_is_not_resolved(seed: int, total: int) -> None:
    """One lane blocks and frees at any moment; its records are read again from where it was left."""
    rnd, progress = random.Random(seed), Progress()
    lane_of = [rnd.random() < 0.4 for _ in range(total)]  # True: the lane that blocks
    unresolved: list[int] = []
    resolved: set[int] = set()
    behind_from: int | None = None
    read, cursor = 0, -1

    def move(position: Position | None) -> None:
        nonlocal cursor
        if position is not None:
            assert int(position) > cursor
            cursor = int(position)
            assert all(number in resolved for number in range(cursor + 1))

    def read_again() -> None:
        nonlocal behind_from
        assert behind_from is not None
        again = [n for n in range(behind_from, read) if lane_of[n]]
        kept = again[: rnd.randint(0, len(again))]
        progress.admit_again(at(*kept))
        unresolved.extend(kept)
        if len(kept) == len(again):
            behind_from = None
            move(progress.caught_up())
        else:
            behind_from = again[len(kept)]

    while len(resolved) < total:
        step = rnd.choice(["read", "block", "free", "resolve"])
        if step == "read" and read < total:
            progress.admit(at(read))
            if lane_of[read] and behind_from is not None:
                progress.let_go(at(read))
            else:
                unresolved.append(read)
            read += 1
        elif step == "block" and behind_from is None and read < total and lane_of[read]:
            progress.stay()
            behind_from = read
        elif step == "free" and behind_from is not None:
            read_again()
        elif step == "resolve" and unresolved:
            some = rnd.sample(unresolved, rnd.randint(1, len(unresolved)))
            for number in some:
                unresolved.remove(number)
            resolved |= set(some)
            move(progress.complete(at(*some)))
    if behind_from is not None:
        behind_from = None
        move(progress.caught_up())
    assert cursor == total - 1
    assert len(progress) == 0
