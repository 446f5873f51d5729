"""The root of a container image's environments: its folders, bound read-only, and what every root needs.

Built once in the template, so that an image without /proc or /tmp, or with nothing but one program, will
do; each environment then puts its own /proc, /dev and /tmp there and changes its root to it.
"""

from __future__ import annotations

import ctypes
import os

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC = 1, 2, 4, 8, 32, 4096, 16384
MNT_DETACH = 2
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
READ_BYTES = 65536
OURS = ("proc", "dev", "tmp", "mnt")
HOSTS = "/etc/hosts"

libc = ctypes.CDLL(None, use_errno=True)


def build(image: str, root: str) -> None:
    """Make `root`, an empty folder, the root of an image's environments."""
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    show(image, root, (*OURS, "etc"))
    etc, ours = os.path.join(image, "etc"), os.path.join(root, "etc")
    os.mkdir(ours)
    if os.path.isdir(etc) and not os.path.islink(etc):
        show(etc, ours, ("hosts",))
    bind(HOSTS, os.path.join(ours, "hosts"))
    for name in OURS:
        os.mkdir(os.path.join(root, name))
    for name in os.listdir("/mnt"):
        bind(os.path.join("/mnt", name), os.path.join(root, "mnt", name))
    mount(None, root, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV, None)


def enter(root: str, tmp: str) -> None:
    """Make it the root of this process. `tmp` are the mount options of /tmp."""
    mount("/dev", os.path.join(root, "dev"), None, MS_BIND | MS_REC, None)
    mount("/proc", os.path.join(root, "proc"), None, MS_BIND | MS_REC, None)
    mount("tmpfs", os.path.join(root, "tmp"), "tmpfs", MS_NOSUID | MS_NODEV, tmp)
    os.chdir(root)
    # Not chroot: who is in one may not make the user namespace that comes next.
    check(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


def show(folder: str, place: str, without: tuple[str, ...]) -> None:
    """Show what is in a folder in another one."""
    for entry in os.scandir(folder):
        if entry.name in without:
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), os.path.join(place, entry.name))
        else:
            bind(entry.path, os.path.join(place, entry.name))


def bind(source: str, place: str) -> None:
    """Show a folder or a file at a new place, as it is."""
    if os.path.isdir(source):
        os.mkdir(place)
    else:
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
    mount(source, place, None, MS_BIND | MS_REC, None)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    """mount(2)."""

    def text(value: str | None) -> bytes | None:
        return None if value is None else value.encode()

    answer = libc.mount(text(source), text(target), text(kind), ctypes.c_ulong(flags), text(data))
    check(answer, f"mount {target}")


def read(file: str) -> bytes:
    """A small file of the kernel's, in the manner of `write`."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, READ_BYTES)
    finally:
        os.close(descriptor)


def write(file: str, text: str, folder: int | None = None) -> None:
    """Write to a file of the kernel's: `open` would load a codec, and copy pages of each environment."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def check(answer: int, what: str) -> None:
    """Raise what errno says."""
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
