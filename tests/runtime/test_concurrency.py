"""The ledger of running invocations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from millstream.contract.functions import FunctionSpec, Throttled
from millstream.runtime.concurrency import (
    ACCOUNT,
    ACCOUNT_RATE,
    RESERVED,
    RESERVED_RATE,
    RETRY_NEVER_S,
    ConcurrencyLedger,
    check_shares,
)
from millstream.runtime.rates import RateLimit
from tests.runtime.fakes import function

F = function("f")
RESERVES_2 = function("g", reserved_concurrency=2)
RESERVES_0 = function("h", reserved_concurrency=0)
PROVISIONS_2 = function("p", provisioned_concurrency=2)
ALL_PROVISIONED = function("q", reserved_concurrency=2, provisioned_concurrency=2)
MANY = 1_000_000


def reasons(ledger: ConcurrencyLedger, spec: FunctionSpec, count: int, now: float = 0.0) -> list[str | None]:
    answers = [ledger.take(spec, now) for _ in range(count)]
    return [None if answer is None else answer.reason for answer in answers]


@pytest.mark.parametrize(
    ("account", "others", "spec", "fit", "reason"),
    [
        (3, [], F, 3, ACCOUNT),
        (5, [RESERVES_2], F, 3, ACCOUNT),
        (5, [RESERVES_2], RESERVES_2, 2, RESERVED),
        (5, [RESERVES_0], F, 5, ACCOUNT),
        (5, [RESERVES_0], RESERVES_0, 0, RESERVED),
        (5, [PROVISIONS_2], F, 3, ACCOUNT),
        (5, [PROVISIONS_2], PROVISIONS_2, 5, ACCOUNT),
        (5, [ALL_PROVISIONED], ALL_PROVISIONED, 2, RESERVED),
        (5, [ALL_PROVISIONED, PROVISIONS_2], F, 1, ACCOUNT),
        (2, [RESERVES_2], F, 0, ACCOUNT),
    ],
)
def test_so_many_fit_and_the_next_one_is_throttled(
    account: int, others: list[FunctionSpec], spec: FunctionSpec, fit: int, reason: str
) -> None:
    ledger = ConcurrencyLedger(account, [F, *others])
    assert reasons(ledger, spec, fit + 1) == [None] * fit + [reason]


def test_what_others_use_of_the_pool_takes_nothing_from_a_reservation_nor_from_what_is_provisioned() -> None:
    ledger = ConcurrencyLedger(5, [F, RESERVES_2, PROVISIONS_2])
    assert reasons(ledger, F, 2) == [None, ACCOUNT]
    assert reasons(ledger, PROVISIONS_2, 3) == [None, None, ACCOUNT]
    assert reasons(ledger, RESERVES_2, 3) == [None, None, RESERVED]


def test_what_ends_makes_room() -> None:
    ledger = ConcurrencyLedger(1)
    ledger.take(F, 0.0)
    ledger.give(F)
    assert ledger.take(F, 0.0) is None
    assert ledger.running("f") == 1


def test_of_what_spilled_over_the_pool_gets_back_its_part_first() -> None:
    ledger = ConcurrencyLedger(3, [F, PROVISIONS_2])
    assert reasons(ledger, PROVISIONS_2, 3) == [None] * 3
    assert reasons(ledger, F, 1) == [ACCOUNT]
    ledger.give(PROVISIONS_2)
    assert reasons(ledger, F, 1) == [None]


@pytest.mark.parametrize(
    ("spec", "per_s", "reason"), [(RESERVES_2, 20, RESERVED_RATE), (F, 80, ACCOUNT_RATE)]
)
def test_ten_invocations_a_second_may_begin_for_each_that_may_run(
    spec: FunctionSpec, per_s: int, reason: str
) -> None:
    ledger = ConcurrencyLedger(10, [F, RESERVES_2])

    def begun(now: float) -> int:
        count = 0
        while (answer := ledger.take(spec, now)) is None:
            ledger.give(spec)
            count += 1
        assert answer.reason == reason
        return count

    assert begun(1000.0) == per_s
    assert begun(1000.0) == 0
    assert begun(1000.5) == per_s // 2
    assert begun(2000.0) == per_s


def test_what_is_throttled_for_room_costs_nothing_of_the_rate() -> None:
    ledger = ConcurrencyLedger(10, [RESERVES_2])
    assert reasons(ledger, RESERVES_2, 100) == [None] * 2 + [RESERVED] * 98
    ledger.give(RESERVES_2)
    assert reasons(ledger, RESERVES_2, 1) == [None]


def test_a_reservation_of_none_is_tried_again_late() -> None:
    throttled = ConcurrencyLedger(10, [RESERVES_0]).take(RESERVES_0, 0.0)
    assert throttled == Throttled(RESERVED, RETRY_NEVER_S)


def test_a_thousand_environments_are_made_at_once_and_then_a_hundred_a_second_of_each_function() -> None:
    ledger = ConcurrencyLedger(MANY)

    def made(spec: FunctionSpec, now: float) -> int:
        count = 0
        while (throttled := ledger.scale(spec, now)) is None:
            count += 1
        assert throttled.reason == ACCOUNT
        return count

    assert made(F, 0.0) == 1000
    assert made(F, 0.05) == 5
    assert made(F, 1.05) == 100
    assert made(RESERVES_2, 1.05) == 1000
    assert made(F, 1000.0) == 1000


# ---- configuration


@pytest.mark.parametrize(
    ("account", "specs", "least"),
    [
        (1000, [function(reserved_concurrency=900)], None),
        (1000, [function(reserved_concurrency=901)], 100),
        (1000, [function(reserved_concurrency=500), function("g", provisioned_concurrency=401)], 100),
        (1000, [function(reserved_concurrency=900, provisioned_concurrency=900)], None),
        (1000, [function(reserved_concurrency=0)], None),
        (5000, [function(reserved_concurrency=4900)], None),
        (5000, [function(reserved_concurrency=4901)], 100),
        (100, [function(reserved_concurrency=90)], None),
        (100, [function(reserved_concurrency=91)], 10),
        (4, [function(reserved_concurrency=4)], None),
        (4, [function(reserved_concurrency=4), function("g")], 1),
        (4, [function(reserved_concurrency=3), function("g")], None),
        (4, [function(reserved_concurrency=5)], 0),
        (1, [function()], None),
    ],
)
def test_reservations_must_leave_a_share_of_the_account(
    account: int, specs: list[FunctionSpec], least: int | None
) -> None:
    problems = [str(problem) for problem in check_shares(account, specs)]
    if least is None:
        assert problems == []
    else:
        (line,) = problems
        assert line.startswith(f"--concurrency: wanted at most {account - least} reserved and provisioned")
        assert f"UnreservedConcurrentExecution must not be below its minimum value of [{least}]" in line
        assert line.endswith(f"of {account}")


# ---- rates


@given(
    st.integers(1, 100),
    st.integers(1, 50),
    st.lists(st.floats(0, 0.5), min_size=1, max_size=200),
    st.floats(0, 1e6),
)
def test_a_rate_is_kept_over_every_span_and_its_wait_is_enough(
    per_s: int, burst: int, steps: list[float], start: float
) -> None:
    rate = RateLimit(per_s, burst)
    now = start
    taken: list[float] = []
    for step in steps:
        now += step
        if wait_s := rate.take(now):
            now += wait_s
            assert rate.take(now) <= 1e-6
        taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + per_s * (taken[last] - taken[first]) + 1e-3


# ---- any sequence

ACCOUNT_LIMIT = 8
SPECS = [
    F,
    function("e"),
    function("r", reserved_concurrency=2),
    function("n", reserved_concurrency=0),
    function("p", provisioned_concurrency=2),
    function("b", reserved_concurrency=2, provisioned_concurrency=1),
]
POOL = ACCOUNT_LIMIT - 2 - 2 - 2


class Ledger(RuleBasedStateMachine):
    """A ledger beside the rules, told in the plainest way."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = ConcurrencyLedger(ACCOUNT_LIMIT, SPECS)
        self.running: list[FunctionSpec] = []
        self.now = 0.0

    def count(self, spec: FunctionSpec) -> int:
        return self.running.count(spec)

    def pooled(self) -> int:
        free = [spec for spec in SPECS if spec.reserved_concurrency is None]
        return sum(max(self.count(spec) - spec.provisioned_concurrency, 0) for spec in free)

    @rule(spec=st.sampled_from(SPECS))
    def take(self, spec: FunctionSpec) -> None:
        self.now += 1.0  # the rates are full again
        reserved = spec.reserved_concurrency
        if reserved is not None:
            expected = None if self.count(spec) < reserved else RESERVED
        else:
            own = self.count(spec) < spec.provisioned_concurrency
            expected = None if own or self.pooled() < POOL else ACCOUNT
        answer = self.ledger.take(spec, self.now)
        assert (None if answer is None else answer.reason) == expected
        if answer is None:
            self.running.append(spec)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        spec = data.draw(st.sampled_from(self.running))
        self.running.remove(spec)
        self.ledger.give(spec)

    @invariant()
    def counts_are_right(self) -> None:
        assert self.ledger.in_pool == self.pooled() <= self.ledger.pool == POOL
        assert all(self.ledger.running(spec.name) == self.count(spec) for spec in SPECS)
        assert len(self.running) <= ACCOUNT_LIMIT

    def teardown(self) -> None:
        for spec in self.running:
            self.ledger.give(spec)
        assert self.ledger.in_pool == 0
        assert all(self.ledger.running(spec.name) == 0 for spec in SPECS)


TestLedger = Ledger.TestCase
