"""Warns, once each, of how a RabbitMQ queue counts deliveries, where that has consequences."""

from __future__ import annotations

import logging

from millstream.amqp.wire import Properties
from millstream.triggers.rabbitmq_messages import UNCOUNTED, taken_back

logger = logging.getLogger(__name__)

NEAR_THE_LIMIT = 10
"""Half of the delivery limit that RabbitMQ 4 gives each quorum queue. Source: RabbitMQ, "Quorum Queues"."""


class DeliveryWatch:
    """Looks at each message of one mapping that is delivered again."""

    def __init__(self, queue: str, most_deliveries: int) -> None:
        self._queue = queue
        self._most_deliveries = most_deliveries  # of a record, before it is given up. 0: no limit
        self._warned_of_limit = False
        self._warned_of_uncounted = False

    def look(self, properties: Properties, delivery_count: int) -> None:
        """Warn, if there is a reason that was not said yet. Only for a message that is delivered again."""
        taken = taken_back(properties.headers)
        if taken is None:
            if self._most_deliveries > UNCOUNTED == delivery_count:
                self._warn_of_uncounted()
        elif taken >= NEAR_THE_LIMIT and not self._warned_of_limit:
            self._warned_of_limit = True
            logger.warning(
                "message taken back many times: a delivery limit, 20 by default in RabbitMQ 4, drops it",
                extra={"queue": self._queue, "taken_back": taken},
            )

    def _warn_of_uncounted(self) -> None:
        if not self._warned_of_uncounted:
            self._warned_of_uncounted = True
            logger.warning(
                "queue counts no deliveries: what fails is tried again without end",
                extra={"queue": self._queue, "maximum_retry_attempts": self._most_deliveries - 1},
            )
