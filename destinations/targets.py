"""Declared targets: read and refused in one way, and never repeated where they may hold a secret."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from millstream.contract.errors import DocumentTooLarge
from millstream.contract.options import Options, parse_options, shown

O = TypeVar("O", bound=Options)  # noqa: E741  an options model

_NO_XML = {0xFFFE: "\\ufffe", 0xFFFF: "\\uffff"}
"""Characters that XML 1.0 has not, and SQS does not take, as JSON can say them; it says those below U+0020 so
by itself. Source: AWS, SendMessage, MessageBody."""

_LIMIT = re.compile(r"\b(\d{3,}) bytes")

_QUEUE_URL = re.compile(r"https?://[^/@?#\s]+/(?:[^@?#\s]+/)?\d{12}/[A-Za-z0-9_-]{1,80}(?:\.fifo)?")


def parse_target(model: type[O], options: Mapping[str, object], secret: frozenset[str] = frozenset()) -> O:
    """The options of a destination as `model`; a target that is a URL is not repeated in a message.

    Raises:
        InvalidConfiguration: with one problem for each wrong field.
    """
    if "://" in str(options.get("target", "")):
        secret |= {"target"}
    return parse_options(model, {"target": "", **options}, secret)


def shown_target(target: object) -> str:
    """What was declared, for a message: of a URL the scheme and the host alone."""
    if not isinstance(target, str) or ("@" not in target and "://" not in target):
        return shown(target)
    try:
        parts = urlsplit(target)
        host = parts.hostname or "…"
    except ValueError:
        return "a URL that cannot be read"
    return shown(f"{parts.scheme or '…'}://{host}")


def is_queue_url(target: str) -> bool:
    """True for an SQS queue's URL, told from any other URL by the account id in its path.

    Source: AWS, "Amazon SQS queue and message identifiers".
    """
    return _QUEUE_URL.fullmatch(target) is not None


def message_of(body: bytes) -> str:
    """A JSON document as text of characters that every service takes; what is no UTF-8 becomes U+FFFD."""
    return body.decode(errors="replace").translate(_NO_XML)


def check_size(name: str, size_bytes: int, limit_bytes: int) -> None:
    """Raises DocumentTooLarge for a document above a destination's limit."""
    if size_bytes > limit_bytes:
        raise DocumentTooLarge(f"{name}: {size_bytes} bytes, and at most {limit_bytes} are taken")


def limit_in(words: str) -> int | None:
    """The number of bytes that a service's refusal names. None: it names none."""
    found = _LIMIT.search(words)
    return int(found[1]) if found is not None and len(found[1]) < 12 else None
