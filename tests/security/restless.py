"""A function that has itself continued while it is frozen, or has threads and children that work on."""

from __future__ import annotations

TIMER = """
import ctypes, os, signal, struct, threading, time
libc = ctypes.CDLL(None)
def handle(e, c):
    if e == "evade":
        signal.signal(signal.SIGCONT, lambda *_: None)
        timer = ctypes.c_void_p()
        event = ctypes.create_string_buffer(struct.pack("Qii", 0, signal.SIGCONT, 0) + bytes(48))
        assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
        every = struct.pack("qqqq", 0, 20_000_000, 0, 20_000_000)
        assert libc.timer_settime(timer, 0, every, None) == 0
    if e == "work":
        threading.Thread(target=spin, daemon=True).start()
        if os.fork() == 0:
            spin()
    return [os.getpid(), threading.active_count()]
def spin():
    while True:
        pass
"""
