"""A function that has itself continued while it is frozen, or has threads and children that work on."""

from __future__ import annotations

TIMER = """
import ctypes, os, signal, struct, threading, time
libc = ctypes.CDLL(None)
timers = []
def arm():
    # A stop takes back what continues it and has not yet; so there are many, and each wakes all.
    for number, timer in enumerate(timers):
        every_ns = (10 + number) * 1_000_000
        assert libc.timer_settime(timer, 0, struct.pack("qqqq", 0, every_ns, 0, every_ns), None) == 0
def handle(e, c):
    if e == "evade":
        signal.signal(signal.SIGCONT, lambda *_: arm())
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
    return [os.getpid(), threading.active_count()]
def spin():
    while True:
        pass
"""
