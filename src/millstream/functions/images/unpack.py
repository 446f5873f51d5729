"""Unpacks the layers of an image into one folder, verified, bounded, and without following its links."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from millstream.functions.images.files import Files, reading_image, refused
from millstream.functions.images.manifest import Layer
from millstream.functions.images.tree import Tree, naming

IMAGE_BYTES = 10 * 1000**3
"""Largest image, all of its layers uncompressed. Source: AWS, "Lambda quotas"."""

WHITEOUT, OPAQUE, METADATA = ".wh.", ".wh..wh..opq", ".wh..wh."
"""Source: OCI image specification, "Image Layer Filesystem Changeset", whiteouts."""

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 20


def unpack(files: Files, layers: Sequence[Layer], root: Path, temporary: Path) -> None:
    """The file system of an image at `root`, made of its layers in order. Owners and setuid are not kept.

    Raises:
        InvalidConfiguration: a layer is not what its digest says, is damaged, too large, or has an entry
            that must not be unpacked.
        OSError: `root` or `temporary` cannot be written.
    """
    root.mkdir()
    root.chmod(0o755)
    tree = Tree(str(root))
    room = unpacked = IMAGE_BYTES
    for layer in layers:
        tar = temporary / "layer.tar"
        with tar.open("w+b") as out:
            with files.open(layer.name) as stream:
                for chunk in _tar(stream, layer):
                    room -= len(chunk)
                    if room < 0:
                        raise refused("at most 10 GB uncompressed", f"more, at {layer.name}")
                    out.write(chunk)
            out.seek(0)
            unpacked = _apply(out, layer, tree, unpacked)
        tar.unlink()


def _tar(stream: IO[bytes], layer: Layer) -> Iterator[bytes]:
    """A layer's tar, uncompressed. Nothing of it is looked at before its digest is."""
    digest = hashlib.sha256()
    for chunk in _chunks(stream, layer):
        digest.update(chunk)
    if f"sha256:{digest.hexdigest()}" != layer.digest:
        raise refused(f"content of {layer.digest}", f"other content in {layer.name}")
    with reading_image(Path(layer.name)):
        stream.seek(0)
        start = stream.read(len(ZSTD))
        stream.seek(0)
        source = _uncompressed(stream, start)
    yield from _chunks(source, layer)


def _uncompressed(stream: IO[bytes], start: bytes) -> IO[bytes]:
    """By what is there, for media types are not always right."""
    if start.startswith(GZIP):
        return cast(IO[bytes], gzip.GzipFile(fileobj=stream))
    if not start.startswith(ZSTD):
        return stream
    try:
        zstd = importlib.import_module("compression.zstd")
    except ModuleNotFoundError:  # before Python 3.14
        raise refused("layers that are tar or tar+gzip (with zstd: Python 3.14)", "one with zstd") from None
    return cast(IO[bytes], zstd.ZstdFile(stream))


def _apply(tar: IO[bytes], layer: Layer, tree: Tree, room: int) -> int:
    """The room that is left. Whiteouts go first: they are about the layers below, wherever they come."""
    where = Path(layer.name)
    with reading_image(where):
        archive = tarfile.open(fileobj=tar, mode="r:")  # noqa: SIM115  closed below
    with archive:
        with reading_image(where):
            members = archive.getmembers()
        rest = []
        for member in members:
            parts = _parts(member.name, layer)
            with naming(member.name):
                if not _whiteout(parts, tree):
                    rest.append((parts, member))
        for parts, member in rest:
            room -= member.size  # of a sparse file, more than the tar has of it
            if room < 0:
                raise refused("at most 10 GB uncompressed", f"more, at {member.name}")
            if parts:
                with naming(member.name):
                    _put(parts, member, archive, layer, tree)
    return room


def _whiteout(parts: list[str], tree: Tree) -> bool:
    """True: the entry tells what is gone, and is no file itself."""
    if not parts or not parts[-1].startswith(WHITEOUT):
        return False
    if parts[-1] == OPAQUE:
        tree.empty(parts[:-1])
    elif not parts[-1].startswith(METADATA):
        hidden = parts[-1].removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise refused("names that stay inside the image", repr("/".join(parts)))
        tree.remove([*parts[:-1], hidden])
    return True


def _put(
    parts: list[str], member: tarfile.TarInfo, archive: tarfile.TarFile, layer: Layer, tree: Tree
) -> None:
    if member.isdir():
        tree.folder(parts)
    elif member.issym():
        if not member.linkname or "\0" in member.linkname:
            raise refused("links that lead somewhere", repr(member.name))
        tree.link(parts, member.linkname)
    elif member.islnk():
        target = _parts(member.linkname, layer)
        if not target:
            raise refused("hard links to files of the image", f"{member.name} to its root")
        tree.hard_link(parts, target)
    elif member.isreg():
        with reading_image(Path(layer.name)):
            content = archive.extractfile(member)
        assert content is not None
        tree.file(parts, _chunks(content, layer), bool(member.mode & 0o111))
    else:
        raise refused("files, folders and links only", f"{member.name!r} of another kind in {layer.name}")


def _chunks(content: IO[bytes], layer: Layer) -> Iterator[bytes]:
    """The rest of it; what cannot be read is the image's fault, unlike what cannot be written."""
    while True:
        with reading_image(Path(layer.name)):
            chunk = content.read(_CHUNK)
        if not chunk:
            return
        yield chunk


def _parts(name: str, layer: Layer) -> list[str]:
    """A name below the root. Empty: the root itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise refused("names that stay inside the image", f"{name[:80]!r} in {layer.name}")
    return parts
