"""Forks execution environments out of a preloaded interpreter. Runs inside the template sandbox.

Its arguments are FD, a SOCK_SEQPACKET socket to the daemon; MODE: python, boto3 (which is then loaded, too)
or bare, for programs alone, where nothing is; and NAME, the function's. The first message is the seccomp
filter. Then each request is JSON (`number`, `tmp_mb`, `data_mb`, `stacks_mb` for those of threads, `uid`,
`listen`) with the socket that controls the environment; the answer is the number, in text, with a pidfd of
its first process, which is `supervisor.py`. For each address and port in `listen`, a socket that listens
there, on the loopback interface of the environment's own network, comes with its first message.

The order of the system calls matters: each namespace is made while the capabilities for it are
still there, the user namespace last but for the limits (RLIMIT_NPROC counts per user namespace).
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from typing import Any

from . import child, image, supervisor

PRELOADED = (
    "asyncio", "base64", "collections", "concurrent.futures", "copy", "csv", "dataclasses", "datetime",
    "decimal", "email", "enum", "functools", "hashlib", "hmac", "http.client", "inspect", "itertools",
    "json", "logging", "math", "operator", "pathlib", "re", "ssl", "statistics", "string", "subprocess",
    "tempfile", "threading", "traceback", "typing", "unittest.mock", "urllib.parse", "urllib.request",
    "uuid", "zlib",
)  # fmt: skip

BOTO3 = ("boto3", "botocore.client", "botocore.endpoint", "botocore.parsers", "botocore.signers")

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
NO_PROGRAMS = MS_NOSUID | MS_NODEV | MS_NOEXEC
PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 15, 22, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
SECCOMP_MODE_FILTER = 2
SIOCSIFFLAGS, SIOCSIFADDR, IFF_UP_RUNNING = 0x8914, 0x8916, 0x41
BACKLOG = 64
CAPSET = {"x86_64": 126, "aarch64": 91}
CAPABILITY_VERSION_3 = 0x20080522
LAST_CAPABILITY = 63
FILES = 1 << 16
"""Descriptors of the zygote and of supervisors; see child.py for those of a function."""

FILES_PER_MB = 128
OOM_SCORE = "400"  # where memory ends, an environment goes before its template, and before the host's own
STACK_BYTES = 8 * 1024 * 1024
"""Of the main thread. Other threads have the smaller one that the launcher sets."""

BUFFERS = dict.fromkeys(("tcp_rmem", "tcp_wmem"), "4096 16384 65536")
"""Bytes that a TCP socket may hold in the kernel: least, at first, most. They are charged to no process, but
counted together for the whole host; a connection to oneself needs no more."""

QUOTAS = {"user/max_inotify_instances": "16", "user/max_inotify_watches": "8192"}
"""Below /proc/sys, of the environment's own user namespace; the host's user has 128 instances by default."""

IMAGE, ROOT = "/run/image", "/run/root"
"""Where the template shows the files of a container image, and where its environments' root is made."""

libc = ctypes.CDLL(None, use_errno=True)


def serve(control: socket.socket) -> None:
    """Answer requests until the daemon closes the socket."""
    seccomp_filter = control.recv(1 << 18)
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control.send(b"u")
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 1)
        if not message:
            return
        request = json.loads(message)
        image.check(libc.unshare(CLONE_NEWPID), "unshare pid")
        pid = os.fork()
        if pid == 0:
            control.close()
            os.close(own_pids)
            _become_environment(request, descriptors, seccomp_filter)
        image.check(libc.setns(own_pids, CLONE_NEWPID), "setns pid")
        pidfd = os.pidfd_open(pid)
        control.sendmsg(
            [b"%d" % request["number"]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pidfd]))]
        )
        for descriptor in (pidfd, *descriptors):
            os.close(descriptor)


