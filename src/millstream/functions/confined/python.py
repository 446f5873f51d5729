"""Compiles Python."""

from __future__ import annotations

import encodings.cp1252
import encodings.iso8859_15
import encodings.latin_1
import encodings.utf_8_sig
import importlib.util
import marshal
from typing import BinaryIO

from millstream.functions.confined import frames
from millstream.functions.confined.frames import LARGEST, Kind, write, write_value

UNCHECKED = (1).to_bytes(4, "little")
"""Bytecode is trusted without a look at its source, for a snapshot never changes. Source: PEP 552."""

PRELOADED = (encodings.cp1252, encodings.iso8859_15, encodings.latin_1, encodings.utf_8_sig)
"""Encodings of sources; others cannot be loaded once this process is confined."""


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Compile each source: the answer is null and the bytecode, or the problem's line and text.

    It is empty where nothing can be said here. A request is the path that tracebacks show, and the source.
    """
    while True:
        path = frames.value(frames.read(requests)[1])
        source = bytearray()
        while (frame := frames.read(requests))[0] == Kind.DATA:
            source += frame[1]
        try:
            code = compile(bytes(source), path, "exec", dont_inherit=True)
            made = importlib.util.MAGIC_NUMBER + UNCHECKED + importlib.util.source_hash(bytes(source))
            made += marshal.dumps(code)
        except OSError:  # its encoding is none of those that are loaded
            write_value(answers, [])
        except Exception as error:  # noqa: BLE001  whatever the compiler says of it
            message = getattr(error, "msg", None) or str(error) or type(error).__name__
            write_value(answers, [getattr(error, "lineno", None), message[:300]])
        else:
            write_value(answers, None)
            for start in range(0, len(made), LARGEST):
                write(answers, Kind.DATA, made[start : start + LARGEST])
            write(answers, Kind.END)
            del code, made
        answers.flush()
