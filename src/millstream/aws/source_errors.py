"""Turns botocore's faults into a source's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigNotFound,
    ConfigParseError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)
from botocore.parsers import ResponseParserError

from millstream.contract.errors import InvalidConfiguration, Problem, SourceUnavailable

UNUSABLE = (
    ConfigNotFound,
    ConfigParseError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)
"""What boto3 finds wrong in this host's own settings."""

REFUSED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "InvalidClientTokenId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Errors of any service that no retry mends. Source: AWS, "Common errors"."""


@contextmanager
def source_errors(field: str, source: str, refused: frozenset[str]) -> Iterator[None]:
    """Maps what botocore raises; `refused` are the service's own codes that no retry mends.

    A throttle is retried as any other fault. `field` is the option that names the source.

    Raises:
        InvalidConfiguration: this host's AWS settings are wrong, or the source is gone or refuses us.
        SourceUnavailable: anything else.
    """
    try:
        yield
    except UNUSABLE as error:
        wanted = f"AWS settings that can reach {source}"
        raise InvalidConfiguration([Problem("", field, wanted, str(error))]) from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        if code in refused or code in REFUSED:
            found = f"{code}: {error.response['Error'].get('Message', '')}".rstrip(": ")
            wanted = f"a {field} that answers ({source})"
            raise InvalidConfiguration([Problem("", field, wanted, found)]) from error
        raise SourceUnavailable(f"{source}: {code}") from error
    except (BotoCoreError, ResponseParserError, UnicodeDecodeError) as error:
        raise SourceUnavailable(f"{source}: {type(error).__name__}") from error
