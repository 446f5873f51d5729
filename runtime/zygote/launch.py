"""Starts bwrap for a template sandbox: `launch.py JSON`. Runs outside of it, then becomes it.

As root it first gives up root, for host root must never be mapped into a sandbox. An ordinary user
may not be able to reach the interpreter or the code (below /root, say), so what is needed is bound
to a staging tmpfs in a mount namespace of this process alone, while it is still root.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

CLONE_NEWNS = 0x20000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
STAGE = "/tmp"

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Entry point.

    The JSON has `bwrap` (path of the program), `beside` (folders that it needs, its own among them,
    relative to their common parent), `options`, `mounts` (pairs of source and place in the sandbox),
    `command`, and `uid` (to give up root for; null: this is no root).
    """
    wanted = json.loads(sys.argv[1])
    bwrap, mounts = wanted["bwrap"], wanted["mounts"]
    if wanted["uid"] is not None:
        bwrap, mounts = stage(bwrap, wanted["beside"], mounts)
        os.setgroups([])
        os.setresgid(wanted["uid"], wanted["uid"], wanted["uid"])
        os.setresuid(wanted["uid"], wanted["uid"], wanted["uid"])
    arguments = [bwrap, *wanted["options"]]
    for source, place in mounts:
        arguments += ["--ro-bind", source, place]
    # Last: the places of the mounts are made on the root, which only then becomes read-only.
    os.execve(bwrap, [*arguments, "--remount-ro", "/", "--", *wanted["command"]], {})


def stage(bwrap: str, beside: list[str], mounts: list[list[str]]) -> tuple[str, list[list[str]]]:
    """Bind bwrap and every source to places that any user can reach; the new bwrap and mounts."""
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    # Opened before the staging tmpfs hides what is below it.
    sources = [os.open(source, os.O_PATH) for source, _ in mounts]
    site = [(os.path.basename(folder), os.open(folder, os.O_PATH)) for folder in beside]
    os.umask(0o022)
    mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, b"mode=755")
    os.mkdir(f"{STAGE}/site")
    for name, descriptor in site:
        bind(descriptor, f"{STAGE}/site/{name}")
    staged = []
    for number, (descriptor, (_, place)) in enumerate(zip(sources, mounts, strict=True)):
        bind(descriptor, f"{STAGE}/{number}")
        staged.append([f"{STAGE}/{number}", place])
    if beside:
        bwrap = f"{STAGE}/site/{os.path.relpath(bwrap, os.path.dirname(beside[0]))}"
    return bwrap, staged


def bind(descriptor: int, place: str) -> None:
    """Bind what a descriptor is open on to a new place, and close it."""
    source = f"/proc/self/fd/{descriptor}"
    if os.path.isdir(source):
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
    mount(source, place, None, MS_BIND | MS_REC, None)
    os.close(descriptor)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: bytes | None) -> None:
    """mount(2)."""
    names = [None if name is None else name.encode() for name in (source, target, kind)]
    check(libc.mount(*names, ctypes.c_ulong(flags), data), f"mount {target}")


def check(answer: int, what: str) -> None:
    """Raise what errno says."""
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
