"""What is public, what is shipped, and what importing costs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import millstream

ROOT = Path(__file__).parents[1]


def test_the_public_names_are_these() -> None:
    kinds = ["DynamoDB", "Kafka", "Kinesis", "RabbitMq", "RabbitMqStream", "Source", "Sqs"]
    names = sorted(["App", "Destination", "Function", "__version__", *kinds])
    assert millstream.__all__ == names


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ["asyncio", "boto3", "msgspec", "pydantic", "rich"]
    code = f"import sys, millstream\nprint(sorted(set(sys.modules) & set({heavy})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.broker
def test_the_wheel_holds_the_tree(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {name for name in archive.namelist() if name.startswith("millstream/")}
    package = ROOT / "src" / "millstream"
    tree = {
        f"millstream/{path.relative_to(package).as_posix()}"
        for path in [
            *package.rglob("*"),
            *(p for link in package.iterdir() if link.is_symlink() for p in link.rglob("*")),
        ]
        if path.is_file() and path.suffix != ".pyc"
    }
    assert shipped == tree
