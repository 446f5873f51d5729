"""Whatever happens in whatever order: the pool counts right, and closes each environment once."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from millstream.contract.functions import FunctionFailed, Outcome, Success, Throttled
from tests.examples import examples
from tests.fakes import FAILURE
from tests.runtime.fakes import PoolRig, function, pool_rig

SPECS = [
    function("f"),
    function("r", reserved_concurrency=2),
    function("p", provisioned_concurrency=2),
    function("b", reserved_concurrency=3, provisioned_concurrency=1),
    function("s", snap_start=True),
    function("t", snap_start=True, reserved_concurrency=2),
]
NAMES = [spec.name for spec in SPECS]
ACCOUNT = 10


class Pool(RuleBasedStateMachine):
    """Invocations that end, fail, die, are cut off and overlap, while time passes and the host changes."""

    @initialize(
        creation_s=st.sampled_from([0.0, 0.5]),
        prepared_s=st.sampled_from([0.0, 2.0]),
        memory_mb=st.sampled_from([None, 100]),
    )
    def begin(self, creation_s: float, prepared_s: float, memory_mb: int | None) -> None:
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.tasks: list[asyncio.Task[Outcome]] = []
        self.folder = tempfile.TemporaryDirectory()
        rig = pool_rig(
            Path(self.folder.name), *SPECS, account=ACCOUNT, idle_s=20.0, max_age_s=60.0, memory_mb=memory_mb
        )
        self.it: PoolRig = self.runner.run(self.stack.enter_async_context(rig))
        self.it.sandbox.creation_s = creation_s
        self.it.sandbox.prepared_s = prepared_s
        self.it.sandbox.memory_mb = 20

    @rule(name=st.sampled_from(NAMES), wanted=st.sampled_from([0, 0, -1, -2, 0.3, 3.0, 30.0]))
    def invoke(self, name: str, wanted: float) -> None:
        self.tasks += self.runner.run(self.it.begin(1, wanted, name))

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), and_another=st.sampled_from(["", *NAMES]))
    def cut_off(self, data: st.DataObject, and_another: str) -> None:
        data.draw(st.sampled_from(self.tasks)).cancel()
        if and_another:
            self.tasks += self.runner.run(self.it.begin(1, 0.3, and_another))
        self.runner.run(self.it.clock.settle())

    @rule(by_s=st.sampled_from([0.01, 0.06, 1.0, 10.0, 70.0]))
    def wait(self, by_s: float) -> None:
        self.runner.run(self.it.clock.advance(by_s))

    @precondition(lambda self: self.it.sandbox.open)
    @rule(data=st.data(), memory_mb=st.sampled_from([0, 1, 60]))
    def grow(self, data: st.DataObject, memory_mb: int) -> None:
        data.draw(st.sampled_from(self.it.sandbox.open)).memory_kb = memory_mb * 1024

    @precondition(lambda self: self.it.sandbox.open)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.it.sandbox.open)).alive = False

    @rule(full=st.booleans(), short=st.booleans(), broken=st.booleans())
    def change(self, full: bool, short: bool, broken: bool) -> None:
        self.it.sandbox.full = full
        self.it.short = short
        self.it.sandbox.init_failure = FAILURE if broken else None

    @invariant()
    def counts_are_right(self) -> None:
        self.tasks = [task for task in self.tasks if not task.done() or self.expected(task)]
        states = {state.name: state for state in self.it.pool.state()}
        waiting = sum(not task.done() for task in self.tasks)
        assert sum(self.it.ledger.running(name) for name in NAMES) == waiting <= ACCOUNT
        for made in self.it.sandbox.made:
            assert made.closed <= 1
            assert not (made.frozen and made.running)
        for name, state in states.items():
            running = [m for m in self.it.sandbox.open if m.running and m.function.name == name]
            assert state.busy >= len(running)
            assert state.idle + state.frozen == self.it.pool.idle(name)
            assert state.held_mb >= 0
        assert self.it.pool.held_mb >= 0

    @staticmethod
    def expected(task: asyncio.Task[Outcome]) -> bool:
        """False once a task is over; fails the test if it ended as none should."""
        assert task.cancelled() or isinstance(task.result(), Success | FunctionFailed | Throttled)
        return False

    def teardown(self) -> None:
        if hasattr(self, "it"):
            self.runner.run(self.stack.aclose())  # checks that nothing is left
            self.runner.close()
            self.folder.cleanup()


Pool.TestCase.settings = examples(30, stateful_step_count=25)
TestPool = Pool.TestCase
