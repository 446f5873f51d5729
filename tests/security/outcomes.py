"""What comes of an attempt from inside a function, as declared for each driver."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """What an attempt comes to."""

    DENIED = "denied"
    BOUNDED = "bounded"
    POSSIBLE = "**possible**"
    HOST = "as on the host"
    """What any program of that user gets from the host's kernel: nothing is added, nothing promised."""

    WITH_CGROUP = "bounded, with a cgroup"
    """Where the daemon may make one: `millstream doctor` says."""

    WITH_IDS = "bounded, with subordinate ids"
    """Bounded if the daemon's user has some that it can use (`millstream doctor` says), possible if not."""

    UNTRIED = "**possible**, not tried"
    """It would harm the host that the tests run on."""


DENIED, BOUNDED, POSSIBLE, HOST, WITH_CGROUP, WITH_IDS, UNTRIED = Outcome
COLUMNS = {
    ("bwrap", True): "bwrap, root daemon",
    ("bwrap", False): "bwrap, user's daemon",
    ("docker", True): "docker",
    ("process", True): "process, root daemon",
    ("process", False): "process, user's daemon",
}
"""Titles of the table's columns, by driver and whether the daemon is root."""

Outcomes = tuple[Outcome, Outcome, Outcome, Outcome, Outcome]
"""In the order of the columns."""


def column(driver: str) -> int:
    """Of a daemon that runs as this process does. Docker's has one: its engine is root's in any case."""
    return [*COLUMNS].index((driver, driver == "docker" or os.geteuid() == 0))


def walled(process_root: Outcome, process_user: Outcome | None = None) -> Outcomes:
    """Denied wherever there is a sandbox."""
    return DENIED, DENIED, DENIED, process_root, process_root if process_user is None else process_user


def everywhere(outcome: Outcome) -> Outcomes:
    """The same on each driver."""
    return outcome, outcome, outcome, outcome, outcome


def never() -> bool:
    """No host denies it by itself."""
    return False


def ptrace_is_restricted() -> bool:
    """The host lets a process trace its children alone. Source: Linux, Documentation, "Yama"."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return scope.exists() and scope.read_text().strip() != "0"


def has_no_route() -> bool:
    """The host itself has no way off it."""
    routes = Path("/proc/net/route").read_text().splitlines()[1:]
    return not any(line.split()[1] == "00000000" for line in routes)


@dataclass(frozen=True)
class Attempt:
    """What a function may try."""

    group: str
    name: str
    outcomes: Outcomes
    code: str


@dataclass(frozen=True)
class Probe(Attempt):
    """One in a few lines: the body of `attempt(e)`, which answers whether it came through."""

    unless: Callable[[], bool] = never  # what is possible is denied by a host of which this is true
