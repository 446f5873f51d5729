"""What a broker's and pika's errors mean: retried, or wrong for good. Texts as RabbitMQ has them."""

from __future__ import annotations

import pytest
from pika.exceptions import (
    AMQPConnectionError,
    AuthenticationError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
    StreamLostError,
)

from millstream.amqp.address import Address
from millstream.amqp.faults import fault
from millstream.contract.errors import InvalidConfiguration, SourceUnavailable

ADDRESS = Address("rabbit", 5672)
DOWN = "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible"
TIMED_OUT = (
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms"
)


def closed(code: int, text: str) -> str:
    """How pika repeats what a broker said before the connection was open."""
    return repr(ConnectionClosedByBroker(code, text))


@pytest.mark.parametrize(
    ("error", "field"),
    [
        (ChannelClosedByBroker(404, "NOT_FOUND - no queue 'q' in vhost '/'"), "queue"),
        (ChannelClosedByBroker(403, "ACCESS_REFUSED - access to queue 'q' refused"), "queue"),
        (ChannelClosedByBroker(405, "RESOURCE_LOCKED - cannot obtain exclusive access"), "queue"),
        (ProbableAuthenticationError(closed(403, "ACCESS_REFUSED - Login was refused")), "basic_auth"),
        (AuthenticationError("EXTERNAL"), "basic_auth"),
        (ProbableAccessDeniedError(closed(530, "NOT_ALLOWED - vhost limits not found")), "virtual_host"),
        (AMQPConnectionError(ProbableAuthenticationError(closed(403, "ACCESS_REFUSED"))), "basic_auth"),
    ],
)
def test_what_no_retry_mends_names_the_option(error: Exception, field: str) -> None:
    found = fault(error, ADDRESS, "q")
    assert isinstance(found, InvalidConfiguration)
    assert [problem.field for problem in found.problems] == [field]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ChannelClosedByBroker(404, DOWN), "down or inaccessible"),
        (ChannelClosedByBroker(403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"), "403"),
        (ChannelClosedByBroker(406, TIMED_OUT), "timed out"),
        (ChannelClosedByBroker(541, "INTERNAL_ERROR"), "541 INTERNAL_ERROR"),
        (ConnectionClosedByBroker(320, "CONNECTION_FORCED - broker forced\n connection closure"), "320"),
        (ProbableAccessDeniedError(closed(530, "NOT_ALLOWED - connection limit (1) is reached")), "limit"),
        (ProbableAccessDeniedError(closed(541, "INTERNAL_ERROR - vhost 'v' is down")), "541"),
        (ProbableAuthenticationError(repr(StreamLostError("Transport indicated EOF"))), "during the login"),
        (StreamLostError("Stream connection lost"), "StreamLostError"),
        (AMQPConnectionError(ConnectionRefusedError(111, "Connection refused")), "Connection refused"),
        (None, "the connection ended"),
    ],
)
def test_what_a_retry_may_mend_says_where_and_why(error: Exception | None, says: str) -> None:
    found = fault(error, ADDRESS, "q")
    assert isinstance(found, SourceUnavailable)
    assert str(found).startswith("q at rabbit:5672: ")
    assert says in str(found)
    assert "\n" not in str(found)
