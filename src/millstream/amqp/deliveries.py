"""Takes messages out of what a connection brings, in the place of pika's frame objects.

They cost three times as much as all else that is done for a message before its function sees it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import pika
from pika import frame

from millstream.amqp.wire import Properties, read_properties

RECEIVED_BYTES = 65_536
"""What is read from the socket at once, sixteen times as much as pika reads."""

LARGE_BYTES = 65_536
"""Bodies from this size on are left to pika, who puts them together frame by frame."""

_METHOD, _HEADER, _BODY, _END = 1, 2, 3, 0xCE
_DELIVER = (60, 60)
_FRAME = struct.Struct(">BHI")  # type, channel, size
_METHOD_START = struct.Struct(">BHIHH")  # the same, class, method
_HEADER_START = struct.Struct(">BHIHHQ")  # the same, class, weight, size of the body
_TAG = struct.Struct(">QB")  # delivery tag, redelivered
_TAG_AT = 12
"""Where a delivery tag is within its frame, if the consumer's tag before it were empty."""

OnDelivery: TypeAlias = Callable[[int, bool, Properties, bytes], None]
"""Takes a message: delivery tag, redelivered, properties, body."""


class Delivery(NamedTuple):
    """A whole message within received bytes."""

    end: int  # where the next frame begins
    frames: int
    tag: int
    redelivered: bool
    properties: Properties
    body: bytes


class Incomplete:
    """The bytes hold the beginning of a message; the rest is still to come."""


INCOMPLETE = Incomplete()


class Connection(pika.SelectConnection):  # type: ignore[misc]  # pika has no types
    """A connection whose messages carry `Properties`, and which can be cut off.

    Messages go to `on_delivery`, if it is set; those that are large, or came in pieces, to pika's consumer.
    """

    on_delivery: OnDelivery | None = None

    def abort(self) -> None:
        """End without asking the broker, who may not answer."""
        self._terminate_stream(pika.exceptions.StreamLostError("cut off"))

    def _proto_connection_made(self, transport: Any) -> None:
        transport._MAX_RECV_BYTES = RECEIVED_BYTES
        super()._proto_connection_made(transport)

    def _on_data_available(self, data_in: bytes) -> None:
        self._frame_buffer += data_in
        while self._frame_buffer:
            if self.on_delivery is not None and not self._take_deliveries(self.on_delivery):
                return
            consumed, found = self._read_frame()
            if not found:
                return
            self._trim_frame_buffer(consumed)
            self._process_frame(found)

    def _take_deliveries(self, take: OnDelivery) -> bool:
        """Hand over the messages at the front; False if what is left is to be completed first."""
        data, at = self._frame_buffer, 0
        found = read_delivery(data, at)
        while isinstance(found, Delivery):
            at = found.end
            self.frames_received += found.frames
            take(found.tag, found.redelivered, found.properties, found.body)
            found = read_delivery(data, at)
        if at:
            self._trim_frame_buffer(at)
        return found is None and at < len(data)

    def _read_frame(self) -> tuple[int, Any]:
        found = read_header_frame(self._frame_buffer)
        return found or super()._read_frame()


def read_delivery(data: bytes, at: int) -> Delivery | Incomplete | None:
    """The message that begins at `at`. None: something else does, or a message that is left to pika."""
    if len(data) < at + _METHOD_START.size:
        return INCOMPLETE if data[at : at + 1] == b"\x01" else None
    kind, _, size, class_id, method_id = _METHOD_START.unpack_from(data, at)
    if kind != _METHOD or (class_id, method_id) != _DELIVER:
        return None
    header = at + _FRAME.size + size + 1
    if at + _TAG_AT > len(data):
        return INCOMPLETE
    tag_at = at + _TAG_AT + data[at + _TAG_AT - 1]  # behind the consumer's tag
    if tag_at + _TAG.size > header - 1:
        return None
    if len(data) < header + _HEADER_START.size:
        return INCOMPLETE
    kind, _, size, _, _, body_bytes = _HEADER_START.unpack_from(data, header)
    if kind != _HEADER or data[header - 1] != _END or body_bytes >= LARGE_BYTES:
        return None
    after = header + _FRAME.size + size + 1
    if len(data) < after:
        return INCOMPLETE
    if data[after - 1] != _END:
        return None
    body = _body(data, after, body_bytes)
    if not isinstance(body, tuple):
        return body
    tag, redelivered = _TAG.unpack_from(data, tag_at)
    properties = read_properties(data, header + _HEADER_START.size, after - 1)
    return Delivery(body[0], 2 + body[1], tag, bool(redelivered & 1), properties, body[2])


def _body(data: bytes, at: int, wanted: int) -> tuple[int, int, bytes] | Incomplete | None:
    """End, number of frames and content of a message's body frames. None: they are none."""
    parts: list[bytes] = []
    while wanted > 0:
        if len(data) < at + _FRAME.size:
            return INCOMPLETE
        kind, _, size = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + size + 1
        if kind != _BODY:
            return None
        if len(data) < end:
            return INCOMPLETE
        if data[end - 1] != _END:
            return None
        parts.append(data[at + _FRAME.size : end - 1])
        wanted -= size
        at = end
    return at, len(parts), parts[0] if len(parts) == 1 else b"".join(parts)


def read_header_frame(data: bytes) -> tuple[int, Any] | None:
    """Length and value of the content header frame that `data` begins with. None: another, or not whole."""
    if data[:1] != b"\x02" or len(data) < _HEADER_START.size:
        return None
    _, channel, size, _, _, body_bytes = _HEADER_START.unpack_from(data)
    end = _FRAME.size + size + 1
    if len(data) < end or data[end - 1] != _END:
        return None  # pika waits for the rest, or refuses it
    properties = read_properties(data, _HEADER_START.size, end - 1)
    return end, frame.Header(channel, body_bytes, properties)
