"""Deploys layers: each by its content, shared by functions, and merged in their order into one /opt."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from millstream.functions.packages import LAYER, Package, deploy
from millstream.functions.snapshots import Snapshot, settle, staging
from millstream.functions.trees import UNZIPPED_BYTES, Found, Kind
from millstream.functions.walk import Listing, check_links


def deploy_layer(
    layer: Path,
    store: Path,
    *,
    room_bytes: int = UNZIPPED_BYTES,
    known: Package | None = None,
    compiled: bool = True,
) -> Snapshot:
    """The folder of a layer below `store`, as `packages.deploy` makes one."""
    return deploy(layer, store, form=LAYER, room_bytes=room_bytes, known=known, compiled=compiled)


def check_merged(layers: Sequence[Listing]) -> None:
    """Look at the links of layers that become one /opt: what stays inside in each may lead out together.

    Raises:
        InvalidConfiguration: one leads out.
    """
    links: dict[str, Found] = {}
    for layer in layers:
        names = {each.name for each in layer.entries if each.found.kind is not Kind.FOLDER}
        folders = {above for each in layer.entries for above in _above(each.name)}
        folders |= {each.name for each in layer.entries if each.found.kind is Kind.FOLDER}
        over = names | folders
        links = {
            name: found
            for name, found in links.items()
            if name not in over and names.isdisjoint(_above(name))
        }
        links |= {each.name: each.found for each in layer.entries if each.found.kind is Kind.LINK}
    check_links(links, LAYER.option)


def _above(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def merge(layers: Sequence[Path], store: Path) -> Path | None:
    """One folder with all of the layers' snapshots, the later over the earlier. None: there are none.

    Files are hard links to the snapshots'. Cost: O(files), the first time. Source: AWS, "Working with
    layers for Python Lambda functions", the order in which layers are extracted.
    Raises:
        StateUnavailable: `store` cannot be written.
    """
    if len(layers) < 2:
        return layers[0] if layers else None
    key = hashlib.sha256("\0".join(layer.name for layer in layers).encode()).hexdigest()[:32]
    target = store / key
    if target.exists():
        return target
    with staging(store) as temporary:
        merged = temporary / "opt"
        merged.mkdir()
        for layer in layers:
            _lay(layer, merged)
        merged.chmod(0o755)
        settle(merged, target)
    return target


def _lay(layer: Path, merged: Path) -> None:
    for folder, names, files in os.walk(layer):
        here = merged / Path(folder).relative_to(layer)
        links = [name for name in names if Path(folder, name).is_symlink()]
        for name in names:
            if name not in links:
                _make_folder(here / name)
        for name in [*files, *links]:
            _clear(here / name)
            _place(Path(folder, name), here / name)


def _make_folder(place: Path) -> None:
    if place.is_symlink() or not place.is_dir():
        _clear(place)
        place.mkdir()
    place.chmod(0o755)


def _clear(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _place(source: Path, target: Path) -> None:
    if source.is_symlink():
        target.symlink_to(os.readlink(source))
        return
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links, or one file has too many
        shutil.copy2(source, target)
