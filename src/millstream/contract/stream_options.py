"""Options that mappings on all streams have, by AWS's names in snake_case; durations in seconds."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from millstream.contract.errors import Problem
from millstream.contract.options import Options, shown
from millstream.contract.ports import BatchLimits
from millstream.contract.streams import At, Latest, Oldest, StartingPosition, StreamPolicy

UNLIMITED = -1

YOUNGEST_LIMIT_S = 60
"""Least MaximumRecordAgeInSeconds that is not "none". Source: AWS, CreateEventSourceMapping."""


def _unix_seconds(value: Any) -> Any:
    """Seconds of an ISO 8601 time; one without a zone is UTC."""
    if not isinstance(value, str):
        return value
    at = datetime.fromisoformat(value)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


class StreamOptions(Options):
    """What a stream's trigger adds its own options to.

    Source of names, bounds and defaults: AWS, CreateEventSourceMapping; `on_failure_required` is ours.
    """

    batch_size: int = Field(default=100, ge=1, le=10_000, description="a whole number from 1 to 10000")
    batching_window: int = Field(
        default=0, ge=0, le=300, description="a whole number of seconds from 0 to 300"
    )
    report_batch_item_failures: bool = Field(default=False, description="True or False")
    bisect_batch_on_function_error: bool = Field(default=False, description="True or False")
    maximum_retry_attempts: int = Field(
        default=UNLIMITED, ge=-1, le=10_000, description="a whole number from 0 to 10000, or -1 for no limit"
    )
    maximum_record_age: int = Field(
        default=UNLIMITED,
        ge=-1,
        le=604_800,
        description="a whole number of seconds from 60 to 604800, or -1 for no limit",
    )
    on_failure_required: bool = Field(default=False, description="True or False")

    @field_validator("maximum_record_age")
    @classmethod
    def _not_too_young(cls, value: int) -> int:
        if value != UNLIMITED and value < YOUNGEST_LIMIT_S:
            raise ValueError("a whole number of seconds from 60 to 604800, or -1 for no limit")
        return value

    @property
    def limits(self) -> BatchLimits:
        """When a batch is sent."""
        return BatchLimits(self.batch_size, float(self.batching_window))

    @property
    def policy(self) -> StreamPolicy:
        """What is done with failures."""
        return StreamPolicy(
            item_failures=self.report_batch_item_failures,
            max_retries=None if self.maximum_retry_attempts == UNLIMITED else self.maximum_retry_attempts,
            max_age_s=None if self.maximum_record_age == UNLIMITED else float(self.maximum_record_age),
            bisect=self.bisect_batch_on_function_error,
            on_failure_required=self.on_failure_required,
        )


class ShardOptions(StreamOptions):
    """Options of a stream whose partitions may be read by several lanes, or in tumbling windows."""

    parallelization_factor: int = Field(default=1, ge=1, le=10, description="a whole number from 1 to 10")
    tumbling_window: int = Field(
        default=0, ge=0, le=900, description="a whole number of seconds from 0 to 900"
    )

    def misfits(self) -> list[Problem]:
        problems = super().misfits()
        if self.tumbling_window and self.parallelization_factor > 1:
            # A window's state is handed from each invocation of a shard to the next.
            wanted = "1 beside tumbling_window"
            found = str(self.parallelization_factor)
            problems.append(Problem("", "parallelization_factor", wanted, found))
        return problems

    @property
    def policy(self) -> StreamPolicy:
        return replace(
            super().policy, lanes=self.parallelization_factor, tumbling_window_s=self.tumbling_window
        )


class TimedStreamOptions(StreamOptions):
    """Options of a stream that can be searched by time."""

    starting_position: Literal["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"] = Field(
        description='"TRIM_HORIZON", "LATEST" or "AT_TIMESTAMP"'
    )
    starting_position_timestamp: Annotated[float | None, BeforeValidator(_unix_seconds)] = Field(
        default=None, description="Unix seconds or an ISO 8601 time, not in the future"
    )

    @field_validator("starting_position_timestamp")
    @classmethod
    def _not_in_the_future(cls, value: float | None) -> float | None:
        if value is not None and value > time.time():
            raise ValueError("Unix seconds or an ISO 8601 time, not in the future")
        return value

    def misfits(self) -> list[Problem]:
        problems = super().misfits()
        given = self.starting_position_timestamp
        if self.starting_position == "AT_TIMESTAMP" and given is None:
            wanted = 'a time beside "AT_TIMESTAMP"'
            problems.append(Problem("", "starting_position_timestamp", wanted, "nothing"))
        if self.starting_position in ("TRIM_HORIZON", "LATEST") and given is not None:
            wanted = 'none, but beside "AT_TIMESTAMP"'
            problems.append(Problem("", "starting_position_timestamp", wanted, shown(given)))
        return problems

    @property
    def start(self) -> StartingPosition:
        """Where a partition without a cursor starts."""
        match self.starting_position:
            case "TRIM_HORIZON":
                return Oldest()
            case "LATEST":
                return Latest()
            case "AT_TIMESTAMP":
                assert self.starting_position_timestamp is not None  # checked as the options were made
                return At(self.starting_position_timestamp)
