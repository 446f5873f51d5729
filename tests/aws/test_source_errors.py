"""What a fault of botocore becomes for a source, and what its message shows."""

from __future__ import annotations

import ssl

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, TokenRetrievalError
from urllib3.exceptions import LocationParseError, ProtocolError

from millstream.aws.source_errors import source_errors
from millstream.contract.errors import MillstreamError, PartitionGone, Refused, SourceUnavailable


def refusal(code: str, message: str = "") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Any")


def mapped(error: Exception) -> MillstreamError:
    """What leaves the context in place of a fault."""
    with pytest.raises(MillstreamError) as caught, source_errors("queue", "orders", frozenset({"Mine"})):
        raise error
    return caught.value


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            refusal("AccessDenied", "no right to sqs:ReceiveMessage"),
            "AccessDenied: no right to sqs:ReceiveMessage",
        ),
        (refusal("AccessDeniedException"), "AccessDeniedException"),
        (refusal("Mine", "gone\nand more"), "Mine: gone"),
        (refusal("InvalidClientTokenId", "secret"), "InvalidClientTokenId"),
        (refusal("ExpiredTokenException", "secret"), "ExpiredTokenException"),
        (refusal("SignatureDoesNotMatch", "x-amz-security-token:secret"), "SignatureDoesNotMatch"),
        (NoCredentialsError(), "Unable to locate credentials"),
        (TokenRetrievalError(provider="sso", error_msg="expired"), "sso: expired"),
    ],
)
def test_what_somebody_can_mend_is_refused_and_named_without_a_secret(error: Exception, says: str) -> None:
    raised = mapped(error)
    assert type(raised) is Refused
    assert str(raised).startswith("queue orders: ")
    assert str(raised).endswith(says)
    assert "secret" not in str(raised)


@pytest.mark.parametrize(
    "error",
    [
        refusal("ThrottlingException"),
        refusal("InternalFailure"),
        ClientError({}, "Any"),
        EndpointConnectionError(endpoint_url="http://x"),
        ssl.SSLError("handshake"),
        ProtocolError("cut"),
        LocationParseError("host"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
        ConnectionResetError(),
        KeyError("Shards"),
        AttributeError("'list' object has no attribute 'get'"),
        RecursionError(),
    ],
    ids=repr,
)
def test_any_other_fault_is_a_source_that_does_not_answer(error: Exception) -> None:
    assert type(mapped(error)) is SourceUnavailable


def test_our_own_errors_pass() -> None:
    gone = PartitionGone("shard")
    assert mapped(gone) is gone
