"""The docker driver: a container of this host's Docker engine for each environment.

The container has the namespaces, mounts and cgroup; its first process is the supervisor of the bwrap
driver, which limits itself further (see `zygote/contained.py`). It connects to a socket in a folder that
this container alone has mounted, and that is removed before anything of the function starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
import struct
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from millstream.contract.blocking import BlockingClient
from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import LogSink
from millstream.runtime.assemble import assemble
from millstream.runtime.egress import LOOPBACK, endpoints
from millstream.runtime.environment import Environment
from millstream.runtime.processes import NotStarted
from millstream.runtime.sandboxes.containers import SOCKET, Root, container, root_of
from millstream.runtime.sandboxes.engine import WAYS_OUT, Engine, Offer
from millstream.runtime.sandboxes.hierarchies import watch
from millstream.runtime.sandboxes.layout import API_PORT, data_mb, places, stacks_mb
from millstream.runtime.sandboxes.supervised import SupervisedProcesses
from millstream.runtime.sandboxes.users import IDS, HostUsers, host_users

THREADS = 4
"""Calls of the engine at once: it makes containers hardly faster with more."""

START_S = 30.0

LOOK_S = 1.0
"""How often a container that has not yet answered is looked at."""

TRIAL = FunctionSpec("empty.trial", "", "", Path(), memory_size_mb=64, ephemeral_storage_mb=64)
"""What is tried at the start; no function has such a name."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


