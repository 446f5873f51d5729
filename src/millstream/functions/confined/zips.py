"""Takes a .zip file apart."""

from __future__ import annotations

import os
import zipfile
from typing import Any, BinaryIO

from millstream.functions.confined import frames
from millstream.functions.confined.frames import LARGEST, SOURCE, Kind, write, write_value

ENTRIES = 100_000
BATCH_BYTES = LARGEST // 8
"""Names of one frame of the list; in JSON each byte may become six."""

"é".encode("cp437")  # names may need it, and nothing can be loaded once this process is confined


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Say all entries, then their bytes as they are asked for: a request is a list of indexes."""
    with zipfile.ZipFile(os.fdopen(SOURCE, "rb")) as archive:
        infos = archive.infolist()
        if len(infos) > ENTRIES:
            raise ValueError(f"{len(infos)} entries, more than {ENTRIES}")
        _list(infos, answers)
        while True:
            kind, body = frames.read(requests)
            for index in frames.value(body) if kind == Kind.VALUE else ():
                with archive.open(infos[index]) as file:
                    while chunk := file.read(LARGEST):
                        write(answers, Kind.DATA, chunk)
                write(answers, Kind.END)
            answers.flush()


def _list(infos: list[zipfile.ZipInfo], answers: BinaryIO) -> None:
    batch: list[Any] = []
    size = 0
    for info in infos:
        mode = info.external_attr >> 16 if info.create_system == 3 else 0
        batch.append([info.filename, mode, info.file_size, info.is_dir()])
        size += len(info.filename)
        if size > BATCH_BYTES or len(batch) == 1000:
            write_value(answers, batch)
            batch, size = [], 0
    write_value(answers, batch)
    write(answers, Kind.END)
    answers.flush()
