"""Reads what an image is made of: OCI layouts, and the older form of `docker save`."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from millstream.functions.host import host_architecture
from millstream.functions.images.files import FORMS, Files, refused

DOCUMENT_BYTES = 4 * 1024 * 1024
"""Largest index, manifest or configuration that is read. Source: the OCI distribution specification."""

DEPTH = 4  # indexes in indexes

ARCHITECTURES = {"x86_64": "amd64", "arm64": "arm64"}
"""AWS's words, and OCI's."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Platform(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = ""


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    digest: str
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class _Index(msgspec.Struct, frozen=True):
    manifests: list[Descriptor]


class _Manifest(msgspec.Struct, frozen=True):
    config: Descriptor
    layers: list[Descriptor]


class _Saved(msgspec.Struct, frozen=True, rename="pascal"):
    """An entry of manifest.json. Source: Docker, "Docker Image Specification v1.2", combined JSON."""

    config: str
    layers: list[str]


class RunConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """How an image wants to be run. Source: OCI image specification, "Image Configuration"."""

    env: list[str] | None = None
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    working_dir: str = ""


class _RootFs(msgspec.Struct, frozen=True):
    diff_ids: list[str]


class _Config(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = ""
    config: RunConfig | None = None
    rootfs: _RootFs = msgspec.field(default_factory=lambda: _RootFs([]))


@dataclass(frozen=True, slots=True)
class Layer:
    """A file of the image: a tar, perhaps compressed. `digest` is of the file as it is."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class ImageParts:
    """An image for this host. `digest` is what is resolved from a tag: it names this content alone."""

    digest: str
    run: RunConfig
    layers: tuple[Layer, ...]


def read_parts(files: Files) -> ImageParts:
    """The image in these files that this host can run, every document verified by its digest.

    Raises:
        InvalidConfiguration: there is none, or more than one.
        msgspec.DecodeError: a document has another form.
    """
    if files.has("index.json"):
        return _of_a_layout(files)
    if files.has("manifest.json"):
        return _of_an_archive(files)
    raise refused(FORMS, "neither index.json nor manifest.json in it")


def host_platform() -> str:
    """The platform of images that this host runs, as OCI writes it: linux/amd64."""
    here = host_architecture()
    return f"linux/{ARCHITECTURES.get(here, here)}"


def check_platform(architecture: str, system: str) -> None:
    """Raises:
    InvalidConfiguration: an image of this platform does not run here.
    """
    found = f"{system or 'linux'}/{architecture}"
    if found != host_platform():
        raise refused(f"an image for {host_platform()}, what this host is", f"one for {found}")


def check_digest(digest: str) -> None:
    """Raises:
    InvalidConfiguration: it is no digest that can be verified, or that can name a folder.
    """
    if not _DIGEST.fullmatch(digest):
        raise refused("digests of sha256", repr(digest[:80]))


def _of_a_layout(files: Files) -> ImageParts:
    index = msgspec.json.decode(_read(files, "index.json"), type=_Index)
    found = {each.digest: each for each in _manifests(files, index, DEPTH)}
    wanted = host_platform()
    names = {digest: _platform(each) for digest, each in found.items()}
    fitting = [digest for digest, name in names.items() if name in ("", wanted)]
    if not fitting:
        others = ", ".join(sorted(set(names.values()))) or "none"
        raise refused(f"an image for {wanted}, what this host is", others)
    if len(fitting) > 1:
        raise refused(f"one image for {wanted}", f"{len(fitting)}: {', '.join(fitting)}")
    manifest = msgspec.json.decode(_blob(files, fitting[0]), type=_Manifest)
    config = msgspec.json.decode(_blob(files, manifest.config.digest), type=_Config)
    check_platform(config.architecture, config.os)
    layers = tuple(Layer(_blob_name(each.digest), each.digest) for each in manifest.layers)
    return ImageParts(fitting[0], config.config or RunConfig(), layers)


def _manifests(files: Files, index: _Index, depth: int) -> Iterator[Descriptor]:
    """Manifests of images; those that only tell of another one, such as attestations, are none."""
    if not depth:
        raise refused("an index of images", "indexes in indexes without an end")
    for each in index.manifests:
        if "vnd.docker.reference.type" in (each.annotations or {}):
            continue
        if each.media_type.endswith(("image.index.v1+json", "manifest.list.v2+json")):
            if files.has(_blob_name(each.digest)):
                inner = msgspec.json.decode(_blob(files, each.digest), type=_Index)
                yield from _manifests(files, inner, depth - 1)
        else:
            yield each


def _platform(descriptor: Descriptor) -> str:
    platform = descriptor.platform
    return f"{platform.os}/{platform.architecture}" if platform else ""


def _of_an_archive(files: Files) -> ImageParts:
    saved = msgspec.json.decode(_read(files, "manifest.json"), type=list[_Saved])
    if len(saved) != 1:
        raise refused("one image in the tar", str(len(saved)))
    document = _read(files, saved[0].config)
    config = msgspec.json.decode(document, type=_Config)
    check_platform(config.architecture, config.os)
    names, digests = saved[0].layers, config.rootfs.diff_ids
    if len(names) != len(digests):
        raise refused("a digest for each layer", f"{len(names)} layers and {len(digests)} digests")
    layers = tuple(map(Layer, names, digests))
    # Such a tar has no manifest; the configuration names each layer's content, so its digest does.
    digest = f"sha256:{hashlib.sha256(document).hexdigest()}"
    return ImageParts(digest, config.config or RunConfig(), layers)


def _blob_name(digest: str) -> str:
    check_digest(digest)
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _blob(files: Files, digest: str) -> bytes:
    data = _read(files, _blob_name(digest))
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
        raise refused(f"content of {digest}", "other content")
    return data


def _read(files: Files, name: str) -> bytes:
    with files.open(name) as region:
        data = io.BufferedReader(region).read(DOCUMENT_BYTES + 1)
    if len(data) > DOCUMENT_BYTES:
        raise refused(f"{name} of at most {DOCUMENT_BYTES} bytes", "more")
    return data
