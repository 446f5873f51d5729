"""Certificates of the tests' own authority, by the openssl program."""

from __future__ import annotations

import subprocess
from pathlib import Path

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
DAYS = ["-days", "2"]
LEAF = "basicConstraints=critical,CA:FALSE\n"
SERVER = "subjectAltName=DNS:localhost,IP:127.0.0.1\n"


class Authority:
    """An authority in a folder of its own.

    Raises:
        OSError: openssl is not there, or refused.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.file = folder / "ca.pem"
        self._key = folder / "ca.key"
        may_sign = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        _openssl("req", "-x509", *KEY, *DAYS, *_name("tests"), *may_sign, *self._into("ca", ".pem"))

    def issue(self, name: str, *, server: bool = False) -> tuple[Path, Path]:
        """A certificate's file and its key's; a server's is for 127.0.0.1 and localhost."""
        asked, found = self._folder / f"{name}.csr", self._folder / f"{name}.pem"
        extensions = self._folder / f"{name}.extensions"
        extensions.write_text(LEAF + (SERVER if server else ""))
        _openssl("req", "-new", *KEY, *_name(name), *self._into(name, ".csr"))
        signed_by = ["-CA", str(self.file), "-CAkey", str(self._key), "-CAcreateserial"]
        how = [*signed_by, *DAYS, "-extfile", str(extensions)]
        _openssl("x509", "-req", "-in", str(asked), *how, "-out", str(found))
        return found, found.with_suffix(".key")

    def sealed(self, key: Path, password: str) -> Path:
        """The same key's file, encrypted."""
        found = key.with_name(f"{key.name}.sealed")
        how = ["-topk8", "-v2", "aes-256-cbc", "-passout", f"pass:{password}"]
        _openssl("pkcs8", *how, "-in", str(key), "-out", str(found))
        return found

    def _into(self, name: str, suffix: str) -> list[str]:
        return ["-keyout", str(self._folder / f"{name}.key"), "-out", str(self._folder / f"{name}{suffix}")]


def _name(name: str) -> list[str]:
    return ["-subj", f"/CN={name}"]


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"openssl: {done.stderr.strip()[-500:]}")
