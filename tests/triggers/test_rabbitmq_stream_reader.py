"""What a reader of a stream takes of its subscriptions: all, once, in order, and nothing behind a gap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.errors import SourceUnavailable
from millstream.contract.records import Position
from millstream.contract.streams import After, At, Oldest, Start
from millstream.triggers.rabbitmq_stream_chunks import Piece
from millstream.triggers.rabbitmq_stream_messages import StreamRecordMaker
from millstream.triggers.rabbitmq_stream_reader import RabbitMqStreamReader, place_for
from millstream.triggers.rabbitmq_stream_subscription import Newest, Place

LOST = SourceUnavailable("lost")


def piece(first: int, last: int, at_ms: int = 1000, *, chunk_last: int | None = None) -> Piece:
    make = StreamRecordMaker("s").record
    records = [make(offset, at_ms, b"x", 1.0) for offset in range(first, last + 1)]
    end = last if chunk_last is None else chunk_last
    return Piece(first, last, at_ms, records, end, ends_chunk=end == last)


class Scripted:
    """A subscription that brings what it was made with, and is lost then; without a fault it goes on."""

    def __init__(
        self, *pieces: Piece, newest: Newest | None = None, fault: SourceUnavailable | None = LOST
    ) -> None:
        self.changed: Callable[[], None] = lambda: None
        self.newest = newest
        self.fault = fault
        self.closed = False
        self._pieces = list(pieces)

    @property
    def over(self) -> bool:
        return self.fault is not None and not self._pieces

    def start(self) -> None: ...

    def take(self, limit: int) -> list[Piece]:
        taken, self._pieces = self._pieces, []
        return taken

    def wait(self) -> bool:
        return not self._pieces

    def close(self) -> None:
        self.closed = True


class Script:
    """Subscriptions, one after the other, and the places that they were asked for."""

    def __init__(self, start: Start, *subscriptions: Scripted, held: Scripted | None = None) -> None:
        self.subscriptions = subscriptions
        self.places: list[Place] = []
        self.reader = RabbitMqStreamReader("s", start, self._subscribe, held)

    def _subscribe(self, place: Place, changed: Callable[[], None], /) -> Scripted:
        self.places.append(place)
        return self.subscriptions[len(self.places) - 1]

    async def offsets(self, reads: int = 20) -> list[int]:
        """Offsets that some reads bring, faults passed over."""
        offsets: list[int] = []
        for _ in range(reads):
            try:
                page = await self.reader.read(3, 0.0)
            except SourceUnavailable:
                continue
            offsets += [int(record.item_id) for record in page.records]
        return offsets


def after(offset: int, at_ms: int = 1000) -> After:
    return After(Position(f"{offset}:{at_ms}"))


QUIET = Scripted(fault=None)


async def test_a_chunk_that_begins_before_the_place_is_read_from_there() -> None:
    script = Script(after(4), Scripted(piece(0, 7)), QUIET)
    assert await script.offsets() == [5, 6, 7]
    assert script.places == [place_for(after(4)), place_for(after(7))]


async def test_a_chunk_behind_a_gap_is_refused_and_asked_for_again() -> None:
    torn = Scripted(piece(0, 3), piece(6, 9), fault=None)
    script = Script(Oldest(), torn, Scripted(piece(0, 3), piece(4, 5), piece(6, 9)), QUIET)
    assert await script.offsets() == list(range(10))
    assert torn.closed
    assert script.places[1] == place_for(after(3))


async def test_what_was_lost_on_the_way_is_said(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(Oldest(), Scripted(piece(0, 3), piece(6, 9)), Scripted(piece(0, 9)), QUIET)
    assert await script.offsets() == list(range(10))
    (warning,) = caplog.records
    assert warning.message == "records were lost on the way, and are read again"
    assert (vars(warning)["offset"], vars(warning)["records"]) == (4, 2)


async def test_offsets_that_the_broker_has_used_for_itself_are_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It writes the offsets that consumers store into the stream, where each takes an offset of its own."""
    stream = (piece(0, 3), piece(5, 9), piece(11, 12), piece(14, 14))
    script = Script(Oldest(), Scripted(*stream), Scripted(*stream), QUIET)
    assert await script.offsets() == [*range(4), *range(5, 10), 11, 12, 14]
    assert script.places[1:] == [place_for(after(3)), place_for(after(14))]
    assert not caplog.records


