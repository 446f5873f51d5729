"""Turns what botocore raises into a source's errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    CredentialRetrievalError,
    InvalidConfigError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    RefreshWithMFAUnsupportedError,
    SSOError,
    TokenRetrievalError,
    UnknownCredentialError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from millstream.contract.errors import MillstreamError, Refused, SourceUnavailable

logger = logging.getLogger(__name__)

UNUSABLE = (
    ConfigNotFound,
    ConfigParseError,
    CredentialRetrievalError,
    InvalidConfigError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    RefreshWithMFAUnsupportedError,
    SSOError,
    TokenRetrievalError,
    UnknownCredentialError,
)
"""What boto3 finds wrong in this host's own settings."""

SIGNED_WRONG = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Errors of any service about the credentials. Source: AWS, "Common errors", and S3's error responses."""

REFUSED = SIGNED_WRONG | {
    "403",
    "AccessDenied",
    "AccessDeniedException",
    "AuthorizationError",
    "AuthorizationErrorException",
    "NotAuthorized",
    "OptInRequired",
    "UnauthorizedOperation",
}
"""Errors of any service that stay until somebody mends something. Source: as above."""

BROKEN = (BotoCoreError, ResponseParserError, HTTPError, OSError, ValueError)
"""What a call raises where the service or the way to it is at fault; UnicodeError is a ValueError."""

_SHOWN = 200  # characters of the service's own words


@contextmanager
def source_errors(field: str, source: str, refused: frozenset[str]) -> Iterator[None]:
    """Maps what botocore raises; `refused` are the service's own codes that no quick retry mends.

    A throttle is retried as any other fault. `field` is the option that names the source.

    Raises:
        Refused: this host's AWS settings are wrong, or the source is gone or refuses us.
        SourceUnavailable: anything else.
    """
    try:
        yield
    except MillstreamError:
        raise
    except UNUSABLE as error:
        raise Refused(f"{field} {source}: {first_line(str(error))}") from error
    except ClientError as error:
        code = code_of(error)
        if code in refused or code in REFUSED:
            raise Refused(f"{field} {source}: {said(error)}") from error
        raise SourceUnavailable(f"{source}: {code}") from error
    except BROKEN as error:
        raise SourceUnavailable(f"{source}: {type(error).__name__}") from error
    except Exception as error:  # an answer that botocore itself trips over
        logger.warning("answer that the client cannot read", extra={"source": source}, exc_info=error)
        raise SourceUnavailable(f"{source}: an answer that cannot be read") from error


def code_of(error: ClientError) -> str:
    """The code of a service's error."""
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def said(error: ClientError) -> str:
    """Code and message of a service's error, without what a message may repeat of the signed request."""
    code = code_of(error)
    if code in SIGNED_WRONG:
        return code
    message = first_line(str(error.response.get("Error", {}).get("Message") or ""))
    return f"{code}: {message}" if message else code


def first_line(text: str) -> str:
    """What a message shows of a text of others."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"
