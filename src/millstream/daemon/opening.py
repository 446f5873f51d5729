"""Opens what one mapping needs, each time that it is started."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from millstream.contract.errors import DestinationUnavailable, Refused, SourceUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.groups import GroupSource
from millstream.contract.ports import Destination, Host, Observer, QueueTrigger
from millstream.contract.state import Lease, MappingRow, StateStore
from millstream.contract.stream_trigger import StreamTrigger
from millstream.contract.streams import StreamReader, StreamSource
from millstream.daemon.plan import PlannedMapping
from millstream.mappings.batcher import room_bytes
from millstream.mappings.committer import Cursors
from millstream.mappings.group import GroupRunner
from millstream.mappings.lanes import read_ahead
from millstream.mappings.partitions import PartitionsRunner
from millstream.mappings.process import Processor, Route
from millstream.mappings.queue import QueueRunner, QueueSettings
from millstream.mappings.scaling import scaler_of
from millstream.mappings.stream import StreamRunner
from millstream.mappings.stream_process import StreamRoute
from millstream.mappings.supervise import Runner
from millstream.mappings.tenure import Tenure


@dataclass(frozen=True, slots=True)
class Opening:
    """Makes a fresh runner of one mapping."""

    row: MappingRow
    planned: PlannedMapping
    function: FunctionSpec
    host: Host
    observer: Observer
    store: StateStore
    owner: str  # this daemon, as the store knows it
    buffer_bytes: int  # what the mapping may hold in memory, all its partitions together

    @asynccontextmanager
    async def runner(self) -> AsyncIterator[Runner]:
        """A runner on the opened source; source and destinations are closed with the context.

        Raises:
            SourceUnavailable: the source or a destination does not answer now.
            Refused: one of them is not there, or refuses us.
            InvalidConfiguration: one of them does not fit.
        """
        async with AsyncExitStack() as stack:
            on_success = await self._opened(self.planned.on_success, stack)
            on_failure = await self._opened(self.planned.on_failure, stack)
            match self.planned.trigger:
                case StreamTrigger() as stream:
                    yield await self._stream(stream, on_success, on_failure, stack)
                case queue:
                    yield await self._queue(queue, on_success, on_failure, stack)

    async def _queue(
        self,
        trigger: QueueTrigger,
        on_success: Destination | None,
        on_failure: Destination | None,
        stack: AsyncExitStack,
    ) -> Runner:
        clock, invoker, policy = self.host.clock, self.host.invoker, trigger.policy
        reader = await trigger.open(self._lent, self.function)
        stack.push_async_callback(reader.aclose)
        scaler = scaler_of(policy, clock.monotonic())
        route = Route(self.row.uuid, self.function, policy, on_success, on_failure)
        processor = Processor(route, trigger, reader, invoker, scaler, self.observer, clock)
        ordered = trigger.capabilities.ordered_by_key
        room = room_bytes(trigger.envelope, [self.row.source])
        settings = QueueSettings(self.row.uuid, trigger.limits, policy.page, ordered, room, self.buffer_bytes)
        return QueueRunner(settings, reader, self.planned.filters, processor, scaler, self.observer, clock)

    async def _stream(
        self,
        trigger: StreamTrigger,
        on_success: Destination | None,
        on_failure: Destination | None,
        stack: AsyncExitStack,
    ) -> Runner:
        source = await trigger.open(self._lent, self.function)
        stack.push_async_callback(source.aclose)
        match source:
            case GroupSource():
                return await self._group(trigger, source, on_success, on_failure)
            case _:
                return await self._shards(trigger, source, on_success, on_failure)

    async def _shards(
        self,
        trigger: StreamTrigger,
        source: StreamSource,
        on_success: Destination | None,
        on_failure: Destination | None,
    ) -> Runner:
        """Partitions that daemons share among themselves, by leases in the store."""
        route = StreamRoute(self.row.uuid, self.function, trigger.policy, on_success, on_failure)
        arn = source.event_source_arn

        def partition(reader: StreamReader, lease: Lease, tenure: Tenure, share: float) -> StreamRunner:
            return self._reading(route, trigger, reader, arn, self.store, [lease], tenure, share)

        runner = PartitionsRunner(
            self.row.uuid,
            self.owner,
            source,
            trigger.starting_position,
            self.store,
            partition,
            self.observer,
            self.host.clock,
        )
        await runner.begin()
        return runner

    async def _group(
        self,
        trigger: StreamTrigger,
        source: GroupSource,
        on_success: Destination | None,
        on_failure: Destination | None,
    ) -> Runner:
        """Partitions that a broker shares among the members of a group."""
        policy, arn = trigger.policy, source.event_source_arn
        route = StreamRoute(self.row.uuid, self.function, policy, on_success, on_failure, source.outputs)

        def partitions(
            reader: StreamReader, leases: Sequence[Lease], tenure: Tenure, share: float
        ) -> StreamRunner:
            return self._reading(route, trigger, reader, arn, source, leases, tenure, share)

        runner = GroupRunner(
            self.row.uuid,
            self.owner,
            source,
            trigger.starting_position,
            policy.share_batches,
            self.store,
            partitions,
            self.observer,
            self.host.clock,
        )
        await runner.begin()
        return runner

    def _reading(
        self,
        route: StreamRoute,
        trigger: StreamTrigger,
        reader: StreamReader,
        event_source_arn: str,
        cursors: Cursors,
        leases: Sequence[Lease],
        tenure: Tenure,
        share: float,
    ) -> StreamRunner:
        return StreamRunner(
            route,
            trigger,
            reader,
            event_source_arn,
            self.planned.filters,
            self.host.invoker,
            cursors,
            leases,
            tenure,
            read_ahead(trigger.limits, trigger.policy.lanes, int(self._half * share)),
            self.observer,
            self.host.clock,
        )

    @property
    def _lent(self) -> Host:
        return replace(self.host, mapping=self.row.uuid, buffer_bytes=self._half)

    @property
    def _half(self) -> int:
        """What a stream's client may hold, and what is read ahead of it: each half of the mapping's share."""
        return self.buffer_bytes // 2

    async def _opened(self, destination: Destination | None, stack: AsyncExitStack) -> Destination | None:
        if destination is None:
            return None
        try:
            await destination.open(self.host)
        except DestinationUnavailable as unavailable:
            raise SourceUnavailable(f"destination {destination.name}: {unavailable}") from unavailable
        except Refused as refused:
            raise Refused(f"destination {destination.name}: {refused}") from refused
        stack.push_async_callback(destination.aclose)
        return destination
