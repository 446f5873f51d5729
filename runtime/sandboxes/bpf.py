"""Assembles a system call filter: what becomes of a call, by its number and the low halves of its arguments.

libseccomp cannot say "anything but these values" of an argument, which a list of what is allowed needs; and
it compares 64 bits where the kernel takes 32. Source: Linux, "Seccomp BPF", struct seccomp_data.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, AND, RETURN = 0x20, 0x54, 0x06
JUMP, IF_EQUAL, IF_AT_LEAST = 0x05, 0x15, 0x35
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
X32_BIT = 0x40000000
LAST_NUMBER = 1023
"""The newest call has a number below 500."""

WORD = 0xFFFFFFFF
FARTHEST = 255


@dataclass(frozen=True, slots=True)
class Is:
    """The low half of an argument, masked, is one of these values; or, not `wanted`, none of them."""

    argument: int
    values: tuple[int, ...]
    mask: int = WORD
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """An action, and the conditions under which a call meets with it."""

    action: int
    conditions: tuple[Is, ...] = ()


Cases = tuple[Case, ...]
"""The first that applies counts; the last one has no conditions."""


@dataclass(slots=True)
class _Jump:
    """An instruction whose targets are labels; None: the next one."""

    code: int
    value: int
    then: int | None = None
    other: int | None = None


class _Program:
    """Instructions and labels, in order."""

    def __init__(self) -> None:
        self._lines: list[_Jump | int] = []
        self._labels = 0

    def label(self) -> int:
        self._labels += 1
        return self._labels

    def here(self, label: int) -> None:
        self._lines.append(label)

    def do(self, code: int, value: int, then: int | None = None, other: int | None = None) -> None:
        self._lines.append(_Jump(code, value, then, other))

    def assembled(self) -> bytes:
        places: dict[int, int] = {}
        instructions: list[_Jump] = []
        for line in self._lines:
            if isinstance(line, int):
                places[line] = len(instructions)
            else:
                instructions.append(line)
        out = bytearray()
        for place, each in enumerate(instructions):
            then, other = (0 if to is None else places[to] - place - 1 for to in (each.then, each.other))
            if each.code == JUMP:
                out += struct.pack("=HBBI", JUMP, 0, 0, then)
            else:
                assert max(then, other) <= FARTHEST
                out += struct.pack("=HBBI", each.code, then, other, each.value)
        return bytes(out)


def assemble(architecture: int, calls: Mapping[int, Cases], rest: int, *, x32: bool) -> bytes:
    """The filter: `calls` by number, `rest` for all others. Foreign calls kill."""
    program = _Program()
    ours, known = program.label(), program.label()
    program.do(LOAD, ARCHITECTURE_AT)
    program.do(IF_EQUAL, architecture, then=ours)
    program.do(RETURN, KILL_PROCESS)
    program.here(ours)
    program.do(LOAD, NUMBER_AT)
    if x32:
        program.do(IF_AT_LEAST, X32_BIT, other=known)
        program.do(RETURN, KILL_PROCESS)
    program.here(known)
    others = (Case(rest),)
    runs = [
        (next(numbers), cases)
        for cases, numbers in groupby(range(LAST_NUMBER + 2), key=lambda number: calls.get(number, others))
    ]
    _choose(program, runs)
    return program.assembled()


def _choose(program: _Program, runs: Sequence[tuple[int, Cases]]) -> None:
    """A search by halves among runs of numbers, each given by its first one."""
    if len(runs) == 1:
        _judge(program, runs[0][1])
        return
    middle = len(runs) // 2
    upper, lower = program.label(), program.label()
    program.do(IF_AT_LEAST, runs[middle][0], other=lower)
    program.do(JUMP, 0, then=upper)
    program.here(lower)
    _choose(program, runs[:middle])
    program.here(upper)
    _choose(program, runs[middle:])


def _judge(program: _Program, cases: Cases) -> None:
    for case in cases:
        not_this = program.label()
        for condition in case.conditions:
            _test(program, condition, not_this)
        program.do(RETURN, case.action)
        program.here(not_this)


def _test(program: _Program, condition: Is, not_this: int) -> None:
    """Go on behind it if it is true."""
    found, behind = program.label(), program.label()
    program.do(LOAD, ARGUMENTS_AT + 8 * condition.argument)  # the low half comes first: little-endian
    if condition.mask != WORD:
        program.do(AND, condition.mask)
    for value in condition.values[:-1]:
        program.do(IF_EQUAL, value, then=found)
    program.do(IF_EQUAL, condition.values[-1], then=found, other=not_this if condition.wanted else behind)
    program.here(found)
    if not condition.wanted:
        program.do(JUMP, 0, then=not_this)
    program.here(behind)
