"""What may happen, and in which order: drawn by Hypothesis, shrunk by it to the least that goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hypothesis import strategies as st


class Answers(Enum):
    """How the function takes batches."""

    WELL = "well"
    RAISES = "raises"
    POISONED = "raises at batches with a poisoned record"
    PARTLY = "names poisoned records as failed"
    MALFORMED = "answers with what is no answer"
    THROTTLED = "throttled"
    SLOW = "slow"


class Taking(Enum):
    """How the destination takes documents."""

    WELL = "well"
    AWAY = "away"
    FAULTY = "raises what it must not"
    SMALL = "takes small documents alone"


class Source(Enum):
    """How the source answers."""

    WELL = "well"
    AWAY = "away"
    REFUSES = "refuses"
    UNLISTED = "refuses to list its partitions, and lets those be read that are known"
    FAULTY = "raises what it must not"


@dataclass(frozen=True)
class Put:
    """Records that are sent; each is `(key, poisoned, large, refused)`."""

    records: tuple[tuple[int, bool, bool, bool], ...]


@dataclass(frozen=True)
class Stop:
    """A daemon ends: softly, or killed; and is started again after a while."""

    daemon: int
    killed: bool
    away_s: float


@dataclass(frozen=True)
class Move:
    """A broker takes a partition away, or gives it back; `lost`: without asking. A stream splits it."""

    partition: int
    lost: bool


@dataclass(frozen=True)
class StoreAway:
    """The store does not answer for a while."""

    for_s: float


Event = Put | Stop | Move | StoreAway | Answers | Taking | Source

waits_s = st.sampled_from([0.0, 0.1, 1.0, 3.0, 10.0, 40.0, 200.0])
rarely = st.sampled_from([False, False, False, False, True])
puts = st.builds(
    Put, st.lists(st.tuples(st.integers(0, 3), rarely, rarely, rarely), min_size=1, max_size=12).map(tuple)
)
events = st.one_of(
    puts,
    puts,
    st.sampled_from(Answers),
    st.sampled_from(Taking),
    st.sampled_from(Source),
    st.builds(Stop, st.integers(0, 1), st.booleans(), st.sampled_from([0.0, 2.0, 30.0])),
    st.builds(Move, st.integers(0, 2), st.booleans()),
    st.builds(StoreAway, st.sampled_from([1.0, 10.0, 60.0])),
)


@dataclass(frozen=True)
class Policy:
    """What of a mapping's options changes what becomes of records."""

    size: int
    window_s: float
    max_retries: int | None
    bisect: bool
    item_failures: bool
    required: bool  # a record that is given up waits for the destination
    lanes: int
    shared: bool  # batches are formed of several partitions
    in_place: bool  # what failed is tried again while it is held
    tumbling: bool  # records of a stream's partition are gathered in tumbling windows


policies = st.builds(
    Policy,
    size=st.sampled_from([1, 3, 10]),
    window_s=st.sampled_from([0.0, 0.0, 2.0]),
    max_retries=st.sampled_from([None, 0, 2]),
    bisect=st.booleans(),
    item_failures=st.booleans(),
    required=st.booleans(),
    lanes=st.sampled_from([1, 1, 3]),
    shared=st.booleans(),
    in_place=st.booleans(),
    tumbling=st.sampled_from([False, False, True]),
)
schedules = st.lists(st.tuples(waits_s, events), min_size=1, max_size=14)
