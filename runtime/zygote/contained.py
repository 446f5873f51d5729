"""The first process of a container: limits itself, then supervises. Its arguments are SOCKET, MODE and NAME.

SOCKET is a SOCK_SEQPACKET socket of the daemon's; it removes the file before anything of the function
starts. MODE and NAME are those of `zygote.py`. The daemon says first the seccomp filter, and then JSON:
`tmp_mb`, `data_mb`, `stacks_mb`, `listen` as for `zygote.py`, `processes` (true: the engine does not limit
their number) and `user` (null, or whom to become). The container has given it all namespaces and mounts, and
no capability but for `user`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

from . import child, image, supervisor, zygote


def main() -> None:
    """Entry point."""
    zygote.limit_stack()
    zygote.allow_descriptors()
    zygote.show(sys.argv[3])
    if sys.argv[2] != "bare":
        from ..bootstrap import bootstrap

        bootstrap.make_ready()
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.connect(sys.argv[1])
    seccomp_filter = control.recv(1 << 18)
    request = json.loads(control.recv(1 << 16))
    listeners = confine(request, seccomp_filter)
    supervisor.run(control, listeners)


def confine(request: dict[str, Any], seccomp_filter: bytes) -> list[int]:
    """Addresses, limits, a user without rights, seccomp. Sockets that listen, as asked for."""
    if request["user"] is not None:
        with socket.socket() as probe:
            zygote.add_addresses(probe, sorted({address for address, _ in request["listen"]}))
    listeners = zygote.listen(request)
    wanted = zygote.limits(request)
    if not request["processes"]:
        del wanted["RLIMIT_NPROC"]  # counts every process of the user, those of other containers, too
    zygote.set_limits(wanted)
    child.stacks_mb = request["stacks_mb"]
    image.check(image.libc.prctl(zygote.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if request["user"] is not None:
        zygote.drop_bounds()
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    zygote.drop_capabilities()
    zygote.filter_system_calls(seccomp_filter)
    return listeners
