"""Over all batch sizes, failures, splits, lanes and windows: nothing is lost, keys keep their order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.functions import Outcome
from millstream.contract.ports import BatchLimits
from millstream.contract.records import Done
from millstream.contract.streams import StreamPolicy
from tests.examples import examples
from tests.fakes import FAILURE, SUCCESS, failures
from tests.mappings.stream_rig import by_numbers, world
from tests.stream_fakes import stream_record

POLICIES = st.builds(
    StreamPolicy,
    item_failures=st.booleans(),
    max_retries=st.none() | st.integers(0, 3),
    bisect=st.booleans(),
    lanes=st.sampled_from([1, 2, 4]),
)


@examples(30)
@given(
    total=st.integers(1, 60),
    size=st.integers(1, 20),
    window_s=st.sampled_from([0.0, 3.0]),
    policy=POLICIES,
    poison=st.sets(st.integers(0, 60), max_size=6),
    restarts=st.integers(0, 2),
)
async def test_nothing_is_lost_and_each_key_keeps_its_order(
    total: int, size: int, window_s: float, policy: StreamPolicy, poison: set[int], restarts: int
) -> None:
    """Poison heals after a while, so that policies without a limit end as well."""
    healed_at = 1600.0
    taken: list[int] = []

    def answer(numbers: list[int]) -> Outcome:
        bad = [n for n in numbers if n in poison and it.clock.monotonic() < healed_at]
        if not bad:
            taken.extend(numbers)
            return SUCCESS
        if policy.item_failures:
            taken.extend(numbers[: numbers.index(bad[0])])
            return failures(*bad)
        return FAILURE

    records = [stream_record(n, key=f"k{n % 5}") for n in range(total)]
    it = world(*records, limits=BatchLimits(size, window_s), policy=policy, answer=by_numbers(answer))
    for _ in range(restarts):
        async with it.running():
            await it.clock.advance(7.0)
    async with it.running() as rig:
        await rig.until_at(total - 1)
    given_up: set[int] = set()
    for document in it.failed:
        about = document["FakeBatchInfo"]
        count = document["requestContext"]["approximateInvokeCount"]
        assert policy.max_retries is not None
        assert count == policy.max_retries + 1
        given_up |= set(range(int(about["startSequenceNumber"]), int(about["endSequenceNumber"]) + 1))
    assert set(taken) | given_up == set(range(total))
    assert not restarts or policy.max_retries is not None or set(taken) == set(range(total))
    if policy.max_retries is None:
        assert given_up == set()
    if not restarts:
        for key in range(5):
            of_key = [n for n in taken if n % 5 == key]
            assert of_key == sorted(of_key)
        assert len(taken) == len(set(taken))
        delivered = [r for resolution in it.observer.resolutions for r in _done(resolution)]
        assert sorted(delivered) == sorted(taken)


def _done(resolution: object) -> list[int]:
    pairs = zip(resolution.batch.records, resolution.verdicts, strict=True)  # type: ignore[attr-defined]
    return [int(record.item_id) for record, verdict in pairs if isinstance(verdict, Done)]