class DockerSandbox:
    """Implements Sandbox on Linux. The engine isolates; the daemon may be any user that it serves."""

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir
        self._calls = BlockingClient("docker", THREADS)
        self._engine: Engine | None = None
        self._offer: Offer | None = None
        self._filter = b""
        self._roots: dict[str, Root] = {}  # by function
        self._users = HostUsers(IDS)

    async def start(self) -> None:
        """Connect to the engine, remove what a killed daemon left, and try an empty container."""
        if not sys.platform.startswith("linux"):
            wanted = "wanted Linux; --isolation process is there, which is weaker"
            raise SandboxUnavailable(f"isolation docker: {wanted}, found {sys.platform}")
        try:
            from millstream.runtime.sandboxes import seccomp  # needs a library of the system
        except (ImportError, OSError, RuntimeError) as error:
            wanted = "wanted libseccomp (Debian, Ubuntu: libseccomp2)"
            raise SandboxUnavailable(f"isolation docker: {wanted}, found: {error}") from error
        self._filter = seccomp.program()
        self._users = host_users()
        shutil.rmtree(self._work_dir / "sockets", ignore_errors=True)  # of a killed daemon
        (self._work_dir / "sockets").mkdir(parents=True)
        (self._work_dir / "sockets").chmod(0o700)
        data_id = hashlib.sha256(os.fsencode(self._work_dir.resolve())).hexdigest()[:16]
        self._engine = await self._calls.call(Engine, data_id)
        up = False
        try:
            self._offer = await self._calls.call(self._engine.offer)
            if left := await self._calls.call(self._engine.remove_all):
                logger.warning("containers of a killed daemon removed", extra={"containers": left})
            await self._try()
            up = True
        finally:
            if not up:
                await self.aclose()

    def limits(self) -> str:
        offer = self._offer
        if offer is None:
            return "not started"
        memory = f"memory per environment (cgroup {offer.cgroup_version} of the engine) and per process"
        if not offer.memory:
            memory = "memory per process alone, for the engine has no cgroup for it"
        processes = "processes" if offer.processes else "processes per user"
        calls = "system calls filtered" + (", and again by the engine" if offer.seccomp else "")
        rootless = ", rootless" if offer.rootless else ""
        limited = f"{memory}; /tmp, {processes}, descriptors per environment; no network; {calls}"
        return f"{limited} (Docker {offer.version}{rootless})"

    async def create(self, function: FunctionSpec, log: LogSink) -> Environment:
        return await assemble(function, log, lambda: self._processes(function))

    async def aclose(self) -> None:
        if self._engine is not None:
            try:
                await self._calls.call(self._engine.remove_all)
            except SandboxUnavailable as unavailable:
                extra = {"why": str(unavailable)}
                logger.warning("containers not removed, the next start will", extra=extra)
            self._engine.close()
        self._calls.close()

    async def _try(self) -> None:
        nothing = self._work_dir / "nothing"
        nothing.mkdir(exist_ok=True)
        processes = await self._processes(replace(TRIAL, code=nothing))
        processes.kill()
        await processes.gone()

    async def _processes(self, function: FunctionSpec) -> SupervisedProcesses:
        """Those of a new container. Raises SandboxUnavailable."""
        try:
            async with self._socket() as (folder, listener):
                return await self._contained(function, folder, listener)
        except (OSError, NotStarted) as error:  # of which TimeoutError is one
            why = str(error) or f"the container did not answer within {START_S:g} s"
            raise SandboxUnavailable(f"{function.name}: {why}") from error

    @asynccontextmanager
    async def _socket(self) -> AsyncIterator[tuple[Path, socket.socket]]:
        """A folder with a socket that one container may connect to; gone when that is done."""
        folder = self._work_dir / "sockets" / uuid.uuid4().hex[:12]
        folder.mkdir()
        try:
            folder.chmod(0o755)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
                _bind(listener, folder)
                (folder / SOCKET).chmod(0o666)  # the folder above lets nobody else in
                listener.listen(1)
                listener.setblocking(False)
                yield folder, listener
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _contained(
        self, function: FunctionSpec, folder: Path, listener: socket.socket
    ) -> SupervisedProcesses:
        """The processes of a new container, which stands."""
        own = f"millstream-{function.name}-{folder.name}"
        processes: SupervisedProcesses | None = None
        stands = False
        try:
            pid = await self._to_its_end(lambda: self._make(own, function, folder))
            async with asyncio.timeout(START_S):
                control = await self._accept(own, listener)
            processes = _processes_of(function.name, control, pid)
            processes.bury = lambda: self._bury(own)
            processes.share = watch(pid)
            (folder / SOCKET).unlink()
            await self._confine(control, function)
            await processes.up()
            await processes.open_exits(function)
            stands = True
        except NotStarted as error:
            said = await self._calls.call(self._there().ended, own)
            raise NotStarted(said or str(error)) from error
        finally:
            if processes is not None and not stands:
                processes.kill()
                await processes.gone()
            elif not stands:
                await self._bury(own)
        return processes

    def _make(self, own: str, function: FunctionSpec, folder: Path) -> int:
        """In a thread: make the container and start it; its first process. Raises SandboxUnavailable."""
        engine = self._there()
        user = self._users.of(function)
        root = self._roots.get(function.name) or root_of(function, self._work_dir, user)
        self._roots[function.name] = root
        image = engine.ensure_image(root.name, root.archive)
        rights = _rights(function)
        made = container(image, root, function, folder, engine.labels, user, rights=rights)
        return engine.start(own, made)

    async def _bury(self, own: str) -> None:
        try:
            await self._calls.call(self._there().remove, own)
        except SandboxUnavailable as unavailable:
            logger.warning("container not removed", extra={"container": own, "why": str(unavailable)})

    def _there(self) -> Engine:
        assert self._engine is not None  # once it is started
        return self._engine

    async def _accept(self, name: str, listener: socket.socket) -> socket.socket:
        """The container's connection. Raises NotStarted: it ended first."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    return (await loop.sock_accept(listener))[0]
            if why := await self._calls.call(self._there().ended, name):
                raise NotStarted(why)

    async def _confine(self, control: socket.socket, function: FunctionSpec) -> None:
        """Tell the first process how to limit itself."""
        listen = [(each.address, each.port) for each in endpoints(function.network)]
        request = {
            "tmp_mb": function.ephemeral_storage_mb,
            "data_mb": data_mb(function),
            "stacks_mb": stacks_mb(function, counted=self._offer is not None and self._offer.memory),
            "listen": [(LOOPBACK, API_PORT), *listen],
            "processes": self._offer is None or not self._offer.processes,
            "user": self._users.of(function) if _rights(function) else None,
        }
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(control, self._filter)
        await loop.sock_sendall(control, json.dumps(request).encode())

    async def _to_its_end(self, work: Callable[[], T]) -> T:
        """What a call of the engine answers. Cancelled, it waits all the same for what it may make."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def told() -> T:
            try:
                return work()
            finally:
                loop.call_soon_threadsafe(ended.set_result, None)

        try:
            return await self._calls.call(told)
        except asyncio.CancelledError:
            await ended
            raise


def _rights(function: FunctionSpec) -> bool:
    """Whether its first process has to put addresses on its loopback interface."""
    return any(not each.address.startswith("127.") for each in endpoints(function.network))


def _bind(listener: socket.socket, folder: Path) -> None:
    """By a descriptor: a socket's path may have no more than 107 bytes."""
    descriptor = os.open(folder, os.O_PATH)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{SOCKET}")
    finally:
        os.close(descriptor)


def _processes_of(function: str, control: socket.socket, pid: int) -> SupervisedProcesses:
    """Those of the process that connected. Raises NotStarted: it is another than the container's first."""
    kept = False
    try:
        credentials = control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        found = struct.unpack("3i", credentials)[0]
        if found != pid:
            wanted = (
                f"wanted process {pid} of the engine, found {found}: it counts processes as another host does"
            )
            raise NotStarted(f"{wanted}; {WAYS_OUT}")
        pidfd = os.pidfd_open(pid)
        kept = True
    finally:
        if not kept:
            control.close()
    return SupervisedProcesses(function, pidfd, control, places())
