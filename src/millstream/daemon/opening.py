"""Opens what one mapping needs, each time that it is started."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from millstream.contract.errors import DestinationUnavailable, SourceUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import Destination, Host, MappingRow, Observer
from millstream.daemon.plan import PlannedMapping
from millstream.mappings.process import Processor, Route
from millstream.mappings.queue import QueueRunner, QueueSettings
from millstream.mappings.scaling import Scaler
from millstream.mappings.supervise import Runner


@dataclass(frozen=True, slots=True)
class Opening:
    """Makes a fresh runner of one mapping."""

    row: MappingRow
    planned: PlannedMapping
    function: FunctionSpec
    host: Host
    observer: Observer

    @asynccontextmanager
    async def runner(self) -> AsyncIterator[Runner]:
        """A runner on the opened source; source and destinations are closed with the context.

        Raises:
            SourceUnavailable: the source or a destination does not answer now.
            InvalidConfiguration: one of them is not there, or does not fit.
        """
        planned, trigger, clock = self.planned, self.planned.trigger, self.host.clock
        async with AsyncExitStack() as stack:
            on_success = await self._opened(planned.on_success, stack)
            on_failure = await self._opened(planned.on_failure, stack)
            reader = await trigger.open(self.host, self.function)
            stack.push_async_callback(reader.aclose)
            scaler = Scaler(trigger.policy.max_concurrency, clock.monotonic())
            route = Route(self.row.uuid, self.function, trigger.policy, on_success, on_failure)
            processor = Processor(route, trigger, reader, self.host.invoker, scaler, self.observer, clock)
            settings = QueueSettings(self.row.uuid, trigger.limits, trigger.capabilities.ordered_by_key)
            yield QueueRunner(settings, reader, planned.filters, processor, scaler, self.observer, clock)

    async def _opened(self, destination: Destination | None, stack: AsyncExitStack) -> Destination | None:
        if destination is None:
            return None
        try:
            await destination.open(self.host)
        except DestinationUnavailable as unavailable:
            raise SourceUnavailable(f"destination {destination.name}: {unavailable}") from unavailable
        stack.push_async_callback(destination.aclose)
        return destination
