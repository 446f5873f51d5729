"""Matches names with an ignore file in gitignore's syntax."""

from __future__ import annotations

from typing import BinaryIO

from pathspec import GitIgnoreSpec

from millstream.functions.confined import frames
from millstream.functions.confined.frames import write_value

INSIDE = "/**"


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Say which names are ignored.

    The first request is the file's lines, each further one a list of names. Names of folders end in a
    slash, and whoever asks does not look into a folder that is ignored.
    """
    spec = GitIgnoreSpec.from_lines(map(_line, frames.value(frames.read(requests)[1])))
    write_value(answers, None)
    answers.flush()
    while True:
        names = frames.value(frames.read(requests)[1])
        write_value(answers, [spec.match_file(name) for name in names])
        answers.flush()


def _line(line: str) -> str:
    """`a/**` is about what `a` holds; the library has it match `a` itself, which would not be looked into."""
    bare = line.rstrip()
    return bare.removesuffix(INSIDE) + "/*" if bare.endswith(INSIDE) else line
