"""Attempts from inside a function of the bwrap driver."""

from __future__ import annotations

from typing import Any

from tests.runtime.conftest import MakeRuntime

TRY = """
import os
import shutil

def attempt(action):
    try:
        return {"done": repr(action())}
    except BaseException as error:
        return {"error": type(error).__name__}

"""


async def tried(make: MakeRuntime, code: str, event: Any = None, **spec: Any) -> Any:
    async with make("bwrap", TRY + code, **{"timeout_s": 10.0, **spec}) as it:
        return await it.answer(event)
