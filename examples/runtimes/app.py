"""One function for each runtime client; declares those that `sh LANGUAGE/build.sh` has built.

millstream check examples/runtimes/app.py
millstream run examples/runtimes/app.py
millstream invoke nodejs --payload '{"hello": "world"}'
"""

from __future__ import annotations

from pathlib import Path

from millstream import App, Function, Sqs

HANDLERS = {
    "python": ("main.handle", None),  # the daemon's own Python
    "nodejs": ("index.handler", "nodejs22.x"),
    "java": ("example.Echo", "java17"),
    "go": ("bootstrap", "provided.al2023"),
    "rust": ("bootstrap", "provided.al2023"),
    "shell": ("bootstrap", "provided.al2023"),
}

app = App("runtimes")
for name, (handler, runtime) in HANDLERS.items():
    if Path(__file__).with_name(name).joinpath("build").is_dir():
        options = {} if runtime is None else {"runtime": runtime}
        function = Function(
            name, handler=handler, code=f"{name}/build", memory_size=256, timeout=10, **options
        )
        app.map(Sqs(name), to=function)
