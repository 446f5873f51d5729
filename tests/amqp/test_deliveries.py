"""Messages within the bytes of a connection: whole, in pieces, large, and between other frames."""

from __future__ import annotations

from typing import Any

import pika
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec

from millstream.amqp.deliveries import (
    INCOMPLETE,
    LARGE_BYTES,
    Connection,
    Delivery,
    read_delivery,
    read_header_frame,
)
from millstream.amqp.wire import Properties

FRAME_BYTES = 1000  # of a body frame; a server's are larger


def sent(tag: int, body: bytes, *, redelivered: bool = False, **properties: Any) -> bytes:
    """A message as a broker sends it."""
    method = spec.Basic.Deliver("consumer", tag, redelivered, "exchange", "key")
    frames = [frame.Method(1, method), frame.Header(1, len(body), pika.BasicProperties(**properties))]
    frames += [frame.Body(1, body[at : at + FRAME_BYTES]) for at in range(0, len(body), FRAME_BYTES)]
    return b"".join([each.marshal() for each in frames])


def test_a_whole_message_is_read() -> None:
    data = b"before" + sent(7, b"body", redelivered=True, message_id="m") + b"behind"
    found = read_delivery(data, 6)
    assert isinstance(found, Delivery)
    assert data[found.end :] == b"behind"
    assert found[1:] == (3, 7, True, Properties(message_id="m"), b"body")


def test_a_body_may_be_empty_or_of_several_frames() -> None:
    for body, frames in ((b"", 2), (b"x" * FRAME_BYTES, 3), (b"ab" * FRAME_BYTES, 4)):
        found = read_delivery(sent(1, body), 0)
        assert isinstance(found, Delivery)
        assert (found.frames, found.body) == (frames, body)


def test_a_message_that_is_not_whole_is_waited_for() -> None:
    data = sent(1, b"ab" * FRAME_BYTES, headers={"a": "b"})
    for length in range(1, len(data)):
        assert read_delivery(data[:length], 0) is INCOMPLETE


def test_other_frames_and_large_messages_are_left_to_pika() -> None:
    others = [
        frame.Heartbeat().marshal(),
        frame.Method(1, spec.Basic.Cancel("consumer")).marshal(),
        frame.Body(1, b"data").marshal(),
        sent(1, b"x" * LARGE_BYTES),
        b"",
    ]
    assert [read_delivery(data, 0) for data in others] == [None] * len(others)


def test_a_frame_that_does_not_end_as_it_must_is_left_to_pika() -> None:
    data = sent(1, b"x")
    for end in (at for at, byte in enumerate(data) if byte == 0xCE):
        assert not isinstance(read_delivery(data[:end] + b"\x00" + data[end + 1 :], 0), Delivery)


def test_a_header_frame_is_taken_whole_or_not_at_all() -> None:
    properties = pika.BasicProperties(headers={"pi": "3"}, message_id="m")
    whole = frame.Header(1, 1234, properties).marshal()
    for length in range(len(whole)):
        assert read_header_frame(whole[:length]) is None
    read = read_header_frame(whole + b"\x03more")
    assert read is not None
    length, found = read
    assert length == len(whole)
    assert (found.channel_number, found.body_size) == (1, 1234)
    assert found.properties == Properties(headers={"pi": b"3"}, message_id="m")
    assert read_header_frame(frame.Body(1, b"data").marshal()) is None


class Bytes(Connection):
    """A connection to nobody: it keeps what it is brought, and what is left to pika."""

    def __init__(self) -> None:
        self._frame_buffer = b""
        self.bytes_received = self.frames_received = 0
        self.seen: list[int] = []  # tags, and 0 for each frame of another kind
        self.on_delivery = lambda tag, *_: self.seen.append(tag)

    def _process_frame(self, frame_value: Any) -> None:
        method = getattr(frame_value, "method", None)
        if isinstance(method, spec.Basic.Deliver):
            self.seen.append(method.delivery_tag)
        elif isinstance(frame_value, frame.Heartbeat):
            self.seen.append(0)


@given(st.lists(st.integers(-1, 3 * FRAME_BYTES), max_size=12), st.integers(1, 5000))
def test_whatever_the_pieces_each_message_comes_once_and_in_order(sizes: list[int], piece: int) -> None:
    """A size of -1 is a heartbeat between messages."""
    data, expected = b"", []
    for number, size in enumerate(sizes, 1):
        data += frame.Heartbeat().marshal() if size < 0 else sent(number, b"x" * size)
        expected.append(0 if size < 0 else number)
    connection = Bytes()
    for at in range(0, len(data), piece):
        connection._on_data_available(data[at : at + piece])
    assert connection.seen == expected
    assert connection.bytes_received == len(data)


def test_a_large_message_between_small_ones_keeps_its_place() -> None:
    connection = Bytes()
    connection._on_data_available(sent(1, b"x") + sent(2, b"x" * LARGE_BYTES) + sent(3, b"x"))
    assert connection.seen == [1, 2, 3]
