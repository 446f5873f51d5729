"""Unpacking layers: whatever a tar says, it is written inside, and whiteouts hide what is below."""

from __future__ import annotations

import os
import stat
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.contract.errors import InvalidConfiguration
from millstream.functions.images import unpack as unpacking
from millstream.functions.images.files import opened
from millstream.functions.images.manifest import read_parts
from millstream.functions.images.unpack import unpack
from millstream.functions.walk import DEPTH
from tests.functions.images.making import (
    entry,
    file,
    folder,
    gzipped,
    hard_link,
    layer,
    simple,
    symlink,
)

Members = Sequence[tuple[tarfile.TarInfo, bytes]]


def unpacked(place: Path, *layers: bytes) -> Path:
    """The root of an image with these layers."""
    root = place / "root"
    with opened(simple(place / "layout", *layers)) as files:
        unpack(files, read_parts(files).layers, root)
    return root


def found(root: Path) -> dict[str, str | None]:
    """Each name with its text; None: a folder. Links with what they point to."""
    names: dict[str, str | None] = {}
    for place, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(place, name)
            relative = path.relative_to(root).as_posix()
            if path.is_symlink():
                names[relative] = f"→ {os.readlink(path)}"
            else:
                names[relative] = None if path.is_dir() else path.read_text()
    return names


def test_a_later_layer_goes_over_an_earlier_one(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        layer(file("a", b"1"), file("b/c", b"1"), folder("d"), file("d/e", b"1")),
        gzipped(layer(file("a", b"2"), file("b/f", b"2"), file("d", b"2"))),
    )
    assert found(root) == {"a": "2", "b": None, "b/c": "1", "b/f": "2", "d": "2"}


def test_a_folder_that_comes_again_keeps_what_it_has(tmp_path: Path) -> None:
    root = unpacked(tmp_path, layer(file("d/e", b"1")), layer(folder("d"), folder("./"), file("./d/f", b"2")))
    assert found(root) == {"d": None, "d/e": "1", "d/f": "2"}


def test_a_whiteout_hides_what_is_below_and_not_what_its_own_layer_brings(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        layer(file("a", b"1"), file("b/c", b"1"), file("b/d", b"1"), file("e", b"1")),
        layer(file("b/new", b"2"), file("b/.wh..wh..opq"), file("a", b"2"), file(".wh.a"), file(".wh.e")),
    )
    assert found(root) == {"a": "2", "b": None, "b/new": "2"}


def test_links_are_kept_as_they_are_and_hard_links_share_a_file(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        layer(file("bin/sh", b"x", 0o755), symlink("lib", "/usr/lib"), symlink("up", "../../../etc/passwd")),
        layer(hard_link("bin/ash", "bin/sh"), hard_link("up2", "up")),
    )
    assert os.readlink(root / "lib") == "/usr/lib"
    assert os.readlink(root / "up") == os.readlink(root / "up2") == "../../../etc/passwd"
    assert (root / "bin/ash").stat().st_ino == (root / "bin/sh").stat().st_ino


@pytest.mark.parametrize("target", ["/", "..", "../..", "/etc", "../../../../../../../etc", "outside"])
def test_a_link_leads_nowhere_but_into_the_image(tmp_path: Path, target: str) -> None:
    (tmp_path / "outside").mkdir()
    before = sorted(os.listdir("/etc"))
    root = unpacked(
        tmp_path, layer(symlink("l", target), file("l/evil", b"x")), layer(file("l/x/evil2", b"x"))
    )
    assert list((tmp_path / "outside").iterdir()) == []
    assert sorted(os.listdir("/etc")) == before
    assert any(name.endswith("evil") for name in found(root))
    assert {path.name for path in tmp_path.iterdir()} <= {"root", "outside", "layout"}


def test_a_file_below_a_link_is_where_the_link_leads_inside_the_image(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        layer(file("usr/bin/a", b"1"), symlink("bin", "usr/bin"), symlink("alias", "/bin")),
        layer(file("bin/b", b"2"), file("alias/c", b"2"), file("bin/.wh.a")),
    )
    assert {name: text for name, text in found(root).items() if text and not text.startswith("→")} == {
        "usr/bin/b": "2",
        "usr/bin/c": "2",
    }


def test_a_file_takes_the_place_of_a_link_and_not_of_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    root = unpacked(tmp_path, layer(symlink("l", str(tmp_path / "victim"))), layer(file("l", b"theirs")))
    assert (tmp_path / "victim").read_text() == "mine"
    assert found(root) == {"l": "theirs"}


