"""A running template of the bwrap driver: the zygote that forks the environments of one function.

The first process of the next environment is forked ahead, when there is a moment for it, so that a cold
start finds namespaces, mounts and limits made. It holds no code of the function, and nothing runs in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
from dataclasses import dataclass
from pathlib import Path

from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.runtime.egress import LOOPBACK, endpoints
from millstream.runtime.sandboxes.cgroups import Group
from millstream.runtime.sandboxes.layout import API_PORT, USER_ID, data_mb, places, stacks_mb
from millstream.runtime.sandboxes.supervised import SupervisedProcesses

FORK_S = 10.0
SPARE_AFTER_S = 0.1
"""How long after a fork the next one is made ahead: not while many are asked for at once."""

ANSWER_BYTES = 20


@dataclass(frozen=True, slots=True)
class _Asked:
    """An environment that the zygote makes, or has made."""

    number: int
    control: socket.socket  # of its supervisor

    @property
    def lost(self) -> bool:
        """True if it has ended by itself."""
        poll = select.poll()
        poll.register(self.control, 0)
        return bool(poll.poll(0))  # the end of the other side is told unasked


class Template:
    """The process, the socket to its zygote, and the cgroup of all that it forks."""

    def __init__(
        self,
        function: FunctionSpec,
        process: asyncio.subprocess.Process,
        control: socket.socket,
        log: Path,
        group: Group | None,
    ) -> None:
        self.process = process
        self.control = control
        self.log = log
        self.group = group
        self._name = function.name
        listen = [(LOOPBACK, API_PORT)]
        listen += [(each.address, each.port) for each in endpoints(function.network)]
        self._request = {
            "tmp_mb": function.ephemeral_storage_mb,
            "data_mb": data_mb(function),
            "stacks_mb": stacks_mb(function, counted=group is not None and group.holds_memory),
            "uid": USER_ID,
            "listen": listen,
        }
        self._lock = asyncio.Lock()
        self._last = 0
        self._spare: _Asked | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def fork(self) -> SupervisedProcesses:
        """The processes of a new environment: as yet, its first one.

        Raises:
            SandboxUnavailable: no descriptor is left.
            OSError, EOFError, TimeoutError: the zygote is of no use any more.
        """
        async with self._lock, asyncio.timeout(FORK_S):
            asked = self._take_spare() or self._ask()
            pidfd = -1
            try:
                pidfd = await self._forked(asked.number)
            finally:
                if pidfd < 0:
                    asked.control.close()
        self._spare_later()
        return SupervisedProcesses(self._name, pidfd, asked.control, places())

    def drop_spare(self) -> None:
        """Make none any more; the one that is there ends by the end of file on its socket."""
        if self._timer is not None:
            self._timer.cancel()
        if self._spare is not None:
            self._spare.control.close()
            self._spare = None

    def _spare_later(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(SPARE_AFTER_S, self._make_spare)

    def _make_spare(self) -> None:
        if self._spare is None and not self._lock.locked():
            with contextlib.suppress(OSError, SandboxUnavailable):  # whoever needs one next is told
                self._spare = self._ask()

    def _take_spare(self) -> _Asked | None:
        spare, self._spare = self._spare, None
        if spare is not None and spare.lost:
            spare.control.close()
            return None
        return spare

    def _ask(self) -> _Asked:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:  # no fault of the zygote's
            raise SandboxUnavailable(f"{self._name}: {error.strerror}") from error
        asked = False
        try:
            with theirs:
                message = json.dumps({"number": self._last + 1, **self._request}).encode()
                socket.send_fds(self.control, [message], [theirs.fileno()])
            asked = True
        finally:
            if not asked:
                ours.close()
        self._last += 1
        return _Asked(self._last, ours)

    async def _forked(self, number: int) -> int:
        """A pidfd of the environment that was asked for by this number."""
        loop = asyncio.get_running_loop()
        while True:
            readable = loop.create_future()
            loop.add_reader(self.control, _once, readable)
            try:
                await readable
            finally:
                loop.remove_reader(self.control)
            answer, received, _, _ = socket.recv_fds(self.control, ANSWER_BYTES, 1)
            if not answer:
                raise EOFError("the zygote ended")
            if not received:  # the environment ends by the end of file on its socket
                raise SandboxUnavailable(f"{self._name}: no descriptor left")
            if int(answer) == number:
                return received[0]
            os.close(received[0])  # asked for by a call that was cancelled; its end of file ends it


def _once(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
