"""What waits between the polling thread and the mapping: bounds, rewinds, lost partitions."""

from __future__ import annotations

import msgspec
import pytest

from millstream.contract.errors import LeaseLost
from millstream.contract.records import Position, Record
from millstream.triggers.kafka_buffer import BUFFER_RECORDS, LEAST_BYTES
from millstream.triggers.kafka_buffers import POLL_RECORDS, Buffers, Room
from millstream.triggers.kafka_records import RecordMaker

MAKE = RecordMaker("t").record


def records(first: int, count: int, partition: int = 0) -> list[Record]:
    return [MAKE(partition, n, "CREATE_TIME", 0, None, b"", None, 0.0) for n in range(first, first + count)]


def offsets(found: list[Record]) -> list[int]:
    return [int(record.position) for record in found]


def opened(*partitions: int) -> Buffers:
    buffers = Buffers()
    buffers.open(dict.fromkeys(partitions, 0), 1)
    return buffers


def test_records_are_taken_in_order_up_to_a_limit() -> None:
    buffers = opened(0)
    buffers.put({0: records(0, 5)})
    buffers.put({0: records(5, 5)})
    assert offsets(buffers.take([(0, 1)], 7)) == [*range(7)]
    assert offsets(buffers.take([(0, 1)], 7)) == [7, 8, 9]
    assert buffers.take([(0, 1)], 7) == []


def test_partitions_that_are_taken_together_are_first_by_turns() -> None:
    buffers = opened(0, 1, 2)
    buffers.put({partition: records(0, 100, partition) for partition in range(3)})
    parts = [(partition, 1) for partition in range(3)]
    taken = [buffers.take(parts, 40) for _ in range(6)]
    assert [[record.partition for record in found] for found in taken] == [
        [f"t-{n}"] * 40 for n in (0, 1, 2) * 2
    ]
    assert [offsets(found)[0] for found in taken] == [0, 0, 0, 40, 40, 40]


