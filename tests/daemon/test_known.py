"""Which stored mapping a declaration means, where its source has several names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from millstream.contract.state import MappingRow
from millstream.daemon.known import called_otherwise

NAME, ARN = "orders", "arn:aws:sqs:us-east-1:000000000000:orders"
URL = "http://127.0.0.1:4566/000000000000/orders"
BY_NAME = MappingRow("u1", "shop", "f", "sqs", NAME, enabled=True, last_modified=1.0)


@pytest.mark.parametrize("source", [ARN, URL])
def test_a_source_by_its_arn_is_the_one_that_was_declared_by_its_name(source: str) -> None:
    assert called_otherwise([BY_NAME], replace(BY_NAME, uuid="new", source=source), ()) == BY_NAME


@pytest.mark.parametrize(
    "wanted",
    [
        replace(BY_NAME, source=NAME),
        replace(BY_NAME, source=ARN, app="another"),
        replace(BY_NAME, source=ARN, function="another"),
        replace(BY_NAME, source="arn:aws:sqs:us-east-1:000000000000:returns"),
        replace(BY_NAME, source=ARN, kind="another"),
    ],
    ids=["by the same name", "another app", "another function", "another queue", "another kind"],
)
def test_another_mapping_is_not_it(wanted: MappingRow) -> None:
    assert called_otherwise([BY_NAME], wanted, ()) is None


def test_one_that_is_there_by_that_very_name_comes_first() -> None:
    by_arn = replace(BY_NAME, uuid="u2", source=ARN)
    assert called_otherwise([BY_NAME, by_arn], replace(by_arn, uuid="new"), ()) is None


def test_a_source_that_is_declared_by_both_names_is_two_mappings() -> None:
    wanted = replace(BY_NAME, uuid="new", source=ARN)
    assert called_otherwise([BY_NAME], wanted, {("f", "sqs", NAME), ("f", "sqs", ARN)}) is None


def test_of_several_the_one_that_ran_last_is_meant() -> None:
    by_url = replace(BY_NAME, uuid="u2", source=URL, last_modified=2.0)
    assert called_otherwise([BY_NAME, by_url], replace(BY_NAME, source=ARN), ()) == by_url
