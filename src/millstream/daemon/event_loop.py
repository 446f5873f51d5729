"""The daemon's event loop: it goes on where the kernel has no watch of epoll left for its user.

Those are counted by user (fs.epoll.max_user_watches), and functions of an ordinary user's daemon are it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import selectors
from collections.abc import Mapping
from typing import Any

logger = logging.getLogger(__name__)

Key = selectors.SelectorKey


class EnduringSelector(selectors.BaseSelector):
    """epoll; from its first refusal on poll(2), which takes nothing of the kernel, but time for each one."""

    def __init__(self) -> None:
        self._inner: selectors.BaseSelector = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> Key:
        try:
            return self._inner.register(fileobj, events, data)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self._change():
                raise
        return self._inner.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> Key:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> Key:
        return self._inner.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[Key, int]]:
        return self._inner.select(timeout)

    def close(self) -> None:
        self._inner.close()

    def get_map(self) -> Mapping[Any, Key]:
        return self._inner.get_map()

    def _change(self) -> bool:
        """Go on by poll. False: it is already so."""
        poll = getattr(selectors, "PollSelector", None)
        if poll is None or isinstance(self._inner, poll):
            return False
        keys = list(self._inner.get_map().values())
        self._inner.close()
        self._inner = poll()
        for key in keys:
            with contextlib.suppress(ValueError):  # it was closed before it was taken off
                self._inner.register(key.fileobj, key.events, key.data)
        logger.warning("no watch of epoll is left for this user, the daemon goes on by poll")
        return True


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop for `asyncio.Runner`. No function is root, so what root has nobody takes."""
    if os.geteuid() == 0:
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(EnduringSelector())
