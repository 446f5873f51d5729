"""Error documents of runtimes, which may say anything."""

from __future__ import annotations

import msgspec
import pytest

from millstream.runtime.failures import not_loaded
from millstream.runtime.link import Broken, failure


def test_an_errors_type_is_short_and_plain_in_logs_and_its_document_as_it_came() -> None:
    kind = "Bad\n23:00:00.000 INFO  forged\x1b]0;title\x07\u202e" + "E" * 5_000_000
    document = msgspec.json.encode({"errorType": kind, "errorMessage": "no"})
    failed, ending = not_loaded(document, "id")
    for told in (failed.error_type, ending.error_type):
        assert told.isprintable()
        assert len(told) <= 256
    assert failed.payload == document


@pytest.mark.parametrize(
    "document",
    [
        b'{"errorMessage":"\xff"}',
        b'{"x":"\xff"}',
        b'{"\xff":1}',
        b'{"x":"\xed\xa0\x80"}',
        b'{"x":[{"y":"\xc0\x80"}]}',
    ],
)
def test_a_document_that_is_no_utf_8_breaks_its_runtime(document: bytes) -> None:
    with pytest.raises(Broken):
        failure(document, "id")