def test_setuid_is_dropped_and_everybody_can_read(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        root = unpacked(tmp_path, layer(folder("d"), file("d/su", b"x", 0o6700), file("d/key", b"x", 0o600)))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert modes == {"root": 0o755, "d": 0o755, "su": 0o755, "key": 0o644}


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([file("../evil")], "names that stay inside the image"),
        ([file("a/../../evil")], "names that stay inside the image"),
        ([file("/a/../../evil")], "names that stay inside the image"),
        ([file(".wh...")], "names that stay inside the image"),
        ([file("d/.wh..")], "names that stay inside the image"),
        ([file("d/.wh.")], "names that stay inside the image"),
        ([hard_link("h", "../etc/passwd")], "names that stay inside the image"),
        ([hard_link("h", "/etc/passwd")], "hard links to files of the image"),
        ([hard_link("h", "./")], "hard links to files of the image"),
        ([folder("d"), hard_link("h", "d")], "hard links to files of the image"),
        ([file("d/a"), hard_link("d", "d/a")], "hard links to files of the image"),
        ([entry("null", tarfile.CHRTYPE)], "files, folders and links only"),
        ([entry("sda", tarfile.BLKTYPE)], "files, folders and links only"),
        ([entry("pipe", tarfile.FIFOTYPE)], "files, folders and links only"),
        ([file("a"), file("a/b")], "names that are a file or a folder"),
        ([symlink("a", "b"), symlink("b", "a"), file("a/c")], "links that lead somewhere"),
        ([file("n" * 300)], "names that a file can have"),
        ([file("/".join(["d"] * (DEPTH + 2)))], f"at most {DEPTH} folders in one another"),
        ([symlink("l", "")], "links that lead somewhere"),
    ],
)
def test_an_entry_that_must_not_be_unpacked_is_one_clear_line(
    tmp_path: Path, members: Members, says: str
) -> None:
    with pytest.raises(InvalidConfiguration) as invalid:
        unpacked(tmp_path, layer(*members))
    assert len(invalid.value.problems) == 1
    assert f"image: wanted {says}, found " in str(invalid.value)
    assert not (tmp_path / "evil").exists()


def test_an_absolute_name_is_one_below_the_root(tmp_path: Path) -> None:
    assert found(unpacked(tmp_path, layer(file("/opt/a", b"1")))) == {"opt": None, "opt/a": "1"}


@pytest.mark.parametrize("pack", [lambda data: data, gzipped])
def test_an_image_above_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: type[bytes]
) -> None:
    monkeypatch.setattr(unpacking, "IMAGE_BYTES", 1_000_000)
    with pytest.raises(InvalidConfiguration, match="wanted at most 10 GB uncompressed"):
        unpacked(tmp_path, layer(file("a", b"1")), pack(layer(file("b", bytes(1_000_001)))))


