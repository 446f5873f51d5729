"""Unpacks the layers of an image into one folder, verified, bounded, and without following its links."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from millstream.functions.confined.frames import LARGEST
from millstream.functions.confined.region import Region
from millstream.functions.confinement import Child
from millstream.functions.images.files import BOUNDS, Files, Member, members, reading_image, refused
from millstream.functions.images.manifest import Layer
from millstream.functions.images.tree import Tree, naming

IMAGE_BYTES = 10 * 1000**3
"""Largest image, all of its layers uncompressed. Source: AWS, "Lambda quotas"."""

WHITEOUT, OPAQUE, METADATA = ".wh.", ".wh..wh..opq", ".wh..wh."
"""Source: OCI image specification, "Image Layer Filesystem Changeset", whiteouts."""


def unpack(files: Files, layers: Sequence[Layer], root: Path) -> None:
    """The file system of an image at `root`, made of its layers in order. Owners and setuid are not kept.

    Raises:
        InvalidConfiguration: a layer is not what its digest says, is damaged, too large, or has an entry
            that must not be unpacked.
        OSError: `root` cannot be written.
    """
    root.mkdir()
    root.chmod(0o755)
    tree = Tree(str(root))
    room = IMAGE_BYTES
    for layer in layers:
        with files.open(layer.name) as region:
            _verify(region, layer)
            with reading_image(Path(layer.name)):
                child = Child("tar", region.descriptor, BOUNDS)
            with child:
                _apply_whiteouts(child, region, layer, tree, room)
                room = _apply_files(child, region, layer, tree, room)


def _verify(region: Region, layer: Layer) -> None:
    """Nothing of a layer is looked at before its digest is."""
    digest = hashlib.sha256()
    while True:
        with reading_image(Path(layer.name)):
            chunk = region.read(LARGEST)
        if not chunk:
            break
        digest.update(chunk)
    if f"sha256:{digest.hexdigest()}" != layer.digest:
        raise refused(f"content of {layer.digest}", f"other content in {layer.name}")


def _apply_whiteouts(child: Child, region: Region, layer: Layer, tree: Tree, room: int) -> None:
    """Whiteouts go first: they are about the layers below, wherever they come."""
    for member in _members(child, region, layer, data=False):
        room -= member.size  # of a sparse file, more than the tar has of it
        if room < 0:
            raise refused("at most 10 GB uncompressed", f"more, at {member.name}")
        with naming(member.name):
            _whiteout(_parts(member.name, layer), tree)


def _apply_files(child: Child, region: Region, layer: Layer, tree: Tree, room: int) -> int:
    """The room that is left."""
    for member in _members(child, region, layer, data=True):
        parts = _parts(member.name, layer)
        content = _counted(child, member, layer, room)
        room -= member.size
        with naming(member.name):
            if parts and not _is_whiteout(parts):
                _put(parts, member, content, layer, tree)
        for _ in content:  # of what is no file of the image
            pass
    return room


def _members(child: Child, region: Region, layer: Layer, *, data: bool) -> Iterator[Member]:
    found = members(child, region, packed=True, data=data)
    while True:
        with reading_image(Path(layer.name)):
            member = next(found, None)
        if member is None:
            return
        yield member


def _counted(child: Child, member: Member, layer: Layer, room: int) -> Iterator[bytes]:
    """The bytes of a regular file. What cannot be read is the image's fault."""
    chunks = child.data() if member.kind in ("file", "sparse") else iter(())
    while True:
        with reading_image(Path(layer.name)):
            chunk = next(chunks, None)
        if chunk is None:
            return
        room -= len(chunk)
        if room < 0:
            raise refused("at most 10 GB uncompressed", f"more, at {member.name}")
        yield chunk


def _is_whiteout(parts: list[str]) -> bool:
    return parts[-1].startswith(WHITEOUT)


def _whiteout(parts: list[str], tree: Tree) -> None:
    """Remove what an entry says is gone, if it says so."""
    if not parts or not _is_whiteout(parts):
        return
    if parts[-1] == OPAQUE:
        tree.empty(parts[:-1])
    elif not parts[-1].startswith(METADATA):
        hidden = parts[-1].removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise refused("names that stay inside the image", repr("/".join(parts)))
        tree.remove([*parts[:-1], hidden])


def _put(parts: list[str], member: Member, content: Iterator[bytes], layer: Layer, tree: Tree) -> None:
    match member.kind:
        case "folder":
            tree.folder(parts)
        case "link":
            if not member.link or "\0" in member.link:
                raise refused("links that lead somewhere", repr(member.name))
            tree.link(parts, member.link)
        case "hard":
            target = _parts(member.link, layer)
            if not target:
                raise refused("hard links to files of the image", f"{member.name} to its root")
            tree.hard_link(parts, target)
        case "file" | "sparse":
            tree.file(parts, content, member.executable)
        case _:
            found = f"{member.name!r} of another kind in {layer.name}"
            raise refused("files, folders and links only", found)


def _parts(name: str, layer: Layer) -> list[str]:
    """A name below the root. Empty: the root itself."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in name:
        raise refused("names that stay inside the image", f"{name[:80]!r} in {layer.name}")
    return parts
