"""Puts an environment together out of what a driver made."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.contract.ports import LogSink
from millstream.runtime.api.link import ApiLink, ApiLinks
from millstream.runtime.api.server import Server
from millstream.runtime.environment import Environment
from millstream.runtime.extensions import Extensions
from millstream.runtime.framed import FramedLinks
from millstream.runtime.link import Links
from millstream.runtime.output import Output
from millstream.runtime.platform import PlatformLog
from millstream.runtime.processes import NotStarted, Processes
from millstream.runtime.restoring import RestoredEnvironment
from millstream.runtime.snapshots import SnapshotLinks
from millstream.runtime.telemetry import Tap, Telemetry
from millstream.runtime.variables import (
    bootstrap_config,
    extension_programs,
    external_extensions,
    initialization_type,
    program_of,
)

STREAM_DIGITS = 8
"""Of the 32 hex digits of a log stream, those that each line of the log begins with."""


async def assemble(
    function: FunctionSpec, log: LogSink, make_processes: Callable[[], Awaitable[Processes]]
) -> Environment:
    """A new environment, its first runtime started.

    Raises:
        SandboxUnavailable: its processes cannot be made now.
    """
    stream = uuid.uuid4().hex
    short = stream[:STREAM_DIGITS]
    telemetry = Telemetry(function.logging.log_format)
    platform = PlatformLog(function, log, short, initialization_type(function), telemetry)
    outputs: list[Output] = []  # of the runtime; and of extensions, where there are any
    made = False
    try:
        outputs.append(Output(Tap(log, telemetry, "function"), short, platform.logs_dropped))
        if external_extensions(function):
            outputs.append(Output(Tap(log, telemetry, "extension"), short, platform.logs_dropped))
        processes = await make_processes()
        made = True
    except OSError as error:
        raise SandboxUnavailable(f"{function.name}: {error.strerror}") from error
    finally:
        if not made:
            for each in outputs:
                each.close()

    output, *theirs = outputs
    server = Server(function.name)
    config = bootstrap_config(function, stream, processes.places)
    links: Links = FramedLinks(processes, config, output.write_end)
    if function.snap_start:
        links = SnapshotLinks(function.name, processes, config, output.write_end)
    if (program := program_of(function, stream, processes.places)) is not None:
        links = ApiLinks(
            lambda: ApiLink(
                processes, program, server, function.arn, output.write_end, snapshots=function.snap_start
            )
        )
    telemetry.make_socket = processes.make_socket
    programs = extension_programs(function, stream, processes.places)
    extensions = Extensions(function, processes, server, programs, theirs, platform, telemetry)
    kind = RestoredEnvironment if function.snap_start else Environment
    environment = kind(function, processes, links, output, platform, extensions)
    opened = False
    try:
        if processes.listener is not None:
            await server.start(processes.listener)
            processes.listener.close()  # the server has its own; a daemon has only so many descriptors
        await environment.open()
        opened = True
    except NotStarted as error:
        raise SandboxUnavailable(f"{function.name}: {error}") from error
    except OSError as error:
        raise SandboxUnavailable(f"{function.name}: its Runtime API: {error.strerror}") from error
    finally:
        if not opened:
            await environment.aclose()
    return environment
