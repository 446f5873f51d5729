"""Starts bwrap for a template sandbox, or a plain process: `launch.py FD [ARGUMENTS]`.

FD is open on JSON that says what is wanted. Runs outside of it, then becomes it.

As root it first gives up root, for host root must never be mapped into a sandbox. An ordinary user
may not be able to reach the interpreter or the code (below /root, say), so what is needed is bound
to a staging tmpfs in a mount namespace of this process alone, while it is still root.

An ordinary user with subordinate ids is root of a user namespace first, where these are mapped, and
gives that up in the same way.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import sys
from typing import Any

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT = 1, 2, 4, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
STAGE = "/tmp"
OPEN_STAGE = b"mode=1777,size=64m,nr_inodes=8192"
"""What is staged for a plain process may be written beside: a program may name /tmp, whatever TMPDIR says."""

INOTIFY = {
    "/proc/sys/fs/inotify/max_user_instances": "/proc/sys/user/max_inotify_instances",
    "/proc/sys/fs/inotify/max_user_watches": "/proc/sys/user/max_inotify_watches",
}
"""Settings of the host, and of a user namespace for whoever reads them within."""

NOT_FOUND, NOT_EXECUTABLE = 127, 126
DESCRIPTORS = 1024
"""Of a plain process; the daemon has more. Source: AWS, "Lambda quotas"."""

THREAD_STACK_BYTES = 2 * 1024 * 1024

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Entry point.

    The JSON has `bwrap` (path of the program), `beside` (folders that it needs, its own among them,
    relative to their common parent), `options`, `mounts` and `writable` (pairs of source and place in
    the sandbox), `command`, `cgroups` (files that take this process in), `maps` (commands that map ids
    into a user namespace that is made; none: it is not), and `uid` (to give up root for; null: this is
    no root). For a plain process, see `process`.
    """
    with open(int(sys.argv[1]), "rb") as file:
        wanted = json.load(file)
    if "process" in wanted:
        process(wanted, sys.argv[2:])
    bwrap, mounts, writable = wanted["bwrap"], wanted["mounts"], wanted["writable"]
    for path in wanted["cgroups"]:
        with open(path, "w", encoding="ascii") as entrance:
            entrance.write("0")
    if wanted["maps"]:
        become_root(wanted["maps"])
    if wanted["uid"] is not None:
        bwrap, staged = stage(bwrap, wanted["beside"], mounts + writable)
        mounts, writable = staged[: len(mounts)], staged[len(mounts) :]
        give_up_root(wanted["uid"])
    limit_stacks()
    arguments = [bwrap, *wanted["options"]]
    for source, place in mounts:
        arguments += ["--ro-bind", source, place]
    for source, place in writable:
        arguments += ["--bind", source, place]
    # Last: the places of the mounts are made on the root, which only then becomes read-only.
    os.execve(bwrap, [*arguments, "--remount-ro", "/", "--", *wanted["command"]], {})


def process(wanted: dict[str, Any], arguments: list[str]) -> None:
    """Give up root, and become a process. Does not return.

    The JSON has `process` (its command, to which the arguments are added), `environment` (its
    variables), `directory` (where it starts), `uid` (null: to stay who this is), `mounts` and `writable`
    (pairs of source and place below the staging tmpfs, which then hides the host's /tmp).
    """
    if wanted["mounts"]:
        stage_at(wanted["mounts"], wanted["writable"])
    if wanted["uid"] is not None:
        give_up_root(wanted["uid"])
    if sys.platform.startswith("linux"):
        check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
        check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    limit_descriptors()
    os.chdir(wanted.get("directory", "/"))
    command = [*wanted["process"], *arguments]
    try:
        os.execvpe(command[0], command, wanted["environment"])
    except OSError as error:
        os.write(2, f"{command[0]}: {os.strerror(error.errno or 0)}\n".encode())
        os._exit(NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE)


def become_root(maps: list[list[str]]) -> None:
    """Be root of a new user namespace, whose ids a child maps, for only who is outside may."""
    pid = os.getpid()
    made, told = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(told)
            if os.read(made, 1):
                status = map_ids(pid, maps)
        finally:
            os._exit(status)
    check(libc.unshare(CLONE_NEWUSER), "unshare user")
    os.write(told, b"m")
    for descriptor in (made, told):
        os.close(descriptor)
    if os.waitpid(child, 0)[1]:
        os._exit(1)  # the program has said why
    limit_inotify()


def map_ids(pid: int, maps: list[list[str]]) -> int:
    """Run the commands, which are told the process. The exit status of the first that fails; 0: none does."""
    for program, *numbers in maps:
        status = os.spawnve(os.P_WAIT, program, [program, str(pid), *numbers], {})
        if status:
            return status
    return 0


def limit_inotify() -> None:
    """The kernel counts these for who made the namespace, too: leave others of that user as much again."""
    for host, own in INOTIFY.items():
        if os.access(own, os.W_OK):  # else the host shows its settings read-only
            with open(host, encoding="ascii") as file:
                most = int(file.read())
            with open(own, "w", encoding="ascii") as file:
                file.write(str(most // 2))


def limit_descriptors() -> None:
    """For good; not above what this process was given."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def give_up_root(uid: int) -> None:
    """Become an ordinary user, for good."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


def stage_at(mounts: list[list[str]], writable: list[list[str]]) -> None:
    """Bind sources to places below the staging tmpfs, those of `writable` not read-only."""
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    sources = [(os.open(source, os.O_PATH), place) for source, place in mounts]
    writables = [(os.open(source, os.O_PATH), place) for source, place in writable]
    os.umask(0o022)
    mount("tmpfs", STAGE, "tmpfs", MS_NOSUID | MS_NODEV, OPEN_STAGE)
    for descriptor, place in sources:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        bind(descriptor, place)
        mount(None, place, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, None)
    for descriptor, place in writables:
        bind(descriptor, place)
        mount(None, place, None, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV, None)


def limit_stacks() -> None:
    """The C library takes the size of threads' stacks from this limit, at the interpreter's start.

    A stack counts towards RLIMIT_DATA as a whole: with the usual 8 MB, fifteen threads fill 128 MB.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    if hard == resource.RLIM_INFINITY or hard >= THREAD_STACK_BYTES:
        resource.setrlimit(resource.RLIMIT_STACK, (THREAD_STACK_BYTES, hard))


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
