"""Hooks around a snapshot, for functions that do not bring AWS's package of this name: its four names.

Source: AWS, "Lambda SnapStart runtime hooks", Python; the package snapshot-restore-py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeAlias, TypeVar

__all__ = ["register_after_restore", "register_before_snapshot"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Hook: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_before: list[Hook] = []
_after: list[Hook] = []


def register_before_snapshot(
    func: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Callable[Arguments, Result]:
    """Call it, with these arguments, before the snapshot; the last one registered is called first."""
    _before.append((func, args, kwargs))
    return func


def register_after_restore(
    func: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Callable[Arguments, Result]:
    """Call it, with these arguments, after each restore; the first one registered is called first."""
    _after.append((func, args, kwargs))
    return func


def get_before_snapshot() -> list[Hook]:
    """For the runtime: what is called before the snapshot, in the order of registration."""
    return _before


def get_after_restore() -> list[Hook]:
    """For the runtime: what is called after a restore, in its order."""
    return _after
