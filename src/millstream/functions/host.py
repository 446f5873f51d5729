"""What this host is."""

from __future__ import annotations

import platform

_ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def host_architecture() -> str:
    """The host's instruction set, in AWS's word; its own, where AWS has none."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)
