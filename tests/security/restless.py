"""A function that has itself continued while it is frozen, or has threads and children that work on."""

from __future__ import annotations

import asyncio
import time

from tests.runtime.conftest import Runtime

FROZEN_S = 1.5
SETTLED_S = 0.2

TIMER = """
import ctypes, os, signal, struct, threading, time
libc = ctypes.CDLL(None)
timers, woken = [], []
def wake(*_):
    woken.append(time.monotonic())
    arm()
def arm():
    # A stop takes back what continues it and has not yet; so there are many, and each wakes all.
    for number, timer in enumerate(timers):
        every_ns = (10 + number) * 1_000_000
        assert libc.timer_settime(timer, 0, struct.pack("qqqq", 0, every_ns, 0, every_ns), None) == 0
def handle(e, c):
    if e == "evade":
        signal.signal(signal.SIGCONT, wake)
        for _ in range(50):
            timer = ctypes.c_void_p()
            event = ctypes.create_string_buffer(struct.pack("Qii", 0, signal.SIGCONT, 0) + bytes(48))
            assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
            timers.append(timer)
        arm()
    if e == "work":
        threading.Thread(target=spin, daemon=True).start()
        if os.fork() == 0:
            spin()
    return [os.getpid(), threading.active_count(), woken[-1000:]]
def spin():
    while True:
        pass
"""


async def woke_while_frozen(it: Runtime) -> int:
    """Count how often the evading function ran in the second that it is frozen for."""
    async with asyncio.timeout(60.0):
        while it.pool.state()[0].frozen != 1:
            await asyncio.sleep(0.02)
    began = time.monotonic() + SETTLED_S
    await asyncio.sleep(FROZEN_S)
    ended = time.monotonic()
    _, _, woken = await it.answer()
    assert woken, "it never woke at all, so it did not try"
    return sum(began < at < ended for at in woken)
