"""What the container of an environment is: its root, mounts, limits. Values alone; `engine.py` makes it.

The root is an image of folders and links only, made here and never pulled: all else is mounted, and from
the same places as in the bwrap driver. The image of a function that is a container image has copies of its
/etc beside, for the engine puts files of its own there.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millstream.contract.errors import SandboxUnavailable
from millstream.contract.functions import FunctionSpec
from millstream.runtime.sandboxes.cgroups import OVERHEAD_BYTES, PROCESSES
from millstream.runtime.sandboxes.controllers import MB
from millstream.runtime.sandboxes.layout import (
    RUNTIME,
    VARIABLES,
    Layout,
    first_files,
    hosts_file,
    layout,
    mode,
    shared,
    start,
)
from millstream.runtime.zygote.zygote import BUFFERS, OOM_SCORE, tmp_options

SOCKETS = "/.millstream/socket"
SOCKET = "control"
HIDDEN = "/.millstream"
"""In an image's root: the interpreter of the first process, with the libraries that it needs."""

ENGINES = ("proc", "sys", "dev", "tmp", "mnt", HIDDEN.lstrip("/"))
"""Of an image's root, these are the engine's, or ours."""

ENGINES_ETC = ("hosts", "hostname", "resolv.conf", "mtab")
STACK_BYTES, MOST_STACK_BYTES = 2 * 1024 * 1024, 8 * 1024 * 1024
LOG_SIZE = "64k"
CAPABILITIES = ["NET_ADMIN", "SETUID", "SETGID", "SETPCAP"]
"""Of a first process that has to put addresses on its loopback interface, until it has."""

MASKED = [
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/proc/interrupts", "/sys",
]  # fmt: skip
"""Docker's own list, and all of /sys, which tells of the host's hardware and cgroups."""


@dataclass(frozen=True, slots=True)
class Root:
    """The root of a function's environments: the image's archive with its name, mounts, first command."""

    name: str
    archive: bytes
    mounts: list[tuple[str, str]]
    writable: list[tuple[str, str]]
    command: list[str]
    variables: dict[str, str]


def root_of(function: FunctionSpec, work_dir: Path, user: int) -> Root:
    """The root of a function's environments. Raises SandboxUnavailable, OSError."""
    if function.image is not None:
        return _image_root(function, function.image.root, work_dir)
    inside = layout(function, work_dir, user)
    command = [inside.python, "-S", "-s", *_first(RUNTIME, function)]
    return _root(inside, _archive(inside), command)


def container(
    image: str,
    root: Root,
    function: FunctionSpec,
    sockets: Path,
    labels: dict[str, str],
    user: int,
    *,
    rights: bool,
) -> dict[str, Any]:
    """The configuration of a container, as the engine's API has it.

    `rights`: the first process may put addresses on its loopback interface. Source: Docker, "Docker Engine
    API", ContainerCreate.
    """
    return {
        "Image": image,
        "Hostname": "millstream",
        "User": "0:0" if rights else f"{user}:{user}",
        "WorkingDir": "/",
        "StopSignal": "SIGKILL",  # an engine that ends waits long for those that hear of no other
        "Entrypoint": root.command,
        "Cmd": [],
        "Env": [f"{name}={value}" for name, value in root.variables.items()],
        "Labels": labels,
        "HostConfig": _host_config(root, function, sockets, rights),
    }


def _host_config(root: Root, function: FunctionSpec, sockets: Path, rights: bool) -> dict[str, Any]:
    tmp_mb = function.ephemeral_storage_mb
    memory_bytes = (function.memory_size_mb + tmp_mb) * MB + OVERHEAD_BYTES
    places = [(source, place, True) for source, place in (*root.mounts, (str(sockets), SOCKETS))]
    places += [(source, place, False) for source, place in root.writable]
    return {
        "NetworkMode": "none",
        "Sysctls": {f"net.ipv4.{name}": sizes for name, sizes in BUFFERS.items()},
        "IpcMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "CapAdd": CAPABILITIES if rights else [],
        "SecurityOpt": ["no-new-privileges"],
        "MaskedPaths": MASKED,
        "PidsLimit": PROCESSES,
        "Memory": memory_bytes,
        "MemorySwap": memory_bytes,
        "OomScoreAdj": int(OOM_SCORE),
        "Ulimits": [  # descriptors are the engine's default; what the first process starts has Lambda's
            {"Name": "stack", "Soft": STACK_BYTES, "Hard": MOST_STACK_BYTES},
        ],
        "Tmpfs": {"/tmp": f"exec,nosuid,nodev,{tmp_options(tmp_mb)}"},
        "Mounts": [
            {"Type": "bind", "Source": source, "Target": place, "ReadOnly": read_only,
             "BindOptions": {"Propagation": "rprivate"}}
            for source, place, read_only in places
        ],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": LOG_SIZE, "max-file": "1"}},
        "Init": False,
    }  # fmt: skip


