"""The filter of a function's system calls: what it may call, and with which arguments.

Nothing that a program may try by accident kills it: it is told EPERM, or that there is no such call.
"""

from __future__ import annotations

import errno
import os

import pyseccomp

from millstream.contract.errors import SandboxUnavailable
from millstream.runtime.sandboxes.bpf import ALLOW, ERRNO, Case, Cases, Is, assemble
from millstream.runtime.sandboxes.system_calls import ALLOWED, DENIED

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
UNKNOWN = -1
"""libseccomp's answer for a name that it never heard of; one that an architecture lacks is further below."""

YES, NO, ABSENT = Case(ALLOW), Case(ERRNO | errno.EPERM), Case(ERRNO | errno.ENOSYS)
NO_FAMILY, NO_PROTOCOL = Case(ERRNO | errno.EAFNOSUPPORT), Case(ERRNO | errno.EPROTONOSUPPORT)

CLONE_NAMESPACES = 0x7E020000  # all but CLONE_NEWTIME, which clone(2) cannot ask for
SUPERVISOR = 1  # its process id in an environment
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
F_SETSIG = 10
SET_USER_OR_GROUP_ID = 0o6000
O_CREAT, O_TMPFILE = 0o100, 0o20000000
PRIO_PROCESS, PRIO_GROUP, IOPRIO_PROCESS = 0, 1, 1
UNIX, INET, INET6, NETLINK = 1, 2, 10, 16
STREAM, DATAGRAM, TYPE_MASK = 1, 2, 0xF
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
SOL_SOCKET, BUFFER_SIZES = 1, (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF, and those by force
AS_IT_IS, ASKED = 0, 0xFFFFFFFF  # what may be a program's personality, and the question


def _if(case: Case, *conditions: Is) -> Case:
    return Case(case.action, conditions)


def _no_special_mode(argument: int, *also: Is) -> Cases:
    """Refuse modes with which a program runs as its owner: in a shared folder, that is the daemon's user."""
    special = Is(argument, (0,), SET_USER_OR_GROUP_ID, wanted=False)
    return (_if(NO, *also, special), YES)


def _creates(argument: int) -> Is:
    """Without this, the mode is not looked at, and may be anything."""
    return Is(argument, (0,), O_CREAT | O_TMPFILE, wanted=False)


def _not_of_the_supervisor(argument: int = 0) -> Cases:
    """Refuse calls on the supervisor. It is of the function's user, and the kernel asks for no more."""
    return (_if(NO, Is(argument, (SUPERVISOR,))), YES)


SOCKET: Cases = (
    _if(YES, Is(0, (UNIX,))),
    # What the network namespace has, such as names of interfaces. To change it takes a capability.
    _if(YES, Is(0, (NETLINK,)), Is(2, (0,))),
    _if(NO_FAMILY, Is(0, (INET, INET6), wanted=False)),
    _if(YES, Is(1, (STREAM,), TYPE_MASK), Is(2, (0, TCP))),
    _if(YES, Is(1, (DATAGRAM,), TYPE_MASK), Is(2, (0, UDP, ICMP, ICMP6))),
    _if(NO_PROTOCOL, Is(1, (STREAM, DATAGRAM), TYPE_MASK)),
    NO,
)

CHECKED: dict[str, Cases] = {
    "clone": (_if(YES, Is(0, (0,), CLONE_NAMESPACES)), NO),
    "ioctl": (_if(NO, Is(1, (TIOCSTI, TIOCLINUX))), YES),
    # A signal of its choice at any time would wake what is frozen.
    "fcntl": (_if(NO, Is(1, (F_SETSIG,))), YES),
    "personality": (_if(YES, Is(0, (AS_IT_IS, ASKED))), NO),
    "prlimit64": _not_of_the_supervisor(),
    "sched_setaffinity": _not_of_the_supervisor(),
    "sched_setparam": _not_of_the_supervisor(),
    "sched_setscheduler": _not_of_the_supervisor(),
    "sched_setattr": _not_of_the_supervisor(),
    # Those of a user would be the supervisor's, too.
    "setpriority": (_if(NO, Is(0, (PRIO_PROCESS, PRIO_GROUP), wanted=False)), *_not_of_the_supervisor(1)),
    "ioprio_set": (_if(NO, Is(0, (IOPRIO_PROCESS,), wanted=False)), *_not_of_the_supervisor(1)),
    "socket": SOCKET,
    "socketpair": (_if(YES, Is(0, (UNIX,))), NO_FAMILY),
    # Sizes are as they are: what a socket holds counts for no process. Clients fail where they are refused.
    "setsockopt": (_if(Case(ERRNO), Is(1, (SOL_SOCKET,)), Is(2, BUFFER_SIZES)), YES),
    "open": _no_special_mode(2, _creates(1)),
    "openat": _no_special_mode(3, _creates(2)),
    "creat": _no_special_mode(1),
    "chmod": _no_special_mode(1),
    "fchmod": _no_special_mode(1),
    "fchmodat": _no_special_mode(2),
    "mkdir": _no_special_mode(1),
    "mkdirat": _no_special_mode(2),
    "mknod": _no_special_mode(1),
    "mknodat": _no_special_mode(2),
}


def program(machine: str = os.uname().machine) -> bytes:
    """The filter, for prctl(PR_SET_SECCOMP).

    Raises:
        SandboxUnavailable: a rule that matters cannot be made here.
    """
    if machine not in ARCHITECTURES:
        wanted = f"wanted a processor of {' or '.join(ARCHITECTURES)}, found {machine}"
        raise SandboxUnavailable(f"system call filter: {wanted}")
    calls: dict[int, Cases] = {}
    for names, cases in ((DENIED, (NO,)), (ALLOWED, (YES,))):
        for name in names:
            number = pyseccomp.resolve_syscall(getattr(pyseccomp.Arch, machine.upper()), name)
            if number == UNKNOWN and name in CHECKED:
                wanted = f"wanted a libseccomp that knows {name}, found one that does not"
                raise SandboxUnavailable(f"system call filter: {wanted}")
            if number >= 0:
                calls[number] = CHECKED.get(name, cases)
    return assemble(ARCHITECTURES[machine], calls, ABSENT.action, x32=machine == "x86_64")
