"""Makes the two ends of a function's frames so that no kernel object comes to the daemon by them.

A unix socket brings objects along (SCM_RIGHTS), and the thread that reads from it releases them. A hostile
one holds that up for as long as it likes: a TCP socket that lingers over data which nobody takes.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

SO_PASSRIGHTS = 83
"""Source: Linux, include/uapi/asm-generic/socket.h; 6.16 and later."""


class End(Protocol):
    """The part of a socket that frames need; a call that would have to wait raises BlockingIOError."""

    def fileno(self) -> int: ...

    def recv(self, size_bytes: int, /) -> bytes: ...

    def recv_into(self, buffer: memoryview, /) -> int: ...

    def send(self, data: bytes | memoryview, /) -> int: ...

    def sendmsg(self, parts: Sequence[bytes], /) -> int: ...

    def close(self) -> None: ...


class PipeEnd:
    """Implements End with one end of a pipe, which carries bytes alone."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def recv(self, size_bytes: int, /) -> bytes:
        return os.read(self._descriptor, size_bytes)

    def recv_into(self, buffer: memoryview, /) -> int:
        return os.readv(self._descriptor, [buffer])

    def send(self, data: bytes | memoryview, /) -> int:
        return os.write(self._descriptor, data)

    def sendmsg(self, parts: Sequence[bytes], /) -> int:
        return os.writev(self._descriptor, parts)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Ends:
    """`reader` and `writer` are the daemon's, of a socket the same; `theirs` are for the process."""

    def __init__(self, reader: End, writer: End, theirs: Sequence[int]) -> None:
        self.reader = reader
        self.writer = writer
        self._theirs = tuple(theirs)

    @contextmanager
    def theirs(self) -> Iterator[tuple[int, ...]]:
        """The process reads from the first and writes to the last; the context closes them here."""
        try:
            yield self._theirs
        finally:
            for descriptor in self._theirs:
                os.close(descriptor)


def make_ends() -> Ends:
    """Make a socket pair where the kernel can refuse descriptors on it, else two pipes. Raises OSError.

    A socket takes large frames at twice the rate, and nobody can keep its reader waiting. A pipe is locked
    while its writer's memory is copied, which a hole that is punched into a mapped file of 512 MB delays for
    0.1 s.
    """
    ours, theirs = socket.socketpair()
    if refuse_descriptors(ours):
        ours.setblocking(False)
        return Ends(ours, ours, [theirs.detach()])
    ours.close()
    theirs.close()
    return make_pipes()


def refuse_descriptors(sock: socket.socket) -> bool:
    """Have whoever sends descriptors to a unix socket get EPERM. False: this kernel cannot."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError:
        return False
    return True


def make_pipes() -> Ends:
    """Make two pipes, for kernels that hand on whatever is sent to a unix socket. Raises OSError."""
    their_read, our_write = os.pipe()
    try:
        our_read, their_write = os.pipe()
    except OSError:
        os.close(their_read)
        os.close(our_write)
        raise
    return Ends(PipeEnd(our_read), PipeEnd(our_write), [their_read, their_write])
