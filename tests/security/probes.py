"""Attempts of a few lines. `e` has what `arena.py` knows of the host; `call` and `libc` are at hand.

An attempt that ends with an exception, or with something false, was denied.
"""

from __future__ import annotations

from tests.security.outcomes import (
    DENIED,
    HOST,
    POSSIBLE,
    Probe,
    everywhere,
    has_no_route,
    ptrace_is_restricted,
    walled,
)

FILES = "files and secrets"
PROCESSES = "processes"
NETWORK = "network"
KERNEL = "kernel"

SOMEBODY_ELSES = """
import glob
def found(path):
    try:
        return e["mark"] in open(path).read()
    except OSError:
        return False
"""
"""Also by the roots of other processes, where they may be entered."""

SEARCH = """
wanted = "".join(e["halves"]).encode()
def holds(pid):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            area, rights = line.split()[:2]
            start, end = (int(each, 16) for each in area.split("-"))
            if rights.startswith("rw") and end - start < 1 << 26:
                try:
                    memory.seek(start)
                    if wanted in memory.read(end - start):
                        return True
                except OSError:
                    continue
    return False
def any_holds(pids):
    for pid in pids:
        try:
            if holds(pid):
                return True
        except OSError:
            continue
    return False
"""

PROBES: tuple[Probe, ...] = (
    Probe(
        FILES, "read a file of the daemon's user", walled(DENIED, POSSIBLE),
        "return e['mark'] in open(e['secret']).read()",
    ),
    Probe(FILES, "read /etc/shadow", everywhere(DENIED), "return open('/etc/shadow').read()"),
    Probe(FILES, "see the host's home folders", walled(POSSIBLE), "return os.path.isdir('/home')"),
    Probe(
        FILES, "read the host's /tmp", walled(DENIED, POSSIBLE),
        "return e['mark'] in open(e['in_tmp']).read()",
    ),
    Probe(
        FILES, "read the daemon's environment", everywhere(DENIED),
        "return open(f\"/proc/{e['daemon']}/environ\", 'rb').read()",
    ),
    Probe(
        FILES, "read the daemon's memory", everywhere(DENIED),
        SEARCH + "return any_holds([e['daemon']])",
        ptrace_is_restricted,
    ),
    Probe(
        FILES, "see the daemon's descriptors", everywhere(DENIED),
        "return os.readlink(f\"/proc/{e['daemon']}/fd/0\")",
    ),
    Probe(
        FILES, "read another function's code", walled(DENIED, POSSIBLE),
        SOMEBODY_ELSES
        + "return any(map(found, [e['other_code'], *glob.glob('/proc/*/root/tmp/task/other.py')]))",
    ),
    Probe(
        FILES, "read another function's /tmp", walled(DENIED, POSSIBLE),
        SOMEBODY_ELSES
        + "places = [e['sandboxes'] + '/tmp-*/', '/proc/*/root/tmp/tmp/', '/proc/*/root/tmp/', '/tmp/']\n"
        "return any(found(path) for place in places for path in glob.glob(place + 'mark'))",
    ),
    Probe(
        FILES, "read another function's variables and events", walled(DENIED, POSSIBLE),
        SEARCH
        + "own = {os.getpid(), os.getppid(), e['daemon']}\n"
        "return any_holds({int(pid) for pid in os.listdir('/proc') if pid.isdecimal()} - own)",
        ptrace_is_restricted,
    ),
    Probe(
        FILES, "write to its own code", walled(DENIED, POSSIBLE),
        "return open(os.environ['LAMBDA_TASK_ROOT'] + '/new.txt', 'w').write('x')",
    ),
    Probe(FILES, "write to /usr", everywhere(DENIED), "return open('/usr/lib/new', 'w')"),
    Probe(
        FILES, "name a program for core dumps", everywhere(DENIED),
        "return open('/proc/sys/kernel/core_pattern', 'w')",
    ),
    Probe(
        FILES, "make a device", everywhere(DENIED),
        "return os.mknod(e['temporary'] + '/sda', 0o60666, 0x800) is None",
    ),
    Probe(
        FILES, "make a program that runs as its owner (set-user-id)", walled(POSSIBLE),
        "path = e['temporary'] + '/program'\n"
        "ways = [lambda: os.chmod(path, 0o4755), lambda: os.fchmod(file.fileno(), 0o2755),\n"
        "        lambda: os.open(path + '2', os.O_CREAT, 0o6755), lambda: os.mknod(path + '3', 0o104755),\n"
        "        lambda: call((452, 452), -100, path.encode(), 0o4755, 0)]\n"
        "with open(path, 'w') as file:\n"
        "    return any(done(way) for way in ways)",
    ),
    Probe(
        PROCESSES, "signal the daemon", walled(DENIED, POSSIBLE), "return os.kill(e['daemon'], 28) is None",
    ),
    Probe(
        PROCESSES, "trace the daemon", everywhere(DENIED),
        "return call((101, 117), 0x4206, e['daemon'], 0, 0)", ptrace_is_restricted,
    ),
    Probe(
        PROCESSES, "signal another function's processes", walled(DENIED, POSSIBLE),
        "return os.kill(e['other'], 28) is None",
    ),
    Probe(
        PROCESSES, "limit another function's processes", walled(DENIED, POSSIBLE),
        "return resource.prlimit(e['other'], resource.RLIMIT_CORE)",
    ),
    Probe(
        PROCESSES, "limit its own first process", everywhere(DENIED),
        "return call((302, 261), ctypes.c_ulong((1 << 32) + 1), 7, None, ctypes.create_string_buffer(16))",
    ),
    Probe(
        PROCESSES, "slow its own first process down", everywhere(DENIED),
        "for way in (lambda: os.setpriority(0, 1, 19),\n"
        "            lambda: os.sched_setscheduler(1, 5, os.sched_param(0)),\n"
        "            lambda: os.sched_setaffinity(1, os.sched_getaffinity(0))):\n"
        "    if done(way) and os.getpriority(0, 1) > 0:\n"
        "        return True",
    ),
    Probe(
        PROCESSES, "offer its own first process to the kernel where memory ends", everywhere(DENIED),
        "return open('/proc/1/oom_score_adj', 'w')",
    ),
    Probe(PROCESSES, "become root", everywhere(DENIED), "return os.setuid(0) is None"),
    Probe(
        PROCESSES, "raise its own limits", everywhere(DENIED),
        "return resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096)) is None",
    ),
    Probe(
        NETWORK, "the host's loopback", walled(POSSIBLE),
        "return socket.create_connection(('127.0.0.1', e['port']), 2)",
    ),
    Probe(
        NETWORK, "abstract sockets of the host", walled(POSSIBLE),
        "return socket.socket(socket.AF_UNIX).connect('\\0' + e['abstract']) is None",
    ),
    Probe(
        NETWORK, "addresses off the host", walled(POSSIBLE),
        "return socket.socket(type=socket.SOCK_DGRAM).connect(('203.0.113.1', 9)) is None", has_no_route,
    ),
    Probe(
        NETWORK, "raw sockets", everywhere(DENIED),
        "return socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    ),
    Probe(NETWORK, "packet sockets", everywhere(DENIED), "return socket.socket(17, socket.SOCK_RAW)"),
    Probe(
        NETWORK, "netlink sockets, but to read what its own network has", walled(HOST),
        "return any(opened(16, socket.SOCK_RAW, protocol) for protocol in range(1, 22))",
    ),
    Probe(
        NETWORK, "sockets of other protocols (MPTCP, UDP-Lite, SCTP) and families", walled(HOST),
        "return opened(2, 1, 262) or opened(2, 2, 136) or opened(2, 1, 132) or any(\n"
        "    opened(family, kind, 0)\n"
        "    for family in range(3, 46) if family not in (10, 16) for kind in (1, 2, 5))",
    ),
    Probe(KERNEL, "a new user namespace", walled(HOST), "return libc.unshare(0x10000000) == 0"),
    Probe(
        KERNEL, "mount, in namespaces of its own", walled(HOST),
        "return libc.unshare(0x10020000) == 0 and libc.mount(b'x', b'/mnt', b'tmpfs', 0, None) == 0",
    ),
    Probe(
        KERNEL, "mount, without", everywhere(DENIED),
        "return libc.mount(b'x', b'/mnt', b'tmpfs', 0, None) == 0",
    ),
    Probe(
        KERNEL, "enter the namespaces of another process", everywhere(DENIED),
        "return libc.setns(os.open('/proc/1/ns/net', os.O_RDONLY), 0) == 0",
    ),
    Probe(KERNEL, "another root (chroot)", everywhere(DENIED), "return os.chroot('/') is None"),
    Probe(KERNEL, "io_uring", walled(HOST), "return call((425, 425), 1, ctypes.create_string_buffer(256))"),
    Probe(KERNEL, "asynchronous I/O", walled(HOST), "return call((206, 0), 8, struct.pack('Q', 0))"),
    Probe(
        KERNEL, "a signal of its choice by a descriptor (F_SETSIG)", walled(HOST),
        "import fcntl\nreturn fcntl.fcntl(os.pipe()[0], fcntl.F_SETSIG, signal.SIGCONT) == 0",
    ),
    Probe(
        KERNEL, "settings of the kernel", everywhere(DENIED),
        "return any(done(lambda: open('/proc/sys/' + name, 'w')) for name in\n"
        "           ('kernel/msgmnb', 'kernel/pid_max', 'net/ipv4/tcp_rmem', 'user/max_inotify_instances'))",
    ),
    Probe(KERNEL, "userfaultfd", walled(HOST), "return call((323, 282), 1)"),
    Probe(KERNEL, "keyrings", walled(HOST), "return call((248, 217), b'user', b'millstream', b'x', 1, -2)"),
    Probe(
        KERNEL, "bpf", walled(HOST),
        "return call((321, 280), 0, struct.pack('IIII', 2, 4, 4, 1) + bytes(112), 128)",
    ),
    Probe(
        KERNEL, "perf events", walled(HOST),
        "return call((298, 241), struct.pack('IIQ', 1, 112, 0) + bytes(96), 0, -1, -1, 0)",
    ),
    Probe(KERNEL, "kernel modules", everywhere(DENIED), "return call((175, 105), b'', 0, b'')"),
)  # fmt: skip
