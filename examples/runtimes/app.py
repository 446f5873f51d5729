"""One function for each runtime client; those that `sh LANGUAGE/build.sh` has built are declared.

millstream check examples/runtimes/app.py
millstream run examples/runtimes/app.py
millstream invoke nodejs --payload '{"hello": "world"}'
"""

from __future__ import annotations

from pathlib import Path

from millstream import App, Function, Sqs

CUSTOM = "provided.al2023"
FUNCTIONS = {
    "python": Function("python", handler="main.handle", code="python/build"),  # by the daemon's own Python
    "nodejs": Function(
        "nodejs", runtime="nodejs22.x", handler="index.handler", code="nodejs/build", memory_size=256
    ),
    "java": Function(
        "java", runtime="java17", handler="example.Echo", code="java/build", memory_size=256, timeout=10
    ),
    "go": Function("go", runtime=CUSTOM, handler="bootstrap", code="go/build"),
    "rust": Function("rust", runtime=CUSTOM, handler="bootstrap", code="rust/build"),
    "shell": Function("shell", runtime=CUSTOM, handler="bootstrap", code="shell/build"),
}

app = App("runtimes")
for name, function in FUNCTIONS.items():
    if Path(__file__).with_name(name).joinpath("build").is_dir():
        app.map(Sqs(name), to=function)
