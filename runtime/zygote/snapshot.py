"""An environment's snapshot, as its supervisor sees it: a process of the function that forks others.

What it says is hostile. A process that was forked tells of itself on the snapshot's socket, and the kernel
says which one it is; what says more than it was asked for is not heard. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct

HERE = b"+"
SO_PASSRIGHTS = 83  # of include/uapi/asm-generic/socket.h
CREDENTIALS = struct.Struct("3i")  # ucred: process, user, group
MESSAGE_BYTES = 16


class Snapshot:
    """One such process, and at most one request to it."""

    def __init__(self) -> None:
        self.socket, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with contextlib.suppress(OSError):  # kernels before 6.16: a descriptor may hold up whoever takes it
            self.socket.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        self.socket.setblocking(False)
        self.pid = 0
        self.asked: int | None = None  # the id of what it was asked for

    def ask(self, number: int, descriptors: list[int]) -> None:
        """Have it fork. Raises OSError: it is gone, or takes nothing."""
        send(self.pid, signal.SIGCONT)  # whoever may have stopped it
        socket.send_fds(self.socket, [HERE], descriptors)
        self.asked = number

    def answer(self) -> tuple[int, int] | None:
        """What came of it: the id, and the process or 0. None: nothing that was asked for.

        Raises:
            EOFError: it has closed its end.
        """
        try:
            message, ancillary, _, _ = self.socket.recvmsg(
                MESSAGE_BYTES, socket.CMSG_SPACE(CREDENTIALS.size) + socket.CMSG_SPACE(4 * 253)
            )
        except BlockingIOError:
            return None
        pid = 0
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                pid = CREDENTIALS.unpack(data)[0]
            elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                _close(data)
        if not message:
            raise EOFError
        number, self.asked = self.asked, None
        if number is None:
            return None
        return number, pid if message == HERE else 0

    def close(self) -> None:
        """Give the sockets back."""
        self.socket.close()
        self.theirs.close()


def kill_others(kept: int) -> bool:
    """Kill all processes of this namespace but the first and `kept`; false once there are none.

    They are to be stopped already, so that none starts others.
    """
    alive = False
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in (1, kept) and _lives(name):
            alive = True
            send(int(name), signal.SIGKILL)
    return alive


def send(pid: int, number: int) -> None:
    """kill(2), of what may be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _lives(pid: str) -> bool:
    """False if it is dead, and waits only for its parent to see it."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state = file.read().rpartition(")")[2].split()[0]
        return state not in "ZX" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _close(rights: bytes) -> None:
    """Nobody asked for descriptors."""
    for (descriptor,) in struct.iter_unpack("i", rights[: len(rights) // 4 * 4]):
        os.close(descriptor)
