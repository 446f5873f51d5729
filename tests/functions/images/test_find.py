"""Which image a reference means, what it starts, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from millstream.contract.errors import InvalidConfiguration
from millstream.functions.images.find import deploy_image, find_image
from millstream.functions.images.manifest import host_platform
from millstream.functions.options import ImageOptions
from tests.functions.images.making import (
    HERE,
    INDEX,
    OTHER,
    Layout,
    digest,
    file,
    gzipped,
    layer,
    saved,
    simple,
)

APP = layer(file("app", b"#!/bin/sh\n", 0o755))


def test_an_oci_layout_a_tar_of_it_and_a_docker_tar_give_the_same_files(tmp_path: Path) -> None:
    made = Layout()
    made.add([gzipped(APP)])
    made.write(tmp_path / "layout")
    made.tar(tmp_path / "layout.tar")
    saved(tmp_path / "saved.tar", [APP])
    for name in ("layout", "layout.tar", "saved.tar"):
        image = deploy_image(find_image(name, None, tmp_path), tmp_path / f"store-{name}")
        assert (image.root / "app").read_bytes() == b"#!/bin/sh\n"
        assert (image.root / "app").stat().st_mode & 0o777 == 0o755
        assert image.command == ("/app",)
        assert image.working_directory == "/"


def test_the_digest_of_a_layout_is_its_manifests_and_names_its_folder(tmp_path: Path) -> None:
    made = Layout()
    manifest = made.add([APP])
    found = find_image(str(made.write(tmp_path / "layout")), None, tmp_path)
    assert found.digest == manifest["digest"]
    root = deploy_image(found, tmp_path / "store").root
    assert root == tmp_path / "store" / found.digest.removeprefix("sha256:")


def test_an_image_is_unpacked_once_and_leaves_nothing_else_behind(tmp_path: Path) -> None:
    found = find_image(str(simple(tmp_path / "layout", APP)), None, tmp_path)
    first = deploy_image(found, tmp_path / "store").root
    (first / "mark").touch()
    assert (deploy_image(found, tmp_path / "store").root / "mark").exists()
    assert list((tmp_path / "store").iterdir()) == [first]


def test_a_half_unpacked_image_never_counts(tmp_path: Path) -> None:
    bad = layer(file("app", b"x"), file("../evil", b"x"))
    found = find_image(str(simple(tmp_path / "layout", APP, bad)), None, tmp_path)
    with pytest.raises(InvalidConfiguration, match="wanted names that stay inside the image"):
        deploy_image(found, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("run", "overrides", "command", "working_directory"),
    [
        ({"Entrypoint": ["/e"], "Cmd": ["c"], "WorkingDir": "/w"}, {}, ("/e", "c"), "/w"),
        ({"Entrypoint": ["/e"], "Cmd": ["c"]}, {"command": ["d", "e"]}, ("/e", "d", "e"), "/"),
        ({"Entrypoint": ["/e"], "Cmd": ["c"]}, {"entry_point": ["/f"]}, ("/f", "c"), "/"),
        ({"Entrypoint": ["/e"], "Cmd": ["c"]}, {"command": []}, ("/e",), "/"),
        ({"Entrypoint": None, "Cmd": None}, {"entry_point": ["/f"]}, ("/f",), "/"),
        ({"Cmd": ["c"], "WorkingDir": "/w"}, {"working_directory": "/v"}, ("c",), "/v"),
    ],
)
def test_a_function_overrides_each_part_of_its_images_configuration(
    tmp_path: Path,
    run: dict[str, Any],
    overrides: dict[str, Any],
    command: tuple[str, ...],
    working_directory: str,
) -> None:
    path = simple(tmp_path / "layout", APP, run=run)
    found = find_image(str(path), ImageOptions(**overrides), tmp_path)
    assert (found.command, found.working_directory) == (command, working_directory)


def test_the_images_variables_are_taken(tmp_path: Path) -> None:
    run = {"Cmd": ["a"], "Env": ["PATH=/bin", "EMPTY=", "A=b=c", "nothing"]}
    found = find_image(str(simple(tmp_path / "layout", APP, run=run)), None, tmp_path)
    assert found.environment == {"PATH": "/bin", "EMPTY": "", "A": "b=c"}


def test_of_an_index_the_image_of_this_host_is_taken_and_attestations_are_not(tmp_path: Path) -> None:
    made = Layout()
    made.add([layer(file("other"))], architecture=OTHER)
    ours = made.add([APP])
    made.add([APP], architecture="unknown", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    assert find_image(str(made.write(tmp_path / "layout")), None, tmp_path).digest == ours["digest"]


def test_an_index_in_an_index_is_looked_into(tmp_path: Path) -> None:
    made = Layout()
    ours = made.add([APP])
    inner = json.dumps({"manifests": made.index}).encode()
    made.index = [made.blob(inner, INDEX)]
    assert find_image(str(made.write(tmp_path / "layout")), None, tmp_path).digest == ours["digest"]


@pytest.mark.parametrize("platform", [True, False])
def test_an_image_for_another_host_is_refused_in_one_line(tmp_path: Path, platform: bool) -> None:
    made = Layout()
    made.add([APP], architecture=OTHER, platform=platform)
    with pytest.raises(InvalidConfiguration) as invalid:
        find_image(str(made.write(tmp_path / "layout")), None, tmp_path)
    assert [problem.field for problem in invalid.value.problems] == ["image"]
    wanted = f"wanted an image for {host_platform()}, what this host is, found"
    assert wanted in str(invalid.value)
    assert f"linux/{OTHER}" in str(invalid.value)


def test_two_images_for_this_host_are_one_too_many(tmp_path: Path) -> None:
    made = Layout()
    made.add([APP])
    made.add([layer(file("other"))])
    with pytest.raises(InvalidConfiguration, match=f"wanted one image for linux/{HERE}, found 2: "):
        find_image(str(made.write(tmp_path / "layout")), None, tmp_path)


def test_an_image_with_nothing_to_start_is_refused(tmp_path: Path) -> None:
    path = simple(tmp_path / "layout", APP, run={})
    with pytest.raises(InvalidConfiguration, match="wanted an image with an entry point or a command"):
        find_image(str(path), None, tmp_path)


@pytest.mark.parametrize("form", ["layout", "saved"])
def test_a_layer_with_other_content_than_its_digest_says_is_refused(tmp_path: Path, form: str) -> None:
    other = layer(file("app", b"#!/bin/no\n"))
    if form == "layout":
        made = Layout()
        made.add([APP])
        made.blobs[digest(APP)] = other
        path = made.write(tmp_path / "layout")
    else:
        ids = {"diff_ids": [digest(other)]}
        path = saved(tmp_path / "saved.tar", [APP], lambda config: config.update(rootfs=ids))
    with pytest.raises(InvalidConfiguration, match="wanted content of sha256:"):
        deploy_image(find_image(str(path), None, tmp_path), tmp_path / "store")


def test_a_manifest_with_other_content_than_its_digest_says_is_refused(tmp_path: Path) -> None:
    made = Layout()
    manifest = made.add([APP])
    made.blobs[manifest["digest"]] += b" "
    with pytest.raises(InvalidConfiguration, match="wanted content of sha256:"):
        find_image(str(made.write(tmp_path / "layout")), None, tmp_path)


def test_an_image_that_changed_since_it_was_found_is_refused(tmp_path: Path) -> None:
    found = find_image(str(simple(tmp_path / "layout", APP)), None, tmp_path)
    simple(tmp_path / "layout", layer(file("other")))
    with pytest.raises(InvalidConfiguration, match=f"wanted {found.digest} at .*, as before"):
        deploy_image(found, tmp_path / "store")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("gone", None, "wanted a folder with an OCI layout, or a tar of `docker save`, found nothing at"),
        ("text", b"hello", "wanted a folder with an OCI layout, or a tar of `docker save`, found another"),
        ("empty.tar", layer(), "found neither index.json nor manifest.json in it"),
        ("bad.tar", layer(file("index.json", b"{")), "wanted an image that can be read"),
        ("form.tar", layer(file("index.json", b'{"manifests": 3}')), "wanted an image that can be read"),
        ("none.tar", layer(file("index.json", b'{"manifests": []}')), "found none"),
        ("two.tar", layer(file("manifest.json", b"[]")), "wanted one image in the tar, found 0"),
        (
            "md5.tar",
            layer(file("index.json", b'{"manifests": [{"digest": "md5:../../etc"}]}')),
            "wanted digests of sha256, found 'md5:",
        ),
        (
            "blob.tar",
            layer(
                file("index.json", f'{{"manifests": [{{"digest": "sha256:{"0" * 64}"}}]}}'.encode()),
            ),
            "wanted a file blobs/sha256/0000",
        ),
        (
            "loop.tar",
            layer(
                file(
                    "manifest.json",
                    b'[{"Config": "c", "Layers": []}]',
                ),
                file("c", b'{"architecture": "m68k"}'),
            ),
            "found one for linux/m68k",
        ),
    ],
)
def test_what_is_no_image_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidConfiguration) as invalid:
        find_image(name, None, tmp_path)
    assert len(invalid.value.problems) == 1
    assert says in str(invalid.value)


def test_a_tar_that_names_files_of_this_host_reads_none_of_them(tmp_path: Path) -> None:
    manifest = json.dumps([{"Config": "/etc/hostname", "Layers": ["../../../etc/passwd"]}]).encode()
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout" / "manifest.json").write_bytes(manifest)
    (tmp_path / "a.tar").write_bytes(layer(file("manifest.json", manifest)))
    for name in ("layout", "a.tar"):
        with pytest.raises(InvalidConfiguration, match="wanted a file /etc/hostname in the image"):
            find_image(name, None, tmp_path)
