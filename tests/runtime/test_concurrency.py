"""The ledger of running invocations."""

from __future__ import annotations

from dataclasses import replace

from millstream.contract.functions import Throttled
from millstream.runtime.concurrency import ACCOUNT, RESERVED, ConcurrencyLedger
from tests.fakes import FUNCTION

OTHER = replace(FUNCTION, name="g", reserved_concurrency=2)
NONE = replace(FUNCTION, name="h", reserved_concurrency=0)


def reason(answer: Throttled | None) -> str | None:
    return None if answer is None else answer.reason


def test_the_account_limit_is_shared_by_what_reserves_nothing() -> None:
    ledger = ConcurrencyLedger(3, [FUNCTION, OTHER])
    assert reason(ledger.take(FUNCTION)) is None
    assert reason(ledger.take(FUNCTION)) == ACCOUNT


def test_a_reservation_is_a_guarantee_and_a_cap() -> None:
    ledger = ConcurrencyLedger(3, [FUNCTION, OTHER])
    ledger.take(FUNCTION)
    assert [reason(ledger.take(OTHER)) for _ in range(3)] == [None, None, RESERVED]


def test_what_ends_makes_room() -> None:
    ledger = ConcurrencyLedger(1)
    ledger.take(FUNCTION)
    ledger.give(FUNCTION)
    assert ledger.take(FUNCTION) is None
    assert ledger.running("f") == 1


def test_a_reservation_of_none_throttles_always() -> None:
    assert reason(ConcurrencyLedger(10, [NONE]).take(NONE)) == RESERVED
