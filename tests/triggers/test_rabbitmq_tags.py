"""Delivery tags: each is settled once, in order with one command."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millstream.triggers.rabbitmq_tags import Command, Tags


def test_a_batch_from_the_front_takes_one_command() -> None:
    assert Tags().settle(range(1, 501)) == [Command(500, True)]


def test_what_lies_behind_something_unsettled_is_settled_one_by_one() -> None:
    tags = Tags()
    assert tags.settle([3, 4]) == [Command(3, False), Command(4, False)]
    assert tags.settle([1]) == [Command(1, True)]
    assert tags.settle([2, 5]) == [Command(5, True)]


def test_a_tag_that_is_settled_already_is_passed_over() -> None:
    tags = Tags()
    tags.settle([1, 3])
    assert tags.settle([1, 3]) == []
    assert tags.settle([2, 2, 3]) == [Command(2, True)]


@given(st.lists(st.sets(st.integers(1, 40), min_size=1), max_size=12))
def test_a_broker_sees_each_tag_settled_once_and_no_other(batches: list[set[int]]) -> None:
    tags, open_at_broker, asked = Tags(), set(range(1, 41)), set[int]()
    for batch in batches:
        asked |= batch
        for tag, multiple in tags.settle(batch):
            assert tag in open_at_broker  # else the broker closes the channel
            open_at_broker -= {each for each in open_at_broker if each <= tag} if multiple else {tag}
        assert open_at_broker == set(range(1, 41)) - asked
