"""What ties the daemon to a new environment: a pair of sockets for frames, and a pipe for output."""

from __future__ import annotations

import socket
import uuid
from dataclasses import dataclass

from millstream.contract.errors import SandboxUnavailable
from millstream.contract.ports import LogSink
from millstream.runtime.output import Output

STREAM_DIGITS = 8
"""Of the 32 hex digits of a log stream, those that each line of the log begins with."""


@dataclass(frozen=True, slots=True)
class Ends:
    """`ours` and `output` stay with the daemon, `theirs` and `output.write_end` go to the environment."""

    stream: str
    ours: socket.socket
    theirs: socket.socket
    output: Output

    def handed_over(self) -> None:
        """The environment has its own copies; ours are closed, so that its end is seen."""
        self.theirs.close()
        self.output.close_write_end()

    def close(self) -> None:
        """There will be no environment."""
        self.ours.close()
        self.theirs.close()
        self.output.close()


def open_ends(function: str, log: LogSink) -> Ends:
    """The ends of a new environment.

    Raises:
        SandboxUnavailable: no descriptors are left.
    """
    stream = uuid.uuid4().hex[:STREAM_DIGITS]
    try:
        ours, theirs = socket.socketpair()
    except OSError as error:
        raise SandboxUnavailable(f"{function}: {error.strerror}") from error
    try:
        return Ends(stream, ours, theirs, Output(log, stream))
    except OSError as error:
        ours.close()
        theirs.close()
        raise SandboxUnavailable(f"{function}: {error.strerror}") from error
