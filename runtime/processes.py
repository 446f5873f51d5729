"""The processes of one execution environment, as a driver makes them: a port of the runtime's own."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

NO_LIMITS: Mapping[str, int] = MappingProxyType({})

PATH = re.compile(r"(?<![\w/.])(/var/task|/var/lang|/opt)(?![\w.-])")
"""One of Lambda's folders, at the start of a path in a text."""


class NotStarted(Exception):
    """A process could not be started; the text says why."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the processes of an environment find things."""

    task_root: str = "/var/task"
    runtime: str = "/var/runtime"
    opt: str = "/opt"
    lang: str = "/var/lang"  # an installation that the function's runtime is of
    temporary: str = "/tmp"
    limits: Mapping[str, int] = field(default_factory=lambda: NO_LIMITS)  # for our bootstrap to set
    port: int = 0  # of the Runtime API; 0: none is served
    python: str = ""  # the interpreter of functions that are started in one of their own
    start: str = "/var/runtime/bootstrap.py"  # what it runs

    @property
    def layers(self) -> list[str]:
        """Folders of Python modules. Source: AWS, "Working with layers for Python Lambda functions"."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        layers = f"{self.opt}/python"
        return [f"{layers}/lib/{version}/site-packages", layers]

    def placed(self, text: str) -> str:
        """Text with paths as Lambda has them, as these places have them."""
        moves = {"/var/task": self.task_root, "/opt": self.opt, "/var/lang": self.lang}
        return PATH.sub(lambda found: moves[found[0]], text)


@dataclass(eq=False, slots=True)
class Process:
    """One process that was started for the function: its runtime, or an extension."""

    exited: asyncio.Future[int]  # exit status; below 0: by that signal
    pid: int = -1  # as the host counts; -1: not known


class Processes(Protocol):
    """All processes of one environment. What `end` leaves is an empty sandbox with its files."""

    @property
    def places(self) -> Places:
        """Where they find things."""

    @property
    def listener(self) -> socket.socket | None:
        """Listens where the function finds the Runtime API; None where none was asked for."""

    kept: Process | None
    """What `end` leaves, where the driver can: a snapshot. None: nothing."""

    @property
    def there(self) -> bool:
        """False once the sandbox itself is gone."""

    async def start_python(self, frames: Sequence[int], output: int) -> Process:
        """Start our bootstrap with its descriptors for frames (see `ends.py`), and with `output` to print to.

        Raises:
            NotStarted: the sandbox ended, or has no room.
        """

    async def start_snapshot(self, frames: Sequence[int], output: int) -> Process:
        """As `start_python`, but it may be able to fork at its snapshot; it says so in its frames."""

    async def restore(self, frames: Sequence[int]) -> Process:
        """Have the snapshot that was started last fork. Raises NotStarted: it is gone, or cannot."""

    async def start_program(
        self, command: Sequence[str], environment: Mapping[str, str], directory: str, output: int
    ) -> Process:
        """Start a program; one that is not there ends with status 127. Raises as `start_python` does."""

    def make_socket(self) -> asyncio.Future[socket.socket]:
        """A new TCP socket in the environment's network. It ends with NotStarted where there is none."""

    def signal(self, process: Process, number: int) -> None:
        """Send a signal to a process that was started here."""

    def stop(self) -> None:
        """Freeze all of them; returns at once."""

    def go_on(self) -> None:
        """Thaw them."""

    def end(self) -> None:
        """Kill all of them and keep the sandbox; returns at once."""

    async def ended(self) -> None:
        """Return when none is left, after `end`. Raises NotStarted if the sandbox is gone with them."""

    def kill(self) -> None:
        """End all of them and the sandbox; returns at once. Called once."""

    async def gone(self) -> None:
        """Return when nothing is left, after `kill`."""

    def out_of_memory(self) -> bool:
        """True if one was ended for the memory that they took, since this was last asked. False: unknown."""

    def peak_kb(self, process: Process) -> int:
        """Most memory that one had at once, while it is there. 0: not known."""

    def memory_kb(self, process: Process) -> int:
        """What one holds now, about. 0: not known."""
