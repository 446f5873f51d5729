"""Tells what pika reports apart: what a retry may mend, and what is wrong for good."""

from __future__ import annotations

import logging
import re
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
from millstream.contract.errors import InvalidConfiguration, Problem, SourceUnavailable

ACCESS_REFUSED = 403
NOT_FOUND = 404
RESOURCE_LOCKED = 405
NOT_ALLOWED = 530
"""Reply codes. Source: AMQP 0-9-1, "Constants"."""

_PASSING = re.compile(r"down or inaccessible|limit \(|exclusive use|is down")
"""Texts of refusals that pass: a node that restarts, a connection limit, another exclusive consumer."""

_CLOSED = re.compile(r"ConnectionClosedByBroker: \((\d+)\) (.*)", re.DOTALL)
"""How pika repeats, as text, what a broker said to a connection that was not open yet."""


def quiet() -> None:
    """Keep pika from logging, with stacks, the faults that it also hands to us."""
    logging.getLogger("pika").setLevel(logging.CRITICAL)


def fault(
    error: BaseException | None, address: Address, queue: str
) -> InvalidConfiguration | SourceUnavailable:
    """What an error of a connection that reads `queue` means; nothing in it is secret."""
    problem = problem_of(error, address, queue)
    if problem is not None:
        return InvalidConfiguration([problem])
    return SourceUnavailable(f"{queue} at {address.broker}: {why(error)}")


def problem_of(
    error: BaseException | None, address: Address, target: str, field: str = "queue"
) -> Problem | None:
    """What no retry mends: a login, a virtual host or a target that is refused. None: a retry may mend it.

    `field` is the option that names the target.
    """
    for each in _causes(error):
        match each:
            case AuthenticationError():
                return Problem(
                    "", "basic_auth", f"a broker that takes PLAIN logins ({address.broker})", "none"
                )
            case ProbableAuthenticationError():
                code, text = _refusal(each)
                if code == ACCESS_REFUSED:
                    return Problem("", "basic_auth", f"a login that {address.broker} takes", text)
            case ProbableAccessDeniedError():
                code, text = _refusal(each)
                if code in (NOT_ALLOWED, ACCESS_REFUSED) and not _PASSING.search(text):
                    return Problem("", "virtual_host", f"one that {address.broker} lets us in", text)
            case ChannelClosedByBroker(reply_code=code, reply_text=text):
                refused = code in (NOT_FOUND, ACCESS_REFUSED, RESOURCE_LOCKED)
                if refused and not _PASSING.search(text):
                    return Problem("", field, f"{target}, open to us", _one_line(text))
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
