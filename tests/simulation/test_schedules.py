"""Whatever happens, in whatever order: nothing is lost, keys keep their order, no work is left at rest."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings

from tests.simulation.schedules import Event, Policy, policies, schedules
from tests.simulation.sources import FifoWorld, GroupWorld, LeasedWorld, QueueWorld
from tests.simulation.world import World
from tests.virtual_loop import run

KINDS: dict[str, type[World]] = {
    "queue": QueueWorld,
    "fifo": FifoWorld,
    "leased": LeasedWorld,
    "group": GroupWorld,
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_happens_nothing_is_lost(kind: str, pytestconfig: pytest.Config) -> None:
    number = int(pytestconfig.getoption("--schedules"))

    @settings(
        max_examples=max(number // len(KINDS), 1),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
    )
    @given(policy=policies, schedule=schedules)
    def of_any_schedule(policy: Policy, schedule: Sequence[tuple[float, Event]]) -> None:
        world = KINDS[kind](policy)
        run(world.play(schedule))
        look(world)

    of_any_schedule()


def look(world: World) -> None:
    """What must hold of a world that has come to rest."""
    sent = {int(record.item_id): record for record in world.sent}
    taken, documented, dropped = world.function.taken, world.observer.documented, set(world.observer.lost)
    assert set(taken) | documented | dropped == set(sent)
    assert set(taken) | documented | dropped <= set(sent)
    if isinstance(world, QueueWorld) or world.policy.required:
        assert not dropped
    if isinstance(world, QueueWorld) and not world.ordered:
        return
    place = {number: at for at, number in enumerate(taken)}
    for key in {record.ordering_key for record in sent.values()}:
        of_key = [place[n] for n, record in sent.items() if record.ordering_key == key and n in place]
        assert of_key == sorted(of_key), key