def test_a_sparse_file_counts_with_the_size_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacking, "IMAGE_BYTES", 1_000_000)
    info, _ = file("hole", b"12345678")
    info.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.map": "0,8",
        "GNU.sparse.size": str(1 << 40),
    }
    with pytest.raises(InvalidConfiguration, match="wanted at most 10 GB uncompressed"):
        unpacked(tmp_path, layer((info, b"12345678")))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x28\xb5\x2f\xfd" + bytes(20), "layers that are tar or tar[+]gzip|an image that can be read"),
        (b"\x1f\x8b" + bytes(20), "an image that can be read"),
        (gzipped(layer(file("a", bytes(5000))))[:-9], "an image that can be read"),
        (layer(file("a", bytes(5000)))[:1024], "an image that can be read"),
        (b"no tar at all" * 100, "an image that can be read"),
    ],
)
def test_a_damaged_or_unknown_layer_is_one_clear_line(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(InvalidConfiguration, match=f"^image: wanted ({says})"):
        unpacked(tmp_path, data)


NAMES = st.lists(st.sampled_from(["a", "b", "l", "m", "victim"]), min_size=1, max_size=4).map("/".join)
UPWARD = st.lists(st.sampled_from(["a", "..", ".", "", "l", "m", "victim"]), min_size=1, max_size=6)
OUT = st.sampled_from(["../victim", "../../victim", "..", "../..", "a/../../victim"])
TARGETS = st.one_of(OUT, NAMES, UPWARD.map("/".join), NAMES.map(lambda name: f"/{name}"))
ENTRIES = st.one_of(
    st.builds(file, NAMES, st.just(b"theirs")),
    st.builds(folder, NAMES),
    st.builds(symlink, st.sampled_from(["l", "m", "a/l", "b/m", "victim"]), TARGETS),
    st.builds(hard_link, NAMES, NAMES),
    st.builds(file, NAMES.map(lambda name: f"{name}/.wh..wh..opq")),
    st.builds(lambda folder, name: file(f"{folder}/.wh.{name}"), NAMES, st.sampled_from(["a", "l", "m"])),
)


@settings(max_examples=max(10, settings().max_examples // 3), deadline=None)  # a process for each layer
@given(st.lists(st.lists(ENTRIES, max_size=6), min_size=1, max_size=2), TARGETS, TARGETS)
def test_any_sequence_of_entries_stays_inside(layers: list[Members], first: str, second: str) -> None:
    layers[0] = [symlink("l", first), symlink("m", second), *layers[0]]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name, "below", "here")
        place.mkdir(parents=True)
        for victim in (Path(name, "victim"), Path(name, "below", "victim"), place / "victim"):
            victim.mkdir()
            (victim / "a").write_text("mine")
        with suppress(InvalidConfiguration):
            unpacked(place, *(layer(*members) for members in layers))
        (place / "layer.tar").unlink(missing_ok=True)
        outside = [path for path in Path(name).rglob("*") if not path.is_relative_to(place / "root")]
        outside = [path for path in outside if not path.is_relative_to(place / "layout")]
        assert {path.relative_to(name).as_posix() for path in outside} == {
            "victim", "victim/a", "below", "below/victim", "below/victim/a", "below/here",
            "below/here/victim", "below/here/victim/a",
        }  # fmt: skip
        assert all(path.read_text() == "mine" for path in outside if path.name == "a")


PLAIN = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)
CHANGES = st.one_of(
    st.tuples(st.just("file"), PLAIN),
    st.tuples(st.just("folder"), PLAIN),
    st.tuples(st.just("hidden"), PLAIN),
    st.tuples(st.just("opaque"), st.one_of(PLAIN, st.just(""))),
)


def model(layers: list[list[tuple[str, str]]]) -> dict[str, str | None] | None:
    """What the layers make, told with a dict. None: a name is below a file."""
    names: dict[str, str | None] = {}

    def drop(prefix: str) -> None:
        for name in [name for name in names if name.startswith(prefix)]:
            del names[name]

    for number, changes in enumerate(layers):
        for kind, name in changes:
            if kind == "hidden":
                names.pop(name, None)
            if kind == "hidden" or (kind == "opaque" and name and names.get(name, "") is None):
                drop(f"{name}/")
            if kind == "opaque" and not name:
                names.clear()
        for kind, name in changes:
            if kind not in ("file", "folder"):
                continue
            parts = name.split("/")
            for end in range(1, len(parts)):
                if names.setdefault("/".join(parts[:end]), None) is not None:
                    return None
            if kind == "file":
                drop(f"{name}/")
                names[name] = f"{number} {name}"
            elif names.get(name, "") is not None:
                names[name] = None
    return names


@settings(max_examples=max(10, settings().max_examples // 3), deadline=None)  # a process for each layer
@given(st.lists(st.lists(CHANGES, max_size=6), min_size=1, max_size=4))
def test_layers_and_whiteouts_do_what_a_model_of_dicts_does(layers: list[list[tuple[str, str]]]) -> None:
    def member(number: int, kind: str, name: str) -> tuple[tarfile.TarInfo, bytes]:
        above, slash, last = name.rpartition("/")
        match kind:
            case "file":
                return file(name, f"{number} {name}".encode())
            case "folder":
                return folder(name)
            case "hidden":
                return file(f"{above}{slash}.wh.{last}")
            case _:
                return file(f"{name}/.wh..wh..opq")

    packed = [
        layer(*(member(number, *change) for change in changes)) for number, changes in enumerate(layers)
    ]
    expected = model(layers)
    with tempfile.TemporaryDirectory() as place:
        if expected is None:
            with pytest.raises(InvalidConfiguration, match="names that are a file or a folder"):
                unpacked(Path(place), *packed)
        else:
            assert found(unpacked(Path(place), *packed)) == expected
