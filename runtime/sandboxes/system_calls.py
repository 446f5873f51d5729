"""The system calls that a function may make, by what they are for.

The measure is Docker's default profile; what differs from it is said. What is not here answers ENOSYS, as on
an older kernel, so that libraries do without it; what is dangerous and no accident answers EPERM.
"""

from __future__ import annotations

FILES = (
    "open", "openat", "creat", "close", "close_range", "read", "write", "pread64", "pwrite64", "readv",
    "writev", "preadv", "pwritev", "preadv2", "pwritev2", "lseek", "stat", "fstat", "lstat", "newfstatat",
    "statx", "statfs", "fstatfs", "access", "faccessat", "faccessat2", "readlink", "readlinkat",
    "getdents", "getdents64", "getcwd", "chdir", "fchdir", "mkdir", "mkdirat", "rmdir", "unlink",
    "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "mknod",
    "mknodat", "chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat", "umask",
    "truncate", "ftruncate", "fallocate", "utime", "utimes", "futimesat", "utimensat", "fsync",
    "fdatasync", "sync", "syncfs", "sync_file_range", "fadvise64", "readahead", "copy_file_range",
    "sendfile", "splice", "tee", "flock", "fcntl", "ioctl", "dup", "dup2", "dup3", "pipe", "pipe2",
    "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr", "setxattr",
    "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr", "inotify_init",
    "inotify_init1", "inotify_add_watch", "inotify_rm_watch",
)  # fmt: skip
"""Not openat2 and fchmodat2, whose modes no filter sees in time; nor names by handle."""

WAITING = (
    "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait",
    "epoll_pwait", "epoll_pwait2", "eventfd", "eventfd2", "signalfd", "signalfd4", "timerfd_create",
    "timerfd_settime", "timerfd_gettime",
)  # fmt: skip
"""Not asynchronous I/O (io_setup): its room is one for the whole host. Nor io_uring, which no filter sees."""

MEMORY = (
    "brk", "mmap", "munmap", "mremap", "mprotect", "msync", "madvise", "mincore", "mlock", "mlock2",
    "munlock", "mlockall", "munlockall", "remap_file_pages", "memfd_create", "membarrier", "pkey_alloc",
    "pkey_free", "pkey_mprotect", "mseal", "map_shadow_stack", "get_mempolicy", "shmget", "shmat",
    "shmdt", "shmctl",
)  # fmt: skip
"""Not memfd_secret and process_madvise."""

PROCESSES = (
    "fork", "vfork", "clone", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "getpid",
    "getppid", "gettid", "getpgid", "setpgid", "getpgrp", "getsid", "setsid", "set_tid_address",
    "pidfd_open", "pidfd_send_signal", "prctl", "arch_prctl", "seccomp", "landlock_create_ruleset",
    "landlock_add_rule", "landlock_restrict_self", "personality", "getrlimit", "setrlimit", "prlimit64",
    "getrusage", "getpriority", "setpriority", "ioprio_get", "ioprio_set", "sched_yield",
    "sched_getaffinity", "sched_setaffinity", "sched_getparam", "sched_setparam", "sched_getscheduler",
    "sched_setscheduler", "sched_getattr", "sched_setattr", "sched_get_priority_max",
    "sched_get_priority_min", "sched_rr_get_interval", "getcpu", "futex", "futex_waitv", "futex_wait",
    "futex_wake", "futex_requeue", "set_robust_list", "get_robust_list", "rseq", "semget", "semop",
    "semtimedop", "semctl", "msgget", "msgsnd", "msgrcv", "msgctl",
)  # fmt: skip
"""Not clone3, whose flags no filter sees: libraries fall back to clone. Nor POSIX message queues."""

SIGNALS = (
    "rt_sigaction", "rt_sigprocmask", "rt_sigpending", "rt_sigtimedwait", "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "rt_sigsuspend", "rt_sigreturn", "sigaltstack", "kill", "tkill", "tgkill",
    "pause", "alarm", "getitimer", "setitimer", "timer_create", "timer_settime", "timer_gettime",
    "timer_getoverrun", "timer_delete", "restart_syscall",
)  # fmt: skip

USERS = (
    "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "setuid", "setgid",
    "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups", "capget",
    "capset",
)  # fmt: skip

NETWORK = (
    "socket", "socketpair", "bind", "listen", "accept", "accept4", "connect", "getsockname",
    "getpeername", "getsockopt", "setsockopt", "sendto", "recvfrom", "sendmsg", "recvmsg", "sendmmsg",
    "recvmmsg", "shutdown",
)  # fmt: skip

TIME = ("time", "gettimeofday", "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "times")

HOST = ("uname", "sysinfo", "getrandom")

ALLOWED = (*FILES, *WAITING, *MEMORY, *PROCESSES, *SIGNALS, *USERS, *NETWORK, *TIME, *HOST)

DENIED = (
    # other processes and the kernel's own tools
    "ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "perf_event_open", "bpf",
    "userfaultfd", "syslog", "acct", "quotactl", "lookup_dcookie", "vhangup", "uselib", "modify_ldt",
    "io_uring_setup", "io_uring_enter", "io_uring_register",
    # keyrings are not namespaced
    "add_key", "keyctl", "request_key",
    # mounts and namespaces
    "mount", "umount2", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick",
    "mount_setattr", "pivot_root", "chroot", "unshare", "setns", "name_to_handle_at", "open_by_handle_at",
    "fanotify_init", "fanotify_mark",
    # the host's kernel, clock, name and swap
    "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "swapon", "swapoff",
    "reboot", "iopl", "ioperm", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex",
    "sethostname", "setdomainname", "nfsservctl",
    # memory of others by node
    "migrate_pages", "move_pages", "mbind", "set_mempolicy", "vmsplice",
)  # fmt: skip
