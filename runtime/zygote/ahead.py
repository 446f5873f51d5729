"""Forks the process of a runtime ahead of the moment that it is needed. Standard library only.

To fork is the longest part of a cold start. Until it is told what to become this process holds nothing of the
function, and cannot be looked into by what does.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

from . import child

MESSAGE_BYTES = 1 << 16
DESCRIPTORS = 4


class Ahead:
    """One such process. Raises OSError: there is no room for it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = os.fork()
            if self.pid == 0:
                _wait(theirs.detach())

    def tell(self, request: dict[str, Any], descriptors: list[int]) -> bool:
        """Have it become what is asked for. False: it is gone, or takes nothing."""
        with self._socket:
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            except OSError:
                return False
        return True


def _wait(descriptor: int) -> None:
    """The child. Does not return."""
    message = b""
    try:
        end = os.dup2(descriptor, 3, inheritable=False)
        os.closerange(4, child.FILES)
        child.set_apart()
        os.environ.clear()  # that of the template; the function's comes
        with socket.socket(fileno=end) as told:
            message, descriptors, _, _ = socket.recv_fds(told, MESSAGE_BYTES, DESCRIPTORS)
    finally:
        if not message:  # nobody needs it any more
            os._exit(0)
    child.become(json.loads(message), descriptors)
