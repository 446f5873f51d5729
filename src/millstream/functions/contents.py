"""Reads single files of what a package or a layer holds, without unpacking it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from millstream.functions.packages import CODE, Form, Package, survey
from millstream.functions.trees import Found, Kind, open_tree
from millstream.functions.walk import resolve

READ_BYTES = 1 << 20
"""Largest file that is read."""


class Contents:
    """Reads single files by their names, as a function will see them: what is left out is not there.

    Raises, all methods: InvalidConfiguration, for a source that cannot be read.
    """

    def __init__(self, path: Path, package: Package | None = None, form: Form = CODE) -> None:
        self.path, self._form = path, form
        entries = (package or survey(path, form)).listing.entries
        self._files = {each.name: each.found for each in entries if each.found.kind is Kind.FILE}
        self._links = {each.name: each.found.target for each in entries if each.found.kind is Kind.LINK}

    def close(self) -> None:
        """Nothing is kept open."""

    def has(self, name: str) -> bool:
        """True: a file has this name."""
        return self._find(name) is not None

    def executable(self, name: str) -> bool:
        """True: a file has this name, and somebody may execute it."""
        found = self._find(name)
        return found is not None and found[1].executable

    def read(self, name: str) -> bytes | None:
        """The bytes of a file. None: there is none of this name, or it has more than 1 MB."""
        found = self._find(name)
        if found is None or found[1].size_bytes > READ_BYTES:
            return None
        tree = open_tree(self.path, self._form.option)
        try:
            (chunks,) = tree.read([found])
            data = bytearray()
            for chunk in chunks:
                data += chunk
                if len(data) > READ_BYTES:
                    return None
            return bytes(data)
        finally:
            tree.close()

    def beside(self, folder: str, wanted: Callable[[str], bool]) -> bool:
        """True: a file right in this folder (empty: the root) has a name that is wanted."""
        real = resolve(folder, self._links) if folder else ""
        if real is None:
            return False
        prefix = f"{real}/" if real else ""
        names = [*self._files, *(link for link in self._links if self.has(link))]
        below = (name.removeprefix(prefix) for name in names if name.startswith(prefix))
        return any("/" not in name and wanted(name) for name in below)

    def _find(self, name: str) -> tuple[str, Found] | None:
        """The file that a name leads to, with its own name."""
        real = resolve(name, self._links)
        return (real, self._files[real]) if real is not None and real in self._files else None
