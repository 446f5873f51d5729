"""The system calls that a function may not make, as a BPF program."""

from __future__ import annotations

import errno
import tempfile

import pyseccomp

DENIED = (
    # other processes and the kernel's own tools
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "perf_event_open", "bpf",
    "userfaultfd", "syslog", "acct", "quotactl", "lookup_dcookie", "vhangup", "personality", "uselib",
    "modify_ldt",
    # io_uring reaches past this filter
    "io_uring_setup", "io_uring_enter", "io_uring_register",
    # keyrings are not namespaced
    "add_key", "keyctl", "request_key",
    # mounts and namespaces
    "mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "pivot_root", "chroot", "unshare", "setns", "name_to_handle_at", "open_by_handle_at",
    "fanotify_init",
    # the host's kernel, clock, name and swap
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "swapon", "swapoff",
    "reboot", "iopl", "ioperm", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex",
    "sethostname", "setdomainname", "nfsservctl",
    # memory of others by node
    "migrate_pages", "move_pages", "mbind", "set_mempolicy", "vmsplice",
)  # fmt: skip

CLONE_NEWUSER = 0x10000000
CLONE_NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, CLONE_NEWUSER, 0x20000000, 0x40000000)
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
SUPERVISOR = 1  # its process id in an environment
DENIED_FAMILIES = (3, 4, 5, 6, 7, 8, 9)
LAST_FAMILY = 10
"""Left are unix, inet and inet6 (1, 2, 10); netlink, packet, vsock and the like only reach the kernel."""


def program() -> bytes:
    """The filter, for prctl(PR_SET_SECCOMP). What it denies answers EPERM; nothing kills."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    denied = pyseccomp.ERRNO(errno.EPERM)
    for name in DENIED:
        try:
            rules.add_rule(denied, name)
        except (RuntimeError, ValueError, OSError):
            continue  # this architecture does not have it
    # clone3 takes its flags by pointer, where no filter sees them; libc then falls back to clone.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    for flag in CLONE_NAMESPACES:
        rules.add_rule(denied, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    for request in (TIOCSTI, TIOCLINUX):
        rules.add_rule(denied, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, 0xFFFFFFFF, request))
    # The supervisor is of the same user, and a limit needs no more than that.
    rules.add_rule(denied, "prlimit64", pyseccomp.Arg(0, pyseccomp.EQ, SUPERVISOR))
    unsupported = pyseccomp.ERRNO(errno.EAFNOSUPPORT)
    for family in DENIED_FAMILIES:
        rules.add_rule(unsupported, "socket", pyseccomp.Arg(0, pyseccomp.EQ, family))
    rules.add_rule(unsupported, "socket", pyseccomp.Arg(0, pyseccomp.GT, LAST_FAMILY))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
