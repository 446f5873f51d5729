"""The first process of an execution environment: starts, stops and ends all others. Standard library only.

It holds no code of the function. What it is told comes as JSON on a SOCK_SEQPACKET socket, each with
the descriptors that it names (frames are one or two):

    daemon → here   {"op": "ahead"}                              fork what the first of the others will start
                    {"op": "python", "id": n}                    [frames, output]  fork our bootstrap
                    {"op": "exec", "id": n, "command": [...],
                     "environment": {...}, "directory": "/..."}  [output]          run a program
                    {"op": "snapshot", "id": n}                  [frames, output]  as "python", but it forks
                    {"op": "restore", "id": n}                   [frames]          what is then started
                    {"op": "signal", "id": n, "number": n}       to a process that was started
                    {"op": "socket", "id": n}                    make a TCP socket in this network
                    {"op": "stop"}, {"op": "continue"}           freeze or thaw every process but this one
                    {"op": "end", "keep": bool}                  kill all but this one, and the snapshot
    here → daemon   {"restless": true}                           it did not stay frozen, and is ended
                    {"started": n}                               [pidfd]
                    {"exited": n, "status": n}                   exit status; below 0: by that signal
                    {"failed": n, "why": "..."}                  it could not be started
                    {"socket": n}                                [socket] or none: there is no room for it
                    {"ended": true}                              none is left; answers "end"

As the first process of its pid namespace it takes all others with it when it ends, and the signals that
it sends to -1 reach every process of the namespace, whatever group or session it has moved to.
"""

from __future__ import annotations

import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import time
from typing import Any

from . import ahead, child, snapshot, stillness

MESSAGE_BYTES = 1 << 16
LOOK_MS = 5
"""How often is looked for what must end, where not all of it is this process's to bury."""

KEEP_S = 0.3
"""The time for which a snapshot is kept while what must end starts others faster than they are found."""

SENDS, SEND_AGAIN_S = 20, 0.01