async def test_more_offsets_than_the_broker_has_ever_used_for_itself_are_asked_for_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known, lost = (piece(0, 3), piece(5, 9)), piece(10, 14)
    script = Script(
        Oldest(), Scripted(*known), Scripted(*known, piece(15, 16)), Scripted(lost, piece(15, 16)), QUIET
    )
    assert await script.offsets() == [*range(4), *range(5, 17)]
    assert [record.message for record in caplog.records] == [
        "records were lost on the way, and are read again"
    ]


async def test_what_comes_twice_is_read_once() -> None:
    script = Script(Oldest(), Scripted(piece(0, 5), piece(4, 7), piece(0, 7), piece(8, 8)), QUIET)
    assert await script.offsets() == list(range(9))


async def test_what_was_trimmed_is_passed_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(after(4), Scripted(piece(9, 10)), QUIET)
    assert await script.offsets() == [9, 10]
    (warning,) = caplog.records
    assert warning.message == "records were trimmed before they were read"
    assert (vars(warning)["offset"], vars(warning)["records"]) == (5, 4)


@pytest.mark.parametrize(
    "anew",
    [
        Scripted(piece(0, 7, 2000)),  # another chunk where ours was
        Scripted(piece(0, 3, 2000, chunk_last=7), piece(4, 7, 2000)),
        Scripted(piece(2, 2, 2000)),  # a shorter stream, which was written since
        Scripted(newest=Newest(2, 2000), fault=None),  # a shorter one, to which nothing is written
    ],
)
async def test_a_stream_that_was_made_anew_is_read_from_its_oldest_record(
    anew: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(after(4, 1000), anew, Scripted(piece(0, 7, 2000)), QUIET)
    assert await script.offsets() == list(range(8))
    assert anew.closed
    assert script.places[1] == place_for(Oldest())
    assert "made anew" in caplog.text


@pytest.mark.parametrize(
    "late",
    [
        Scripted(piece(0, 2, 500), piece(3, 4, 1000), piece(5, 6, 1500)),
        Scripted(piece(3, 6, 1000), newest=Newest(2, 500)),
    ],
)
async def test_a_node_that_is_behind_is_not_taken_for_another_stream(
    late: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(after(4, 1000), late, QUIET)
    assert await script.offsets() == [5, 6]
    assert not caplog.records


async def test_from_a_time_on_earlier_chunks_are_passed_over() -> None:
    script = Script(At(2.0), Scripted(piece(0, 3, 1999), piece(4, 5, 2000), piece(6, 6, 1500)), QUIET)
    assert await script.offsets() == [4, 5, 6]


async def test_what_is_missing_among_them_is_asked_for_again() -> None:
    script = Script(
        At(2.0), Scripted(piece(0, 3, 1000), piece(5, 6, 2000)), Scripted(piece(4, 6, 2000)), QUIET
    )
    assert await script.offsets() == [4, 5, 6]
    assert script.places[1] == place_for(At(2.0))


async def test_what_was_held_since_a_mark_is_read_whole() -> None:
    held = Scripted(piece(7, 8, 1000), piece(9, 9, 1000))
    script = Script(At(2.0), QUIET, held=held)
    assert await script.offsets() == [7, 8, 9]


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 8), st.sets(st.integers(1, 7))), max_size=6),
)
async def test_whatever_is_lost_on_the_way_each_record_comes_once_and_in_order(
    sizes: Sequence[int], lives: Sequence[tuple[int, set[int]]]
) -> None:
    """A life of a subscription is how many chunks it brings, and which of them are lost, none twice."""
    ends = [sum(sizes[: count + 1]) for count in range(len(sizes))]
    chunks = [(end - size, end - 1) for end, size in zip(ends, sizes, strict=True)]
    scripted, once = [], set[int]()
    for count, lost in lives:
        brought = [at for at in range(len(chunks[:count])) if at not in lost - once]
        scripted.append(Scripted(*[piece(*chunks[at]) for at in brought]))
        once |= lost
    script = Script(Oldest(), *scripted, Scripted(*[piece(*chunk) for chunk in chunks]), QUIET)
    assert await script.offsets(reads=60) == list(range(ends[-1]))
