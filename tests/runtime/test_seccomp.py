"""The filter of system calls decides as its tables say, whatever the arguments' high halves hold."""

from __future__ import annotations

import errno
import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.contract.errors import SandboxUnavailable

if not sys.platform.startswith("linux"):
    pytest.skip("system calls are filtered on Linux alone", allow_module_level=True)

import pyseccomp

from millstream.runtime.sandboxes import seccomp
from millstream.runtime.sandboxes.bpf import (
    ALLOW,
    AND,
    ERRNO,
    IF_AT_LEAST,
    IF_EQUAL,
    JUMP,
    KILL_PROCESS,
    LOAD,
)
from millstream.runtime.sandboxes.system_calls import ALLOWED, DENIED

MACHINE = "x86_64"
OURS = seccomp.ARCHITECTURES[MACHINE]
HALF = 1 << 32
words = st.integers(0, HALF - 1)


def decided(number: int, *arguments: int, architecture: int = OURS) -> int:
    """Run the filter by hand, as the kernel does. Source: Linux, "Seccomp BPF"."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("=HBBI", seccomp.program(MACHINE)))
    place = accumulator = 0
    while True:
        code, then, other, value = instructions[place]
        place += 1
        match code:
            case code if code == LOAD:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case code if code == AND:
                accumulator &= value
            case code if code == JUMP:
                place += value
            case code if code == IF_EQUAL:
                place += then if accumulator == value else other
            case code if code == IF_AT_LEAST:
                place += then if accumulator >= value else other
            case _:
                return int(value)


def called(name: str, *arguments: int) -> str:
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name)
    found = decided(number, *arguments)
    return "allowed" if found == ALLOW else errno.errorcode.get(found - ERRNO, f"answers {found - ERRNO}")


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("clone3", (), "ENOSYS"), ("openat2", (), "ENOSYS"), ("fchmodat2", (), "ENOSYS"),
        ("io_setup", (), "ENOSYS"), ("mq_open", (), "ENOSYS"),
        ("io_uring_setup", (), "EPERM"), ("bpf", (), "EPERM"), ("unshare", (), "EPERM"),
        ("read", (), "allowed"),
        ("clone", (0x01200011,), "allowed"), ("clone", (0x10000011,), "EPERM"),
        ("clone", (0x20000,), "EPERM"),
        ("clone", ((1 << 40) | 0x40000000,), "EPERM"),
        ("prlimit64", (0,), "allowed"), ("prlimit64", (1,), "EPERM"), ("prlimit64", (HALF + 1,), "EPERM"),
        ("sched_setaffinity", (0,), "allowed"), ("sched_setaffinity", (HALF + 1,), "EPERM"),
        ("setpriority", (0, 0), "allowed"), ("setpriority", (0, 1), "EPERM"),
        ("setpriority", (2, 0), "EPERM"),
        ("ioprio_set", (1, 0), "allowed"), ("ioprio_set", (1, 1), "EPERM"), ("ioprio_set", (3, 0), "EPERM"),
        ("ioctl", (0, 0x5413), "allowed"), ("ioctl", (0, 0x5412), "EPERM"),
        ("ioctl", (0, HALF + 0x541C), "EPERM"),
        ("fcntl", (3, 2), "allowed"), ("fcntl", (3, 10), "EPERM"), ("fcntl", (3, HALF + 10), "EPERM"),
        ("personality", (0xFFFFFFFF,), "allowed"), ("personality", (0x40000,), "EPERM"),
        ("socket", (1, 1, 0), "allowed"), ("socket", (2, 0o2000001, 6), "allowed"),
        ("socket", (10, 0o2004002, 17), "allowed"), ("socket", (2, 2, 1), "allowed"),
        ("socket", (16, 3, 0), "allowed"), ("socket", (16, 3, 12), "EAFNOSUPPORT"),
        ("socket", (HALF + 17, 3, 0), "EAFNOSUPPORT"), ("socket", (40, 1, 0), "EAFNOSUPPORT"),
        ("socket", (HALF - 1, 1, 0), "EAFNOSUPPORT"), ("socket", (2, 1, 262), "EPROTONOSUPPORT"),
        ("socket", (2, 2, 136), "EPROTONOSUPPORT"), ("socket", (2, 3, 1), "EPERM"),
        ("socket", (10, 5, 132), "EPERM"),
        ("socketpair", (1, 1, 0), "allowed"), ("socketpair", (16, 3, 0), "EAFNOSUPPORT"),
        ("setsockopt", (3, 1, 8), "answers 0"), ("setsockopt", (3, HALF + 1, HALF + 7), "answers 0"),
        ("setsockopt", (3, 6, 8), "allowed"), ("setsockopt", (3, 1, 2), "allowed"),
        ("chmod", (0, 0o755), "allowed"), ("chmod", (0, 0o4755), "EPERM"),
        ("fchmodat", (3, 0, 0o2755), "EPERM"),
        ("open", (0, 0, 0o6000), "allowed"), ("open", (0, 0o101, 0o6000), "EPERM"),
        ("openat", (3, 0, 0o20200002, 0o4700), "EPERM"), ("openat", (3, 0, 0o100, 0o600), "allowed"),
        ("creat", (0, 0o4755), "EPERM"), ("mknodat", (3, 0, 0o102755), "EPERM"),
        ("mkdir", (0, 0o777), "allowed"),
    ],
)  # fmt: skip
def test_a_call_is_answered_as_the_tables_say(name: str, arguments: tuple[int, ...], wanted: str) -> None:
    assert called(name, *arguments) == wanted


@given(st.sampled_from(sorted(seccomp.CHECKED)), st.tuples(words, words, words, words), words)
def test_high_halves_that_the_kernel_drops_change_nothing(name: str, low: tuple[int, ...], high: int) -> None:
    assert called(name, *low) == called(name, *(each | high << 32 for each in low))


@given(st.integers(0, 1 << 12), st.tuples(words, words, words))
def test_nothing_is_allowed_that_is_not_in_the_list(number: int, arguments: tuple[int, ...]) -> None:
    listed = {pyseccomp.resolve_syscall(pyseccomp.Arch.X86_64, name) for name in ALLOWED}
    assert number in listed or decided(number, *arguments) != ALLOW


@pytest.mark.parametrize(("number", "architecture"), [(20, 0x40000003), (0x40000000 + 39, OURS), (0, 0)])
def test_calls_of_another_architecture_kill(number: int, architecture: int) -> None:
    assert decided(number, architecture=architecture) == KILL_PROCESS


def test_no_call_is_both_allowed_and_denied() -> None:
    assert not {*ALLOWED} & {*DENIED}
    assert {*seccomp.CHECKED} <= {*ALLOWED}


def test_a_processor_that_no_rule_is_for_is_said_in_one_line() -> None:
    with pytest.raises(SandboxUnavailable, match="found riscv64"):
        seccomp.program("riscv64")
