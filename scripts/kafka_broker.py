"""Fetches the Kafka that the tests start: `kafka_broker.py` prints the folder of its classes.

Apache publishes the broker to Maven Central, dependencies named, so that Maven and Java are all it takes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "4.3.1"
LOGGER = "1.7.36"
"""Of slf4j-simple: the release of slf4j-api that this Kafka names. Without it the broker says nothing."""

FETCHED_WITHIN_S = 300.0

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>millstream</groupId>
  <artifactId>broker-of-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{LOGGER}</version>
    </dependency>
  </dependencies>
</project>
"""


def main() -> None:
    try:
        print(libraries())
    except OSError as error:
        print(f"Kafka: {error}; tests of what needs it are skipped", file=sys.stderr)
        sys.exit(1)


def libraries() -> Path:
    """The folder of the broker's classes, in a cache that outlives the checkout; fetched once.

    Raises:
        OSError: Java or Maven is not there, or Maven could not fetch it.
    """
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise FileNotFoundError(f"wanted {program}, found none")
    folder = cache() / f"kafka-{VERSION}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            _fetch(Path(unfinished))
            try:
                (Path(unfinished) / "classes").rename(folder)
            except OSError:
                if not folder.exists():  # else another process was quicker
                    raise
    return folder


def cache() -> Path:
    """Where brokers are kept that no package of the system's brings."""
    if given := os.environ.get("MILLSTREAM_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millstream-tests"


def _fetch(folder: Path) -> None:
    (folder / "pom.xml").write_text(POM, encoding="ascii")
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}/classes"]
    try:
        done = subprocess.run(
            ["mvn", "-q", "-B", *goal], cwd=folder, capture_output=True, text=True, timeout=FETCHED_WITHIN_S
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"wanted Kafka {VERSION} from Maven within {FETCHED_WITHIN_S:g} s") from error
    if done.returncode:
        raise OSError(f"wanted Kafka {VERSION} from Maven, found: {done.stdout.strip()[:500]}")


if __name__ == "__main__":
    main()
