"""Tells what pika reports apart: what the broker refuses, and what just fails."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import Iterator

from pika.exceptions import (
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from millstream.amqp.address import Address
from millstream.contract.errors import Refused, SourceUnavailable

ACCESS_REFUSED = 403
NOT_FOUND = 404
RESOURCE_LOCKED = 405
NOT_ALLOWED = 530
NOT_IMPLEMENTED = 540
"""Reply codes. Source: AMQP 0-9-1, "Constants"."""

_PASSING = re.compile(r"down or inaccessible|limit \(|exclusive use|is down")
"""Texts of refusals that pass: a node that restarts, a connection limit, another exclusive consumer."""

_CLOSED = re.compile(r"ConnectionClosedByBroker: \((\d+)\) (.*)", re.DOTALL)
"""How pika repeats, as text, what a broker said to a connection that was not open yet."""


_LARGER = re.compile(r"message size \d+B? is larger than (?:configured )?max size (\d+)")
"""What the broker says of a message above its `max_message_size`, as it closes the channel."""


def quiet() -> None:
    """Keep pika from logging, with stacks, the faults that it also hands to us."""
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def fault(error: BaseException | None, address: Address, queue: str) -> Refused | SourceUnavailable:
    """What an error of a connection that reads `queue` means; nothing in it is secret."""
    refused = refusal(error, address, queue)
    if refused is not None:
        return Refused(refused)
    return SourceUnavailable(f"{queue} at {address.broker}: {why(error)}")


def refusal(error: BaseException | None, address: Address, target: str) -> str | None:
    """What the broker refuses: a login, a host, the target; or we its certificate. None: nothing."""
    for each in _causes(error):
        match each:
            case Refused():
                return str(each)
            case AuthenticationError():
                return f"{address.broker} takes no PLAIN logins"
            case ProbableAuthenticationError():
                code, text = _refusal(each)
                if code == ACCESS_REFUSED:
                    return f"{address.broker} refuses the login: {text}"
            case ProbableAccessDeniedError():
                code, text = _refusal(each)
                if code in (NOT_ALLOWED, ACCESS_REFUSED) and not _PASSING.search(text):
                    return f"{address.broker} does not let us into {address.virtual_host!r}: {text}"
            case ChannelClosedByBroker(reply_code=code, reply_text=text):
                refused = code in (NOT_FOUND, ACCESS_REFUSED, RESOURCE_LOCKED)
                if refused and not _PASSING.search(text):
                    return f"{target}: {_one_line(text)}"
            case _:
                pass
    certificate = certificate_fault(error)
    return None if certificate is None else f"{address.broker}: {certificate}"


def is_not_implemented(error: BaseException | None) -> bool:
    """True if the broker has closed the connection over a command that the queue's kind does not have."""
    return isinstance(error, ConnectionClosedByBroker) and error.reply_code == NOT_IMPLEMENTED


def largest_message(error: BaseException | None) -> int | None:
    """Bytes of a message that the broker takes, if it has closed the channel over a larger one."""
    for each in _causes(error):
        if isinstance(each, ChannelClosedByBroker) and (found := _LARGER.search(each.reply_text)):
            return int(found[1])
    return None


def certificate_fault(error: BaseException | None) -> str | None:
    """Why there is no encrypted connection, if certificates are the reason, or a port without TLS."""
    for each in _causes(error):
        match each:
            case ssl.SSLCertVerificationError(verify_message=message):
                return f"certificate verify failed: {message}"
            case ssl.SSLEOFError() | ssl.SSLZeroReturnError() | ssl.SSLSyscallError():
                pass  # the connection ended
            case ssl.SSLError(reason=str(reason)):
                return f"no TLS with it: {reason}"
            case _:
                pass
    return None


def why(error: BaseException | None) -> str:
    """Why a connection ended, in a few words."""
    causes = list(_causes(error))
    for each in causes:
        match each:
            case (
                ChannelClosedByBroker(reply_code=code, reply_text=text)
                | ConnectionClosedByBroker(reply_code=code, reply_text=text)
            ):
                return f"{code} {_one_line(text)}"
            case ProbableAccessDeniedError() | ProbableAuthenticationError():
                code, text = _refusal(each)
                return f"{code} {text}" if code else "it closed the connection during the login"
            case _:
                pass
    systems = [each for each in causes if isinstance(each, OSError)]
    if systems:
        return _one_line(systems[-1].strerror or str(systems[-1]) or type(systems[-1]).__name__)
    return type(causes[-1]).__name__ if causes else "the connection ended"


def _causes(error: object) -> Iterator[BaseException]:
    """The error and those inside it, the outermost first; pika keeps them as arguments or in a list."""
    if not isinstance(error, BaseException):
        return
    yield error
    for inner in (*error.args, *getattr(error, "exceptions", ()), getattr(error, "exception", None)):
        yield from _causes(inner)


def _refusal(error: AMQPError) -> tuple[int | None, str]:
    """Reply code and text of a broker's refusal. None: the connection just ended."""
    found = _CLOSED.search(str(error.args[0])) if error.args else None
    return (int(found[1]), _one_line(found[2].strip("'\""))) if found else (None, "")


def _one_line(text: str) -> str:
    return " ".join(text.split())
