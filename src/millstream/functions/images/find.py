"""Finds a declared image and fixes its digest; unpacks it once for each digest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from millstream.contract.errors import InvalidConfiguration, Problem
from millstream.contract.functions import Image
from millstream.functions.images import engine
from millstream.functions.images.files import opened, reading_image, refused
from millstream.functions.images.manifest import (
    ImageParts,
    RunConfig,
    check_digest,
    check_platform,
    read_parts,
)
from millstream.functions.images.unpack import unpack
from millstream.functions.options import ImageOptions
from millstream.functions.snapshots import settle, staging


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image that this host can run. `source` is a path, or the engine that has the digest."""

    digest: str
    source: Path
    in_engine: bool
    command: tuple[str, ...]
    working_directory: str
    environment: dict[str, str] = field(default_factory=dict)


def find_image(
    reference: str, overrides: ImageOptions | None, folder: Path, socket: Path = engine.SOCKET
) -> FoundImage:
    """The image of a reference: a path relative to `folder`, or docker://NAME:TAG.

    Raises:
        InvalidConfiguration: there is none, none for this host, or it has nothing to start.
    """
    if reference.startswith(engine.SCHEME):
        name = reference.removeprefix(engine.SCHEME)
        if not name or not name.isprintable() or " " in name:
            raise refused("docker://NAME:TAG", repr(reference))
        known = engine.inspect(name, socket)
        check_digest(known.id)
        check_platform(known.architecture, known.os)
        return _found(known.id, socket, True, known.config or RunConfig(), overrides)
    path = (folder / reference).resolve()
    parts = _parts(path)
    return _found(parts.digest, path, False, parts.run, overrides)


def deploy_image(found: FoundImage, store: Path) -> Image:
    """The image's file system below `store`, unpacked if this digest is not there yet.

    Cost: reads and writes the whole image, the first time. Raises:
        InvalidConfiguration: the image is damaged, too large, has an entry that must not be unpacked, or
            is another one by now.
        StateUnavailable: `store` cannot be written.
    """
    target = store / found.digest.removeprefix("sha256:")
    if not target.exists():
        with staging(store) as temporary:
            source = found.source
            if found.in_engine:
                source = temporary / "saved.tar"
                engine.save(found.digest, source, found.source)
            with opened(source) as files:
                with reading_image(source):
                    parts = read_parts(files)
                if not found.in_engine and parts.digest != found.digest:
                    raise refused(f"{found.digest} at {source}, as before", parts.digest)
                unpack(files, parts.layers, temporary / "root")
            settle(temporary / "root", target)
    return Image(target, found.command, found.working_directory, found.environment)


def _parts(path: Path) -> ImageParts:
    with opened(path) as files, reading_image(path):
        return read_parts(files)


def _found(
    digest: str, source: Path, in_engine: bool, run: RunConfig, overrides: ImageOptions | None
) -> FoundImage:
    """The image with what the function overrides, each by itself. Source: AWS, ImageConfig."""
    given = overrides or ImageOptions()
    entry_point = run.entrypoint if given.entry_point is None else given.entry_point
    arguments = run.cmd if given.command is None else given.command
    command = (*(entry_point or ()), *(arguments or ()))
    if not command:
        wanted = "an image with an entry point or a command, or image_config with one"
        raise InvalidConfiguration([Problem("", "image", wanted, "neither")])
    folder = given.working_directory or run.working_dir or "/"
    return FoundImage(digest, source, in_engine, command, folder, _environment(run.env or ()))


def _environment(variables: Iterable[str]) -> dict[str, str]:
    pairs = (variable.partition("=") for variable in variables)
    return {name: value for name, equals, value in pairs if name and equals}
