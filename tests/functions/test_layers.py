"""Layers: each is unpacked once, and together they are one /opt."""

from __future__ import annotations

import os
import stat
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.contract.errors import InvalidConfiguration
from millstream.functions.layers import check_merged, deploy_layer, merge
from millstream.functions.packages import LAYER, survey
from millstream.functions.walk import Listing


def layer(folder: Path, **files: str) -> Path:
    """A folder of files, by names with `__` for `/`."""
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_the_same_layer_is_unpacked_once_for_all_functions(tmp_path: Path) -> None:
    first = deploy_layer(layer(tmp_path / "a", bin__tool="1"), tmp_path / "store")
    second = deploy_layer(layer(tmp_path / "b", bin__tool="1"), tmp_path / "store")
    assert first == second
    assert first.size_bytes == 1


def test_one_layer_is_its_own_opt_and_none_is_none(tmp_path: Path) -> None:
    snapshot = deploy_layer(layer(tmp_path / "a", lib__x="1"), tmp_path / "store")
    assert merge([snapshot.folder], tmp_path / "opt") == snapshot.folder
    assert merge([], tmp_path / "opt") is None


def test_a_later_layer_goes_over_an_earlier_one_and_files_are_shared(tmp_path: Path) -> None:
    layers = [
        deploy_layer(layer(tmp_path / "a", lib__x="1", lib__y="1", both="1"), tmp_path / "store").folder,
        deploy_layer(layer(tmp_path / "b", lib__x="2", both__z="2"), tmp_path / "store").folder,
    ]
    opt = merge(layers, tmp_path / "opt")
    assert opt is not None
    texts = {path.relative_to(opt).as_posix(): path.read_text() for path in opt.rglob("*") if path.is_file()}
    assert texts == {"lib/x": "2", "lib/y": "1", "both/z": "2"}
    assert (opt / "lib/y").stat().st_ino == (layers[0] / "lib/y").stat().st_ino
    assert merge(layers, tmp_path / "opt") == opt
    assert merge(layers[::-1], tmp_path / "opt") != opt
    assert [path.name for path in (tmp_path / "opt").iterdir() if path.name.startswith(".")] == []


def test_a_folder_goes_over_a_link_of_an_earlier_layer_and_not_through_it(tmp_path: Path) -> None:
    (tmp_path / "a" / "lib64").mkdir(parents=True)
    (tmp_path / "a" / "lib").symlink_to("lib64")
    layers = [
        deploy_layer(tmp_path / "a", tmp_path / "store").folder,
        deploy_layer(layer(tmp_path / "b", lib__x="2", lib64__y="2"), tmp_path / "store").folder,
    ]
    opt = merge(layers, tmp_path / "opt")
    assert opt is not None
    assert sorted(path.relative_to(opt).as_posix() for path in opt.rglob("*") if path.is_file()) == [
        "lib/x",
        "lib64/y",
    ]
    assert not (opt / "lib").is_symlink()


def test_what_is_executable_stays_so_and_python_is_compiled(tmp_path: Path) -> None:
    folder = layer(tmp_path / "a", extensions__watch="#!/bin/sh\n", python__m="x", python__n="x")
    (folder / "extensions/watch").chmod(0o755)
    (folder / "python/m.py").write_text("x = 1\n")
    opt = deploy_layer(folder, tmp_path / "store").folder
    assert stat.S_IMODE((opt / "extensions/watch").stat().st_mode) == 0o755
    assert len(list(opt.rglob("*.pyc"))) == 1


