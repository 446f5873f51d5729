"""Makes small images: layers, OCI layouts and tars of `docker save`, byte by byte."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from millstream.functions.images.manifest import host_platform

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
OTHER = "arm64" if host_platform() == "linux/amd64" else "amd64"
HERE = host_platform().partition("/")[2]


def file(name: str, data: bytes = b"", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    return info, data


def entry(name: str, kind: bytes, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755
    return info, b""


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.DIRTYPE)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.SYMTYPE, target)


def hard_link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, tarfile.LNKTYPE, target)


def layer(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Layout:
    """An OCI layout being made: blobs, and what the index says."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    index: list[dict[str, Any]] = field(default_factory=list)

    def blob(self, data: bytes, media_type: str = "") -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def add(
        self,
        layers: Iterable[bytes],
        run: dict[str, Any] | None = None,
        architecture: str = HERE,
        platform: bool = True,
        **descriptor: Any,
    ) -> dict[str, Any]:
        """An image in the index; its descriptor."""
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/app"]} if run is None else run,
        }
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(json.dumps(config).encode()),
            "layers": [self.blob(data, LAYER) for data in layers],
        }
        found = self.blob(json.dumps(manifest).encode(), MANIFEST) | descriptor
        if platform:
            found["platform"] = {"architecture": architecture, "os": "linux"}
        self.index.append(found)
        return found

    def files(self) -> dict[str, bytes]:
        named = {f"blobs/sha256/{key.removeprefix('sha256:')}": data for key, data in self.blobs.items()}
        index = {"schemaVersion": 2, "manifests": self.index}
        return {"index.json": json.dumps(index).encode(), "oci-layout": b"{}", **named}

    def write(self, place: Path) -> Path:
        for name, data in self.files().items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(data)
        return place

    def tar(self, place: Path) -> Path:
        place.write_bytes(layer(*(file(name, data) for name, data in self.files().items())))
        return place


def simple(place: Path, *layers: bytes, run: dict[str, Any] | None = None) -> Path:
    """A layout's folder with one image."""
    made = Layout()
    made.add(layers, run)
    return made.write(place)


def saved(
    place: Path, layers: Sequence[bytes], change: Callable[[dict[str, Any]], None] | None = None
) -> Path:
    """A tar of `docker save` in its older form."""
    config: dict[str, Any] = {
        "architecture": HERE,
        "os": "linux",
        "config": {"Entrypoint": ["/app"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(data) for data in layers]},
    }
    if change is not None:
        change(config)
    document = json.dumps(config).encode()
    name = f"{digest(document).removeprefix('sha256:')}.json"
    names = [f"{index}/layer.tar" for index in range(len(layers))]
    manifest = [{"Config": name, "RepoTags": ["app:1"], "Layers": names}]
    members = [file(name, document), file("manifest.json", json.dumps(manifest).encode())]
    members += [file(where, data) for where, data in zip(names, layers, strict=True)]
    place.write_bytes(layer(*members))
    return place


def gzipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)
