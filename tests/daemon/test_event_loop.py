"""The loop of an ordinary user's daemon outlives the end of epoll watches, which its functions can take."""

from __future__ import annotations

import asyncio
import errno
import os
import selectors
import socket

import pytest

from millstream.daemon.event_loop import EnduringSelector, new_event_loop

pytestmark = pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="epoll is Linux's")


class Short(selectors.EpollSelector):
    """Stand for a kernel that has three watches left for this user."""

    def register(self, fileobj: object, events: int, data: object = None) -> selectors.SelectorKey:
        if len(self.get_map()) >= 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().register(fileobj, events, data)  # type: ignore[arg-type]


async def echoes(count: int) -> list[bytes]:
    """Send over so many connections at once, and return what comes back."""
    loop = asyncio.get_running_loop()
    pairs = [socket.socketpair() for _ in range(count)]
    for ours, theirs in pairs:
        ours.setblocking(False)
        theirs.setblocking(False)
    async with asyncio.timeout(20.0), asyncio.TaskGroup() as group:
        said = [group.create_task(loop.sock_recv(theirs, 16)) for _, theirs in pairs]
        await asyncio.sleep(0)
        for number, (ours, _) in enumerate(pairs):
            await loop.sock_sendall(ours, b"%d" % number)
    for pair in pairs:
        for each in pair:
            each.close()
    return [each.result() for each in said]


def test_a_loop_goes_on_where_no_watch_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(selectors, "DefaultSelector", Short)
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(EnduringSelector())) as runner:
        assert runner.run(echoes(50)) == [b"%d" % number for number in range(50)]
        assert runner.run(echoes(5)) == [b"%d" % number for number in range(5)]
    assert [record.getMessage() for record in caplog.records] == [
        "no watch of epoll is left for this user, the daemon goes on by poll"
    ]


def test_other_faults_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    it = EnduringSelector()
    with pytest.raises(ValueError, match="Invalid file descriptor"):
        it.register(-1, selectors.EVENT_READ)
    it.close()


def test_the_daemons_loop_works() -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(echoes(3)) == [b"0", b"1", b"2"]


def test_an_ordinary_users_daemon_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    loop = new_event_loop()
    assert isinstance(loop, asyncio.SelectorEventLoop)
    assert isinstance(loop._selector, EnduringSelector)  # type: ignore[attr-defined]
    loop.close()
