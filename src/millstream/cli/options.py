"""Options and arguments that commands of the command line share, and the values that some may have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class LogFormat(StrEnum):
    """The form of the daemon's own log lines."""

    text = "text"
    json = "json"


class LogsTo(StrEnum):
    """The place to which the lines of functions go."""

    files = "files"
    json = "json"
    both = "both"


class LogLevel(StrEnum):
    """The least level that is shown."""

    debug = "DEBUG"
    info = "INFO"
    warning = "WARNING"
    error = "ERROR"


AppFile = Annotated[Path, typer.Argument(help="The Python file that declares the App.", show_default=False)]
DataDir = Annotated[
    Path, typer.Option(envvar="MILLSTREAM_DATA_DIR", help="Where state, code and logs are kept.")
]
NamedRuntimes = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime",
        metavar="NAME=PATH",
        show_default=False,
        help="A runtime's interpreter, nodejs20.x=/opt/node/bin/node; or MILLSTREAM_RUNTIME_NODEJS20_X.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
