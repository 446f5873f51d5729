"""Which destination a declaration names."""

from __future__ import annotations

import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.destinations.registry import parse_destination

ACCOUNT = "us-east-1:000000000000"


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (f"arn:aws:sqs:{ACCOUNT}:q", "SqsDestination"),
        ("https://sqs.eu-west-1.amazonaws.com/000000000000/q", "SqsDestination"),
        ("http://localhost:4566/queue/us-east-1/000000000000/q", "SqsDestination"),
        (f"arn:aws:sns:{ACCOUNT}:t", "SnsDestination"),
        ("arn:aws:s3:::bucket", "S3Destination"),
        (f"arn:aws:events:{ACCOUNT}:event-bus/default", "EventBridgeDestination"),
        (f"arn:aws:lambda:{ACCOUNT}:function:f", "FunctionDestination"),
        ("function:f", "FunctionDestination"),
        ("https://example.com/hook", "HttpDestination"),
        ("HTTPS://example.com/123456789012", "HttpDestination"),
        ("file:failed.jsonl", "FileDestination"),
    ],
)
def test_a_string_is_taken_by_the_kind_that_claims_it(target: str, kind: str) -> None:
    assert type(parse_destination(target)).__name__ == kind


def test_a_mapping_names_its_kind_and_has_options() -> None:
    declared = {"kind": "http", "target": "https://example.com/", "timeout": 2.0}
    assert parse_destination(declared).name == "https://example.com/"


@pytest.mark.parametrize(
    ("declared", "field"),
    [
        ("failed", "target"),
        ("", "target"),
        ("arn:aws:dynamodb:us-east-1:000000000000:table/t", "target"),
        (7, "target"),
        (None, "target"),
        ({}, "kind"),
        ({"kind": "carrier-pigeon", "target": "x"}, "kind"),
        ({"kind": ["sqs"], "target": "x"}, "kind"),
        ({"kind": "sqs"}, "target"),
        ({"kind": "sqs", "target": "x", 7: 8}, "target"),
    ],
)
def test_what_names_no_destination_is_refused_at_its_field(declared: object, field: str) -> None:
    with pytest.raises(InvalidConfiguration) as invalid:
        parse_destination(declared)
    assert invalid.value.problems[0].field == field


def test_a_refusal_lists_each_form_with_an_example() -> None:
    with pytest.raises(InvalidConfiguration) as invalid:
        parse_destination("failed")
    wanted = invalid.value.problems[0].wanted
    for example in (
        "arn:aws:sqs:",
        "arn:aws:sns:",
        "arn:aws:s3:",
        "arn:aws:events:",
        "function:",
        "https:",
        "file:",
    ):
        assert example in wanted


@pytest.mark.parametrize(
    "declared",
    ["amqp://user:hunter2@host/x", "user:hunter2@host", "amqp://host/x?key=hunter2", "x://[hunter2"],
)
def test_a_refusal_does_not_repeat_what_may_be_secret(declared: str) -> None:
    with pytest.raises(InvalidConfiguration) as invalid:
        parse_destination(declared)
    assert "hunter2" not in str(invalid.value)


def test_a_fifo_target_is_refused_as_on_aws() -> None:
    for target in (f"arn:aws:sqs:{ACCOUNT}:q.fifo", f"arn:aws:sns:{ACCOUNT}:t.fifo"):
        with pytest.raises(InvalidConfiguration, match="FIFO"):
            parse_destination(target)