@pytest.mark.parametrize("zipped", [True, False])
def test_a_link_that_stays_inside_is_kept(tmp_path: Path, zipped: bool) -> None:
    source = layer(tmp_path / "a", nodejs__node_modules__tool__cli="x")
    bin_folder = source / "nodejs" / "node_modules" / ".bin"
    bin_folder.mkdir()
    (bin_folder / "tool").symlink_to("../tool/cli")
    if zipped:
        source = tmp_path / "a.zip"
        with zipfile.ZipFile(source, "w") as archive:
            archive.writestr("nodejs/node_modules/tool/cli", "x")
            archive.writestr(link("nodejs/node_modules/.bin/tool"), "../tool/cli")
    opt = deploy_layer(source, tmp_path / "store").folder
    assert os.readlink(opt / "nodejs/node_modules/.bin/tool") == "../tool/cli"


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("target", ["/etc/passwd", "../x", "a/../../x", "", ".."])
def test_a_link_that_leaves_the_layer_is_refused(tmp_path: Path, target: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link("l"), target)
    with pytest.raises(InvalidConfiguration, match=r"^layers: wanted relative links that stay inside"):
        deploy_layer(tmp_path / "a.zip", tmp_path / "store")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link("d/down"), "..")
        archive.writestr(link("d/l"), "down/..")
        archive.writestr("d/l/evil", "x")
    with pytest.raises(InvalidConfiguration, match=r"^layers: wanted names that are a file or a folder"):
        deploy_layer(tmp_path / "a.zip", tmp_path / "store")
    assert list(tmp_path.rglob("evil")) == []


def test_links_that_lead_out_together_are_refused_as_one_that_does_so_alone(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        # Each step stays inside by its words alone; together they lead four folders up.
        archive.writestr("p/q/r/s/keep", "x")
        archive.writestr(link("p/q/r/s/up"), "../../../..")
        archive.writestr(link("p/q/r/s/m.py"), "up/../../../outside.py")
    with pytest.raises(InvalidConfiguration, match=r"^layers: wanted relative links that stay inside"):
        deploy_layer(tmp_path / "a.zip", tmp_path / "store")


def listing(source: Path) -> Listing:
    return survey(source, LAYER).listing


def test_layers_whose_links_lead_out_together_are_refused(tmp_path: Path) -> None:
    first, second = layer(tmp_path / "a", deep__er__x="1"), layer(tmp_path / "b", p__y="2")
    (first / "p").symlink_to("deep/er")
    (first / "out").symlink_to("p/../..")  # the root, for as long as p is a link
    check_merged([listing(first)])
    check_merged([listing(second), listing(first)])
    with pytest.raises(InvalidConfiguration, match=r"^layers: wanted relative links .* found out, to p/"):
        check_merged([listing(first), listing(second)])


def test_links_that_a_later_layer_takes_the_place_of_are_no_matter(tmp_path: Path) -> None:
    first, second = layer(tmp_path / "a", deep__er__x="1"), layer(tmp_path / "b", p__y="2", out="2")
    (first / "p").symlink_to("deep/er")
    (first / "out").symlink_to("p/../..")
    check_merged([listing(first), listing(second)])


def test_what_a_link_leads_to_is_compiled_by_its_own_name_alone(tmp_path: Path) -> None:
    source = layer(tmp_path / "a", python__m="x = 1\n")
    (source / "python/m").rename(source / "python/m.py")
    (source / "python/n.py").symlink_to("m.py")
    opt = deploy_layer(source, tmp_path / "store").folder
    assert [path.name.partition(".")[0] for path in opt.rglob("*.pyc")] == ["m"]


def test_layers_and_code_share_the_limit(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfiguration, match=r"^layers: wanted at most 250 MB unzipped, layers incl"):
        deploy_layer(layer(tmp_path / "a", x="12345678901"), tmp_path / "store", room_bytes=10)


PATHS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)


def _fits(names: list[str]) -> bool:
    return not any(other.startswith(f"{name}/") for name in names for other in names)


@settings(deadline=None)  # it writes folders
@given(st.lists(st.lists(PATHS, max_size=4, unique=True).filter(_fits), min_size=1, max_size=4))
def test_merging_is_what_a_dict_would_do(layers: list[list[str]]) -> None:
    expected: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        folders = []
        for number, names in enumerate(layers):
            source = Path(place, str(number))
            source.mkdir()
            for name in names:
                above = [name.rsplit("/", up)[0] for up in range(1, name.count("/") + 1)]
                gone = [old for old in expected if old.startswith(f"{name}/") or old in above]
                for old in gone:
                    del expected[old]
                expected[name] = f"{number} {name}"
                layer(source, **{name.replace("/", "__"): f"{number} {name}"})
            folders.append(deploy_layer(source, Path(place, "store")).folder)
        opt = merge(folders, Path(place, "opt"))
        assert opt is not None
        texts = {p.relative_to(opt).as_posix(): p.read_text() for p in opt.rglob("*") if p.is_file()}
        assert texts == expected