def _first(runtime: str, function: FunctionSpec) -> list[str]:
    """Arguments of the interpreter, whose runtime is in that folder, for the first process."""
    return [*start(runtime, "zygote.contained"), f"{SOCKETS}/{SOCKET}", mode(function), function.name]


def _root(inside: Layout, archive: bytes, command: list[str]) -> Root:
    name = hashlib.sha256(archive).hexdigest()[:16]
    return Root(name, archive, inside.mounts, inside.writable, command, inside.variables)


def _image_root(function: FunctionSpec, files: Path, work_dir: Path) -> Root:
    loader = _loader()
    prefix = os.path.realpath(sys.base_prefix)
    mounts = [
        (prefix, f"{HIDDEN}/lang"),
        (str(loader.parent), f"{HIDDEN}/lib"),
        *first_files(f"{HIDDEN}/runtime"),
        (str(hosts_file(function, work_dir)), "/etc/hosts"),
    ]
    inside = Layout(
        mounts,
        "",
        {**VARIABLES, "PYTHONHOME": f"{HIDDEN}/lang"},
        ["/mnt", "/tmp", "/etc"],
        [],
        shared(function),
    )
    for entry in sorted(os.scandir(files), key=lambda entry: entry.name):
        if entry.name in (*ENGINES, "etc"):
            continue
        if entry.is_symlink():
            inside.symlinks.append((os.readlink(entry.path), f"/{entry.name}"))
        else:
            mounts.append((entry.path, f"/{entry.name}"))
    python = f"{HIDDEN}/lang/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    libraries = f"{HIDDEN}/lib:{HIDDEN}/lang/lib"
    command = [f"{HIDDEN}/lib/{loader.name}", "--library-path", libraries, python, "-S", "-s"]
    command += _first(f"{HIDDEN}/runtime", function)
    etc = files / "etc"
    return _root(inside, _archive(inside, etc if etc.is_dir() and not etc.is_symlink() else None), command)


def _archive(inside: Layout, etc: Path | None = None) -> bytes:
    """The one layer of the image. The same every time, for its name is made from it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for folder in inside.folders:
            entry = tarfile.TarInfo(folder.lstrip("/"))
            # The engine gives what it mounts on /tmp the mode of the folder below, whatever it is told.
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "/tmp" else 0o755
            archive.addfile(entry)
        for target, place in inside.symlinks:
            entry = tarfile.TarInfo(place.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for name in sorted(os.listdir(etc)) if etc is not None else []:
            if etc is not None and name not in ENGINES_ETC:
                archive.add(etc / name, f"etc/{name}", filter=_plain)
    return out.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """As root's, of no time. None: functions could not read it, and we perhaps neither."""
    if not entry.issym() and not entry.mode & 0o004:
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry


def _loader() -> Path:
    """The dynamic loader that this interpreter names. Raises SandboxUnavailable: it names none.

    Source: System V ABI, "Program Header", PT_INTERP.
    """
    with open(os.path.realpath(sys.executable), "rb") as file:
        head = file.read(4096)
    if head[:5] == b"\x7fELF\x02":
        (offset,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        for start in range(offset, min(offset + size * count, len(head) - 48), size):
            kind, _, place = struct.unpack_from("<IIQ", head, start)
            (length,) = struct.unpack_from("<Q", head, start + 32)
            if kind == 3:
                return Path(os.path.realpath(head[place : place + length - 1]).decode())
    raise SandboxUnavailable(
        "isolation docker: wanted an interpreter with shared libraries, for images, found another"
    )
