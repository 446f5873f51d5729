"""A running template of the bwrap driver: the zygote that forks the environments of one function.

The first process of the next environment is forked ahead, when there is a moment for it, so that a cold
start finds namespaces, mounts and limits made; and where our bootstrap will run, its process, too. They hold
no code of the function.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.runtime.egress import LOOPBACK, endpoints
from millstream.runtime.sandboxes.cgroups import Group
from millstream.runtime.sandboxes.freezers import Freezer
from millstream.runtime.sandboxes.layout import API_PORT, USER_ID, data_mb, mode, places, stacks_mb
from millstream.runtime.sandboxes.supervised import SupervisedProcesses, pid_of

logger = logging.getLogger(__name__)

FORK_S = 10.0
SPARE_AFTER_S = 0.1
"""How long after a fork the next one is made ahead: not while many are asked for at once."""

ANSWER_BYTES = 20
AHEAD = b'{"op": "ahead"}'


class _Asked:
    """An environment that the zygote makes, or has made."""

    def __init__(self, number: int, control: socket.socket) -> None:
        self.number = number
        self.control = control  # of its supervisor
        self.pidfd: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.freezer: Freezer | None = None
        self.enclosed: asyncio.Future[OSError | None] | None = None  # its supervisor in that

    @property
    def lost(self) -> bool:
        """True if it has ended by itself."""
        poll = select.poll()
        poll.register(self.control, 0)
        return bool(poll.poll(0))  # the end of the other side is told unasked

    def close(self) -> None:
        """Nobody wants it any more; it ends by the end of file on its socket."""
        self.control.close()
        if self.pidfd.done() and not self.pidfd.cancelled() and self.pidfd.exception() is None:
            os.close(self.pidfd.result())
        self.pidfd.cancel()
        if self.freezer is not None:
            self.freezer.close()


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
        self._forks_ahead = mode(function) != "bare"
        self._lock = asyncio.Lock()
        self._asked: dict[int, _Asked] = {}  # of the zygote, and not answered; by number
        self._last = 0
        self._spare: _Asked | None = None
        self._timer: asyncio.TimerHandle | None = None

    def listen(self) -> None:
        """Hear the zygote's answers from now on, for it is up: environments may be asked of it."""
        asyncio.get_running_loop().add_reader(self.control, self._answered)

    async def fork(self) -> SupervisedProcesses:
        """The processes of a new environment: as yet, its first one.

        Raises:
            SandboxUnavailable: no descriptor is left.
            OSError, EOFError, TimeoutError: the zygote is of no use any more.
        """
        async with self._lock, asyncio.timeout(FORK_S):  # in turn, so that the zygote's queue is short
            asked = self._take_spare() or self._ask()
            async with self._dropped_if_it_fails(asked):
                pidfd = await asyncio.shield(asked.pidfd)
        self._spare_later()
        async with self._dropped_if_it_fails(asked):
            await self._enclosed(asked)
        processes = SupervisedProcesses(self._name, pidfd, asked.control, places())
        processes.freezer = asked.freezer
        return processes

    @contextlib.asynccontextmanager
    async def _dropped_if_it_fails(self, asked: _Asked) -> AsyncIterator[None]:
        """Drop it where this fails or is cut off."""
        good = False
        try:
            yield
            good = True
        finally:
            if not good:
                self._drop(asked)

    def drop_spare(self) -> None:
        """Make none any more; the one that is there ends by the end of file on its socket."""
        if self._timer is not None:
            self._timer.cancel()
        if self._spare is not None:
            self._drop(self._spare)
            self._spare = None

    def leave(self) -> None:
        """Listen to the zygote no more, which ends."""
        self.drop_spare()
        if self.control.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self.control)
        self._fail(EOFError("the zygote is ended"))

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
            self._drop(spare)
            return None
        return spare

    def _drop(self, asked: _Asked) -> None:
        self._asked.pop(asked.number, None)
        asked.close()

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
        self._asked[self._last] = made = _Asked(self._last, ours)
        return made

    def _answered(self) -> None:
        """The zygote has forked one, or is gone."""
        try:
            answer, received, _, _ = socket.recv_fds(self.control, ANSWER_BYTES, 1)
        except BlockingIOError:
            return
        except OSError as error:
            answer, received = b"", []
            self._fail(error)
        if not answer:
            asyncio.get_running_loop().remove_reader(self.control)
            self._fail(EOFError("the zygote ended"))
            return
        asked = self._asked.pop(int(answer), None)
        if asked is None or asked.pidfd.done():  # by a call that was cancelled; its end of file ends it
            for descriptor in received:
                os.close(descriptor)
        elif received:
            asked.pidfd.set_result(received[0])
            self._enclose(asked, received[0])
        else:  # the environment ends by the end of file on its socket
            _failed(asked, SandboxUnavailable(f"{self._name}: no descriptor left"))

    def _enclose(self, asked: _Asked, pidfd: int) -> None:
        """Have a cgroup take its supervisor, in a thread: the kernel may wait for all processors first.

        That takes one process alone, so what the supervisor forks must come later.
        """
        freezer = self._freezer()
        if freezer is None:
            self._fork_ahead(asked)
            return
        asked.freezer = freezer
        taking = partial(_taken, freezer, pid_of(pidfd))
        asked.enclosed = asyncio.get_running_loop().run_in_executor(None, taking)
        asked.enclosed.add_done_callback(lambda _: self._fork_ahead(asked))

    def _freezer(self) -> Freezer | None:
        """One more cgroup, if the host has any, for one environment."""
        if self.group is None or self.group.freezers is None:
            return None
        try:
            return self.group.freezers.make()
        except OSError as error:
            self._say_unfrozen(error)
            return None

    def _fork_ahead(self, asked: _Asked) -> None:
        """Have its supervisor fork the process of the runtime, unless it was taken meanwhile."""
        if self._forks_ahead and self._spare is asked:
            with contextlib.suppress(OSError):  # it has ended, as whoever takes it will see
                asked.control.send(AHEAD)

    async def _enclosed(self, asked: _Asked) -> None:
        """Wait until that is done; where it cannot be, there is none."""
        error = None if asked.enclosed is None else await asked.enclosed
        if error is not None and asked.freezer is not None:
            asked.freezer.close()
            asked.freezer = None
            if not isinstance(error, ProcessLookupError):  # it has ended
                self._say_unfrozen(error)

    def _say_unfrozen(self, error: OSError) -> None:
        extra = {"function": self._name, "error": error.strerror}
        logger.warning("no cgroup to freeze an environment by, signals stop it", extra=extra)

    def _fail(self, error: Exception) -> None:
        for asked in self._asked.values():
            _failed(asked, error)
        self._asked.clear()


def _taken(freezer: Freezer, pid: int) -> OSError | None:
    try:
        freezer.take(pid)
    except OSError as error:
        return error
    return None


def _failed(asked: _Asked, error: Exception) -> None:
    if not asked.pidfd.done():
        asked.pidfd.set_exception(error)
        asked.pidfd.exception()  # nobody need be waiting