class Supervisor:
    """Serves one control socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ids: dict[int, int] = {}  # by process id
        self._ending = self._keep = False
        self._keep_until = 0.0  # monotonic
        self._snapshot: snapshot.Snapshot | None = None
        self._ahead: ahead.Ahead | None = None
        self._stillness = stillness.Stillness()
        self._poll = select.poll()
        self._wake, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        # Of the first process, signals from inside reach handlers alone: it has no other.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Return once the daemon has closed its end; the namespace's processes end with this one."""
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        while True:
            wait_ms = LOOK_MS if self._keep else self._stillness.wait_ms()
            ready = {descriptor for descriptor, _ in self._poll.poll(wait_ms)}
            if self._stillness.due and not self._still():
                return
            if self._wake in ready or self._keep:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._reap()
            if self._snapshot is not None and self._snapshot.socket.fileno() in ready:
                self._restored(self._snapshot)
            if self._control.fileno() in ready:
                message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE_BYTES, 3)
                if not message:
                    return
                try:
                    self._do(json.loads(message), descriptors)
                finally:
                    for descriptor in descriptors:
                        os.close(descriptor)

    def _do(self, request: dict[str, Any], descriptors: list[int]) -> None:
        match request["op"]:
            case "ahead":
                with contextlib.suppress(OSError):  # no room: one is forked when it is needed, or that fails
                    self._ahead = ahead.Ahead()
            case "python" | "exec":
                self._start(request, descriptors)
            case "snapshot":
                self._start_snapshot(request, descriptors)
            case "restore":
                self._restore(request["id"], descriptors)
            case "signal":
                for pid, number in self._ids.items():
                    if number == request["id"]:
                        snapshot.send(pid, request["number"])
            case "socket":
                self._make_socket(request["id"])
            case "stop":
                snapshot.send(-1, signal.SIGSTOP)
                self._stillness.begin()
            case "continue":
                self._stillness.end()
                snapshot.send(-1, signal.SIGCONT)
            case "end":
                self._stillness.end()
                self._ending = True
                self._keep = request["keep"] and self._snapshot is not None
                self._keep_until = time.monotonic() + KEEP_S
                # What is stopped starts no others while it is looked for.
                snapshot.send(-1, signal.SIGSTOP if self._keep else signal.SIGKILL)
                self._reap()

    def _still(self) -> bool:
        """Look for what moves although it was stopped. False: it does not stay so."""
        states, used = stillness.look()
        snapshot.send(-1, signal.SIGSTOP)
        if self._stillness.judge(states, used):
            return True
        self._say({"restless": True})
        return False

    def _start_snapshot(self, request: dict[str, Any], descriptors: list[int]) -> None:
        if self._snapshot is not None:  # one that is of no use any more
            snapshot.send(self._snapshot.pid, signal.SIGKILL)
            self._forget_snapshot()
        made = snapshot.Snapshot()
        pid = self._start(request, [*descriptors[:-1], made.theirs.fileno(), descriptors[-1]])
        made.theirs.close()
        if pid is None:
            made.close()
            return
        made.pid, self._snapshot = pid, made
        self._poll.register(made.socket, select.POLLIN)

    def _restore(self, number: int, descriptors: list[int]) -> None:
        why = "the snapshot is gone"
        try:
            if self._snapshot is not None:
                self._snapshot.ask(number, descriptors)
                return
        except OSError as error:
            why = os.strerror(error.errno or 0)
        self._say({"failed": number, "why": why})

    def _restored(self, made: snapshot.Snapshot) -> None:
        """A process that was forked by the snapshot tells of itself."""
        try:
            answer = made.answer()
        except (EOFError, OSError):
            self._forget_snapshot()
            return
        if answer is None:
            return
        number, pid = answer
        try:
            if pid <= 1 or pid in self._ids:
                raise ProcessLookupError
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._say({"failed": number, "why": "the snapshot did not fork"})
            return
        self._ids[pid] = number
        self._say({"started": number}, pidfd)
        os.close(pidfd)

    def _forget_snapshot(self) -> None:
        made, self._snapshot = self._snapshot, None
        if made is not None:
            self._poll.unregister(made.socket)
            made.close()
            if made.asked is not None:
                self._say({"failed": made.asked, "why": "the snapshot is gone"})

    def _start(self, request: dict[str, Any], descriptors: list[int]) -> int | None:
        try:
            pid = self._tell_ahead(request, descriptors) or os.fork()
        except OSError as error:
            self._say({"failed": request["id"], "why": os.strerror(error.errno or 0)})
            return None
        if pid == 0:
            child.start(request, descriptors)
        self._ids[pid] = request["id"]
        pidfd = os.pidfd_open(pid)
        self._say({"started": request["id"]}, pidfd)
        os.close(pidfd)
        return pid

    def _tell_ahead(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """The process that was forked ahead, which becomes what is asked for. 0: there is none of use."""
        if self._ahead is None or request["op"] == "exec":
            return 0
        told, self._ahead = self._ahead, None
        return told.pid if told.tell(request, descriptors) else 0

    def _make_socket(self, number: int) -> None:
        """For the daemon to connect: it stays in the network that it was made in."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
                self._say({"socket": number}, made.fileno())
        except OSError:
            self._say({"socket": number})

    def _reap(self) -> None:
        """Tell of those that ended; what others left behind is this process's to bury, too."""
        left = self._bury()
        if self._keep and (self._snapshot is None or time.monotonic() > self._keep_until):
            self._keep = False  # it was killed, too, or must be
            snapshot.send(-1, signal.SIGKILL)
        elif self._keep and self._snapshot is not None:
            snapshot.send(-1, signal.SIGSTOP)  # once more: a timer may have continued some of it
            left = snapshot.kill_others(self._snapshot.pid)
        if self._ending and not left:
            self._ending = self._keep = False
            self._say({"ended": True})

    def _bury(self) -> bool:
        """False if no child is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            number = self._ids.pop(pid, None)
            if self._snapshot is not None and pid == self._snapshot.pid:
                self._forget_snapshot()
            if number is not None:
                self._say({"exited": number, "status": os.waitstatus_to_exitcode(status)})

    def _say(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        send(self._control, json.dumps(message).encode(), [] if descriptor is None else [descriptor])


def send(control: socket.socket, message: bytes, descriptors: list[int]) -> None:
    """Tell the daemon. Where descriptors stay refused, it is told without: it makes do, or says so.

    Those in flight are counted for the whole user of the host, and so is what other processes send.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    for _ in range(SENDS):
        try:
            control.sendmsg([message], rights)
        except (BrokenPipeError, ConnectionResetError):  # the daemon is gone: so are we
            return
        except OSError:  # too many in flight, or no memory for them
            time.sleep(SEND_AGAIN_S)
        else:
            return
    with contextlib.suppress(OSError):
        control.sendmsg([message])


def run(control: socket.socket, up: list[int]) -> None:
    """Say that the isolation stands, with the descriptors in `up`, and serve. Does not return."""
    child.libc.prctl(child.PR_SET_DUMPABLE, 0, 0, 0, 0)  # no process of the function may look into this one
    gc.freeze()
    send(control, b'{"up": true}', up)
    for descriptor in up:
        os.close(descriptor)
    Supervisor(control).serve()
    os._exit(0)
