"""Names, URLs and ARNs: which of them are the same source."""

from __future__ import annotations

import pytest

from millstream.aws.arn import same_source

QUEUE = "arn:aws:sqs:us-east-1:123456789012:orders"
QUEUE_URL = "https://sqs.us-east-1.amazonaws.com/123456789012/orders"
STREAM = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
CONSUMER = f"{STREAM}/consumer/c:1760000000"
TABLE = "arn:aws:dynamodb:us-east-1:123456789012:table/orders"
TABLE_STREAM = f"{TABLE}/stream/2026-01-01T00:00:00.000"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("orders", "orders", True),
        ("orders", "mails", False),
        ("orders", QUEUE, True),
        ("orders", QUEUE_URL, True),
        (QUEUE_URL, QUEUE, True),
        (QUEUE_URL, QUEUE.replace("123456789012", "999999999999"), False),
        (QUEUE_URL, "http://127.0.0.1:4566/123456789012/orders", True),
        (QUEUE_URL, "http://127.0.0.1:4566/123456789012/mails", False),
        (QUEUE_URL, "http://127.0.0.1:4566/queue/orders", True),
        (QUEUE_URL, "orders.fifo", False),
        (QUEUE_URL, STREAM, False),
        ("orders.fifo", f"{QUEUE}.fifo", True),
        (QUEUE, QUEUE.replace("us-east-1", "eu-west-1"), False),
        ("orders", STREAM, True),
        ("mails", STREAM, False),
        ("orders", CONSUMER, False),
        (STREAM, CONSUMER, False),
        ("orders", TABLE, True),
        ("orders", TABLE_STREAM, True),
        (TABLE, TABLE_STREAM, False),
        ("orders", f"{TABLE}/index/by-day", False),
        ("orders", "arn:aws:sns:us-east-1:123456789012:orders", False),
        ("orders", "arn:aws:s3:::orders", False),
        ("orders", "https://[::1/orders", False),
        ("", "https://example.com/", False),
    ],
)
def test_a_source_is_the_same_by_its_name_its_url_and_its_arn(one: str, other: str, same: bool) -> None:
    assert same_source(one, other) is same
    assert same_source(other, one) is same
