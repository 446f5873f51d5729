"""Installs the brokers and tools that the tests start: `brokers.py`. Does nothing where they are.

As root on Debian or Ubuntu it installs the system packages that are missing; elsewhere it says what the
tests will skip. Kafka comes from Maven.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CREATE_CLUSTER = Path("/etc/postgresql-common/createcluster.conf")
KAFKA = Path(__file__).with_name("kafka_broker.py")
POLICY = Path("/usr/sbin/policy-rc.d")


def main() -> None:
    if os.environ.get("MILLSTREAM_TEST_BROKERS") == "containers":
        return
    install_packages()
    # A program of its own, which says itself what is missing.
    subprocess.run([sys.executable, str(KAFKA)], stdout=subprocess.DEVNULL, check=False)


def install_packages() -> None:
    missing = [package for package, found in needed().items() if not found]
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        names = " and ".join(missing)
        print(f"{names}: not there; tests of what needs them are skipped", file=sys.stderr)
        return
    print(f"installing {' '.join(missing)}", file=sys.stderr)
    if "postgresql" in missing:
        # The tests start servers of their own; the package's would only take a port.
        CREATE_CLUSTER.parent.mkdir(parents=True, exist_ok=True)
        if not CREATE_CLUSTER.exists():
            CREATE_CLUSTER.write_text("create_main_cluster = false\n", encoding="ascii")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "UCF_FORCE_CONFFOLD": "1"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    with no_service_starts():
        subprocess.run(install, check=True, env=environment, stdout=subprocess.DEVNULL)


@contextmanager
def no_service_starts() -> Iterator[None]:
    """Packages that are installed meanwhile start nothing, as the tests start servers of their own.

    Source: Debian's invoke-rc.d(8); a policy that is there already stays as it is.
    """
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def needed() -> dict[str, bool]:
    """Debian's packages, and whether what the tests want of each is there."""
    return {
        "postgresql": any(Path("/usr/lib/postgresql").glob("*/bin/postgres")),
        "pgbouncer": shutil.which("pgbouncer") is not None,
        "nodejs": shutil.which("node") is not None,
        "npm": shutil.which("npm") is not None,
        "default-jdk-headless": shutil.which("javac") is not None,
        "maven": shutil.which("mvn") is not None,
        # of the runtime clients, what npm compiles; Debian's Go and Rust may be too old for theirs
        "cmake": shutil.which("cmake") is not None,
        "g++": shutil.which("g++") is not None,
        "xz-utils": shutil.which("xz") is not None,
        "uidmap": shutil.which("newuidmap") is not None,
        "rabbitmq-server": Path("/usr/lib/rabbitmq/bin/rabbitmq-server").exists(),
        # No machine is given a Docker engine unasked; CI is there to test all.
        "docker.io": shutil.which("dockerd") is not None or not os.environ.get("CI"),
    }


if __name__ == "__main__":
    main()
