"""Where partitions begin that are assigned to a member, and whether its topic is still the one it was.

A topic that was deleted and made anew counts its offsets from 0 again, and no offset shows that. Its id
does, which stands beside each offset that we commit; so a cursor of an earlier topic is known wherever it
is met, by whichever member, with whichever client.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from millstream.contract.errors import SourceUnavailable
from millstream.contract.streams import At, Oldest
from millstream.triggers.kafka_client import Client, Cursor

logger = logging.getLogger(__name__)


class Ended(SourceUnavailable):
    """The membership cannot go on with what it holds; the next one begins at the group's cursors."""


@dataclass(frozen=True, slots=True)
class Places:
    """The offsets at which partitions begin."""

    known: Mapping[int, int]  # by the group's own cursors
    begun: Mapping[int, int]  # where it has none, or those of an earlier topic

    @property
    def all(self) -> dict[int, int]:
        return {**self.known, **self.begun}


class Starts:
    """Says where partitions begin; used by the polling thread alone.

    `start` is for partitions of which the group has no cursor.
    """

    def __init__(self, client: Client, start: Oldest | At, topic: str) -> None:
        self._client = client
        self._start = start
        self._topic = topic
        self.identity: str | None = None  # of the topic that is read. None: not known

    def check(self) -> None:
        """See that the topic is the one that this member has read so far.

        Raises:
            Ended: it is another one.
            SourceUnavailable, Refused: the cluster does not say.
        """
        found = self._client.identity()
        if found is None:
            return
        if self.identity is not None and self.identity != found:
            raise Ended(f"{self._topic}: the topic was made anew")
        self.identity = found

    def of(self, partitions: Sequence[int]) -> Places:
        """Say where they begin.

        Raises:
            Ended: the topic is another one than this member has read so far.
            SourceUnavailable, Refused: the cluster does not say.
        """
        self.check()  # before the cursors: an id that is older than they are can be seen to be
        known = self._client.committed(partitions)
        old = [partition for partition, cursor in known.items() if self._is_old(cursor)]
        if old:
            extra = {"topic": self._topic, "partitions": sorted(old)}
            logger.warning("topic was made anew, reading it from its oldest offsets", extra=extra)
        kept = {partition: cursor.offset for partition, cursor in known.items() if partition not in old}
        unknown = [partition for partition in partitions if partition not in known]
        return Places(kept, {**self._begin(old, Oldest()), **self._begin(unknown, self._start)})

    def _is_old(self, cursor: Cursor) -> bool:
        return None not in (cursor.identity, self.identity) and cursor.identity != self.identity

    def _begin(self, partitions: Sequence[int], start: Oldest | At) -> Mapping[int, int]:
        if not partitions:
            return {}
        match start:
            case Oldest():
                return {p: oldest for p, (oldest, _) in self._client.bounds(partitions).items()}
            case At(timestamp=timestamp):
                return self._client.at(partitions, timestamp)