def _become_environment(request: dict[str, Any], descriptors: list[int], seccomp_filter: bytes) -> None:
    """The child: isolate, then supervise. Does not return."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control = socket.socket(fileno=os.dup2(descriptors[0], 3, inheritable=False))
        os.closerange(4, 1024)
        listeners = isolate(request, seccomp_filter)
        supervisor.run(control, listeners)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def isolate(request: dict[str, Any], seccomp_filter: bytes) -> list[int]:
    """Namespaces, mounts, network, limits, no capabilities, seccomp. Sockets that listen, as asked for."""
    image.check(libc.unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET), "unshare")
    image.mount(None, "/", None, MS_REC | MS_PRIVATE, None)
    image.mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, tmp_options(request["tmp_mb"]))
    # The template's terminals would be shared by all environments of the function.
    image.mount("tmpfs", "/dev/pts", "tmpfs", MS_RDONLY | NO_PROGRAMS, "size=4k")
    image.mount("proc", "/proc", "proc", NO_PROGRAMS, None)
    image.write("/proc/self/oom_score_adj", OOM_SCORE)
    for name, value in BUFFERS.items():
        image.write(f"/proc/sys/net/ipv4/{name}", value)
    own, system = (os.open(folder, os.O_PATH | os.O_CLOEXEC) for folder in ("/proc/self", "/proc/sys"))
    for folder in ("/proc/1", "/proc/sys"):  # the kernel takes the function for their owner
        image.mount(folder, folder, None, MS_BIND, None)
        image.mount(None, folder, None, MS_REMOUNT | MS_BIND | MS_RDONLY | NO_PROGRAMS, None)
    if os.path.isdir(ROOT):
        image.enter(ROOT, tmp_options(request["tmp_mb"]))
    with socket.socket() as probe:
        fcntl.ioctl(probe, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP_RUNNING))
        add_addresses(probe, sorted({address for address, _ in request["listen"]}))
    listeners = listen(request)
    os.setsid()
    _own_user(request["uid"], own)
    for name, value in QUOTAS.items():
        if os.access(name, os.F_OK, dir_fd=system):
            image.write(name, value, system)
    os.close(own)
    os.close(system)
    set_limits(limits(request))
    child.stacks_mb = request["stacks_mb"]
    drop_bounds()
    drop_capabilities()
    image.check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "pdeathsig")
    image.check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    filter_system_calls(seccomp_filter)
    return listeners


def listen(request: dict[str, Any]) -> list[int]:
    """Sockets at the addresses and ports in `listen`."""
    return [
        socket.create_server((address, port), backlog=BACKLOG).detach() for address, port in request["listen"]
    ]


def add_addresses(probe: socket.socket, addresses: list[str]) -> None:
    """Put addresses that the loopback interface does not have on it."""
    others = [address for address in addresses if not address.startswith("127.")]
    for number, address in enumerate(others):
        wanted = (b"lo:%d" % number, socket.AF_INET, 0, socket.inet_aton(address))
        fcntl.ioctl(probe, SIOCSIFADDR, struct.pack("16sHH4s8x", *wanted))


def tmp_options(size_mb: int) -> str:
    """Options of /tmp: its size, and so many files that their inodes stay small beside it."""
    return f"size={size_mb}m,nr_inodes={size_mb * FILES_PER_MB},mode=1777"


def limits(request: dict[str, Any]) -> dict[str, int]:
    """Resource limits of one environment. Source: AWS, "Lambda quotas"; memory counts from here on."""
    return {
        "RLIMIT_DATA": _data_bytes() + (request["data_mb"] + request["stacks_mb"]) * 1024 * 1024,
        "RLIMIT_FSIZE": request["tmp_mb"] * 1024 * 1024,
        "RLIMIT_NPROC": 1024,
        "RLIMIT_MSGQUEUE": 0,  # their bytes are counted for the whole user of the host, and Lambda has none
        "RLIMIT_SIGPENDING": 1024,  # of the host's user, too
        "RLIMIT_CORE": 1,  # 0 would still start a host's program that takes core dumps by a pipe: core(5)
    }


def set_limits(wanted: dict[str, int]) -> None:
    """For good. Above a hard limit is none: it may be lower on this host."""
    for name, limit in wanted.items():
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(number, (least, least))


def allow_descriptors() -> None:
    """Allow as many as the host does, for our own processes alone."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _data_bytes() -> int:
    """What RLIMIT_DATA counts of this process already: the zygote's own heap."""
    for line in image.read("/proc/self/status").splitlines():
        if line.startswith(b"VmData:"):
            return int(line.split()[1]) * 1024
    return 0


def _own_user(uid: int, own: int) -> None:
    """A user namespace of the environment's own, with an ordinary user in it. `own` is /proc/self."""
    image.check(libc.unshare(CLONE_NEWUSER), "unshare user")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} 0 1"), ("gid_map", f"{uid} 0 1")):
        image.write(name, text, own)


def drop_bounds() -> None:
    """No program that is executed brings a capability."""
    for capability in range(LAST_CAPABILITY + 1):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # those that the kernel does not have: EINVAL


def drop_capabilities() -> None:
    """Give up each one that there is."""
    image.check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient")
    header = struct.pack("II", CAPABILITY_VERSION_3, 0)
    image.check(libc.syscall(CAPSET[os.uname().machine], header, b"\0" * 24), "capset")


def filter_system_calls(program: bytes) -> None:
    """Install a seccomp filter, for this process and all that come from it."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    buffer = ctypes.create_string_buffer(program, len(program))
    wanted = Program(len(program) // 8, ctypes.addressof(buffer))
    image.check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(wanted), 0, 0), "seccomp")


def limit_stack() -> None:
    """Of the main thread, which is not yet that deep."""
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (min(STACK_BYTES, hard) if hard > 0 else STACK_BYTES, hard))


def show(name: str) -> None:
    """Have whoever looks at the host's processes see it; what is forked shows it, too."""
    libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def main() -> None:
    """Entry point: preload, then serve."""
    limit_stack()
    allow_descriptors()
    show(sys.argv[3])
    mode = sys.argv[2]
    if mode != "bare":
        from ..bootstrap import bootstrap

        bootstrap.make_ready()
        for name in PRELOADED + (BOTO3 if mode == "boto3" else ()):
            __import__(name)
    elif os.path.isdir(IMAGE):
        image.build(IMAGE, ROOT)
    time.tzset()
    gc.collect()
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))