def test_a_full_partition_is_waited_for_and_then_passed_over_until_it_is_half_empty() -> None:
    buffers = opened(0, 1)
    buffers.put({0: records(0, BUFFER_RECORDS)})
    assert buffers.room(10.0, 0.0, 1.0) == Room(False, POLL_RECORDS, [], [])
    assert buffers.room(10.9, 0.0, 1.0) == Room(False, POLL_RECORDS, [], [])
    assert buffers.room(11.0, 0.0, 1.0) == Room(True, POLL_RECORDS, [0], [])
    assert buffers.room(11.1, 0.0, 1.0) == Room(True, POLL_RECORDS, [], [])
    buffers.take([(0, 1)], BUFFER_RECORDS // 2 - 1)
    assert buffers.room(11.2, 0.0, 1.0) == Room(True, POLL_RECORDS, [], [])
    buffers.take([(0, 1)], 1)
    assert buffers.room(11.3, 0.0, 1.0) == Room(True, POLL_RECORDS, [], [0])


def test_a_slow_partition_is_waited_for_no_more_until_it_was_empty() -> None:
    buffers = opened(0, 1)
    buffers.put({0: records(0, BUFFER_RECORDS)})
    buffers.room(10.0, 0.0, 1.0)
    buffers.room(11.0, 0.0, 1.0)
    buffers.take([(0, 1)], BUFFER_RECORDS // 2)
    buffers.room(11.1, 0.0, 1.0)
    buffers.put({0: records(BUFFER_RECORDS, BUFFER_RECORDS)})
    assert buffers.room(11.2, 0.0, 1.0) == Room(True, POLL_RECORDS, [0], [])
    buffers.take([(0, 1)], 2 * BUFFER_RECORDS)
    assert buffers.room(11.3, 0.0, 1.0) == Room(True, POLL_RECORDS, [], [0])
    buffers.put({0: records(2 * BUFFER_RECORDS, BUFFER_RECORDS)})
    assert buffers.room(11.4, 0.0, 1.0) == Room(False, POLL_RECORDS, [], [])


def test_a_new_reader_has_what_is_behind_the_cursor_again() -> None:
    buffers = opened(0)
    buffers.put({0: records(0, 10)})
    buffers.take([(0, 1)], 6)
    buffers.passed(0, 1, 4)
    buffers.rewind(0, 1)
    assert buffers.wanted() == {0: 4}
    buffers.put({0: records(10, 5)})  # fetched before the client went back
    assert buffers.take([(0, 1)], 10) == []
    buffers.sought({0: 4})
    buffers.put({0: records(4, 3)})
    assert offsets(buffers.take([(0, 1)], 10)) == [4, 5, 6]


def test_a_reader_whose_records_are_all_behind_the_cursor_goes_on() -> None:
    buffers = opened(0)
    buffers.put({0: records(0, 10)})
    buffers.take([(0, 1)], 6)
    buffers.passed(0, 1, 6)
    buffers.rewind(0, 1)
    assert buffers.wanted() == {}
    assert offsets(buffers.take([(0, 1)], 10)) == [6, 7, 8, 9]


def test_a_rewind_while_the_client_goes_back_is_not_forgotten() -> None:
    buffers = opened(0)
    buffers.put({0: records(0, 10)})
    buffers.take([(0, 1)], 10)
    buffers.rewind(0, 1)
    wanted = buffers.wanted()
    buffers.jump(0, 3)
    buffers.sought(wanted)
    assert buffers.wanted() == {0: 3}


def test_a_partition_that_goes_back_is_passed_over_no_more() -> None:
    buffers = opened(0)
    buffers.put({0: records(0, BUFFER_RECORDS)})
    assert buffers.room(10.0, 0.0, 0.0) == Room(True, POLL_RECORDS, [0], [])
    buffers.take([(0, 1)], 1)
    buffers.rewind(0, 1)
    buffers.sought(buffers.wanted())
    buffers.put({0: records(0, BUFFER_RECORDS)})
    assert buffers.room(10.0, 0.0, 0.0) == Room(True, POLL_RECORDS, [0], [])


def test_nothing_is_written_or_taken_under_an_epoch_that_is_over() -> None:
    buffers = opened(0)
    buffers.put({0: records(0, 1)})
    buffers.drop([0])
    buffers.open({0: 0}, 2)
    buffers.put({0: records(0, 1)})
    assert buffers.take([(0, 1)], 10) == []
    with pytest.raises(LeaseLost):
        buffers.passed(0, 1, 1)
    with pytest.raises(LeaseLost):
        buffers.check(0, 1)
    assert offsets(buffers.take([(0, 2)], 10)) == [0]


def test_what_a_poll_that_failed_has_taken_comes_again() -> None:
    buffers = opened(0, 1)
    buffers.put({0: records(0, 5), 1: records(0, 5, 1)})
    buffers.take([(0, 1)], 3)
    buffers.read_again()
    assert buffers.wanted() == {0: 3, 1: 0}
    assert buffers.take([(0, 1), (1, 1)], 10) == []
    buffers.sought(buffers.wanted())
    buffers.put({0: records(3, 2)})
    assert offsets(buffers.take([(0, 1)], 10)) == [3, 4]


def test_markers_are_passed_once_all_before_them_is_done_with() -> None:
    buffers = opened(0)
    buffers.put({0: records(0, 3)}, {0: 5})
    assert buffers.skip_markers() == {}
    buffers.take([(0, 1)], 3)
    buffers.passed(0, 1, 2)
    assert buffers.skip_markers() == {}
    buffers.passed(0, 1, 3)
    assert buffers.skip_markers() == {0: 5}
    assert buffers.skip_markers() == {}
    buffers.put({}, {0: 7})  # of a transaction that was undone
    assert buffers.skip_markers() == {0: 7}
    buffers.put({0: records(7, 1)}, {0: 9})
    assert buffers.skip_markers() == {}


def test_markers_are_not_passed_while_the_client_goes_back() -> None:
    buffers = opened(0)
    buffers.put({0: records(0, 3)})
    buffers.take([(0, 1)], 3)
    buffers.rewind(0, 1)
    buffers.put({}, {0: 5})
    buffers.passed(0, 1, 3)
    assert buffers.skip_markers() == {}


def test_no_way_leads_back_behind_records_that_the_reader_has() -> None:
    buffers = opened(0)
    buffers.jump(0, 100)
    buffers.sought({0: 100})
    buffers.put({0: records(100, 5)})
    buffers.take([(0, 1)], 5)
    assert not buffers.jump(0, 0)
    buffers.passed(0, 1, 105)
    assert buffers.jump(0, 0)
    assert buffers.wanted() == {0: 0}


@pytest.mark.parametrize("partitions", [1, 12, 100, 500])
@pytest.mark.parametrize("size_bytes", [200, 10_000, 1_000_000])
def test_what_waits_keeps_to_the_budget_however_many_partitions_share_it(
    partitions: int, size_bytes: int
) -> None:
    """With a client that brings what it may, and nothing that is passed over; no reader takes anything."""
    most, now = 64 * 1024 * 1024 // 4, 0.0
    buffers = Buffers(most)
    buffers.open(dict.fromkeys(range(partitions), 0), 1)
    paused, reached = set[int](), dict.fromkeys(range(partitions), 0)
    model = records(0, 1)[0]
    model = msgspec.structs.replace(model, event=b"x" * size_bytes)
    while len(paused) < partitions:
        room = buffers.room(now, 0.0, 1.0)
        now += 2.0
        paused |= set(room.pass_over)
        if not room.enough or len(paused) == partitions:
            continue
        partition = min(set(range(partitions)) - paused)  # all of it of one, which is the worst
        first = reached[partition]
        reached[partition] += room.limit
        buffers.put(
            {
                partition: [
                    msgspec.structs.replace(model, position=Position(str(offset)))
                    for offset in range(first, first + room.limit)
                ]
            }
        )
    first_poll = POLL_RECORDS * size_bytes  # whose records nobody knew the size of
    least = partitions * (LEAST_BYTES + size_bytes)
    assert buffers.bytes <= max(2 * most, 2 * least) + first_poll


def test_a_poll_is_asked_for_what_one_share_holds_of_the_largest_of_late() -> None:
    buffers = Buffers(1_000_000)
    buffers.open({0: 0, 1: 0}, 1)
    assert buffers.room(0.0, 0.0, 1.0).limit == POLL_RECORDS
    large = [msgspec.structs.replace(record, event=b"x" * 100_000) for record in records(0, 2)]
    buffers.put({0: large})
    assert buffers.room(0.0, 0.0, 1.0).limit == 5
    buffers.drop([1])
    assert buffers.room(0.0, 0.0, 1.0).limit == 10


def test_a_way_that_leads_forth_leaves_what_waits_to_the_reader() -> None:
    buffers = opened(0)
    buffers.put({0: records(0, 10)})
    buffers.take([(0, 1)], 3)
    buffers.passed(0, 1, 2)
    assert buffers.jump(0, 100)  # the log was trimmed behind what was fetched
    buffers.sought(buffers.wanted())
    buffers.put({0: records(100, 2)}, {0: 105})
    assert offsets(buffers.take([(0, 1)], 20)) == [*range(3, 10), 100, 101]
    assert buffers.skip_markers() == {}
    buffers.passed(0, 1, 102)
    assert buffers.skip_markers() == {0: 105}
