"""What a broker's and pika's errors mean: refused, or no answer. Texts as RabbitMQ has them."""

from __future__ import annotations

import ssl

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
from millstream.amqp.faults import fault, largest_message
from millstream.contract.errors import Refused, SourceUnavailable

ADDRESS = Address("rabbit", 5672)
DOWN = "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible"
TIMED_OUT = (
    "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: 1800000 ms"
)


LARGER = "PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000"


def certificate() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
    error.verify_message = "self-signed certificate"
    return error


def no_tls(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:1006)")
    error.reason = reason
    return error


def closed(code: int, text: str) -> str:
    """How pika repeats what a broker said before the connection was open."""
    return repr(ConnectionClosedByBroker(code, text))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ChannelClosedByBroker(404, "NOT_FOUND - no queue 'q' in vhost '/'"), "q: NOT_FOUND - no queue 'q'"),
        (ChannelClosedByBroker(403, "ACCESS_REFUSED - access to queue 'q' refused"), "q: ACCESS_REFUSED - "),
        (
            ChannelClosedByBroker(405, "RESOURCE_LOCKED - cannot obtain exclusive access"),
            "q: RESOURCE_LOCKED",
        ),
        (
            ProbableAuthenticationError(closed(403, "ACCESS_REFUSED - Login was refused")),
            "rabbit:5672 refuses the login: ACCESS_REFUSED - Login was refused",
        ),
        (AuthenticationError("EXTERNAL"), "rabbit:5672 takes no PLAIN logins"),
        (
            ProbableAccessDeniedError(closed(530, "NOT_ALLOWED - vhost limits not found")),
            "rabbit:5672 does not let us into '/': NOT_ALLOWED - vhost limits not found",
        ),
        (
            AMQPConnectionError(ProbableAuthenticationError(closed(403, "ACCESS_REFUSED"))),
            "rabbit:5672 refuses the login: ACCESS_REFUSED",
        ),
        (
            AMQPConnectionError(certificate()),
            "rabbit:5672: certificate verify failed: self-signed certificate",
        ),
        (AMQPConnectionError(no_tls("WRONG_VERSION_NUMBER")), "rabbit:5672: no TLS with it: WRONG_VERSION"),
    ],
)
def test_what_somebody_must_mend_is_refused_and_says_by_whom_and_why(error: Exception, says: str) -> None:
    found = fault(error, ADDRESS, "q")
    assert isinstance(found, Refused)
    assert str(found).startswith(says)


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
        (AMQPConnectionError(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")), "EOF occurred"),
        (ChannelClosedByBroker(406, LARGER), "406 PRECONDITION_FAILED"),
        (None, "the connection ended"),
    ],
)
def test_what_a_retry_may_mend_says_where_and_why(error: Exception | None, says: str) -> None:
    found = fault(error, ADDRESS, "q")
    assert isinstance(found, SourceUnavailable)
    assert str(found).startswith("q at rabbit:5672: ")
    assert says in str(found)
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("error", "most_bytes"),
    [
        (ChannelClosedByBroker(406, LARGER), 1000),
        (ChannelClosedByBroker(406, "PRECONDITION_FAILED - message size 2B is larger than max size 1"), 1),
        (ChannelClosedByBroker(406, TIMED_OUT), None),
        (StreamLostError("lost"), None),
        (None, None),
    ],
)
def test_a_broker_tells_the_largest_message_that_it_takes(
    error: Exception | None, most_bytes: int | None
) -> None:
    assert largest_message(error) == most_bytes
