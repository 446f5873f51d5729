"""Settings of Hypothesis for properties whose every example takes long."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

USUAL = 100
"""Examples of a property under Hypothesis' default profile."""

LEAST = 4


def examples(count: int, **more: Any) -> settings:
    """Settings for `count` examples, and for as much fewer as the profile in use has fewer than usual."""
    share = settings.default.max_examples / USUAL if settings.default is not None else 1.0
    return settings(max_examples=max(int(count * min(share, 1.0)), LEAST), deadline=None, **more)
