"""Debian packages fetched and unpacked into private folders. Nothing on the machine changes.

`apt-get` does the resolving, downloading and signature checks, with its lists and cache in a folder
of ours; `dpkg -x` unpacks. Both work for an ordinary user.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path


class SetupError(Exception):
    """The environment cannot be made; the message says what to do."""


Run = Callable[[str, list[str], Path], None]
"""`run(title, argv, folder)`: runs a command in `folder` showing progress; raises when it fails."""

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def available() -> bool:
    """Whether this machine has what it takes."""
    return bool(shutil.which("apt-get") and shutil.which("dpkg"))


class Apt:
    """apt-get with private lists and cache in `folder`, on the machine's suite or another."""

    def __init__(self, folder: Path, run: Run, suite: str | None = None) -> None:
        self.folder, self.suite, self._run = folder, suite or "this machine's suite", run
        for name in ("lists/partial", "cache/archives/partial", "debs"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        options = {
            "Dir::State::lists": f"{folder}/lists",
            "Dir::Cache": f"{folder}/cache",
            "Debug::NoLocking": "1",  # the lock is root's, and nothing gets installed
            "APT::Sandbox::User": "root",  # else root's apt becomes _apt, who cannot write here
            "Acquire::Retries": "3",
        }
        if suite:
            (folder / "sources.list").write_text(_source(suite))
            options["Dir::Etc::sourcelist"] = f"{folder}/sources.list"
            options["Dir::Etc::sourceparts"] = "-"
        self._options = [word for item in options.items() for word in ("-o", "=".join(item))]

    def update(self) -> None:
        """Fetch the package lists."""
        argv = ["apt-get", *self._options, "-q", "update"]
        self._run(f"apt lists of {self.suite}", argv, self.folder)

    def download(self, *packages: str) -> list[Path]:
        """Fetch these packages alone, in the suite's version; their files."""
        folder, nothing = self.folder / "debs", self.folder / "status"
        nothing.touch()
        # Else a newer version that the machine has would be asked for.
        options = [*self._options, "-o", f"Dir::State::status={nothing}"]
        argv = ["apt-get", *options, "-q", "download", *packages]
        self._run(f"download {' '.join(packages)}", argv, folder)
        return sorted(folder.glob("*.deb"))

    def download_with_dependencies(self, *packages: str) -> list[Path]:
        """Fetch these packages and what they need and the machine lacks; their files."""
        argv = ["apt-get", *self._options, "-qy", "--no-install-recommends"]
        argv += ["--download-only", "--reinstall"]
        self._run(f"download {' '.join(packages)}", [*argv, "install", *packages], self.folder)
        debs = sorted((self.folder / "cache/archives").glob("*.deb"))
        # A C library beside the machine's own loader would crash every program that finds it first.
        return [deb for deb in debs if not deb.name.startswith(("libc6_", "libc-bin_"))]

    def dependency(self, package: str, pattern: str) -> str | None:
        """The first dependency of `package` whose name matches: `postgresql` -> `postgresql-15`."""
        argv = ["apt-cache", *self._options, "depends", "--important", package]
        names = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()
        return next((name for name in names if re.fullmatch(pattern, name)), None)


def unpack(debs: list[Path], root: Path) -> None:
    """Unpack packages into `root`, which is made; absolute links inside are turned towards it."""
    root.mkdir(parents=True, exist_ok=True)
    for deb in debs:
        subprocess.run(["dpkg", "-x", str(deb), str(root)], check=True)
    for link in root.rglob("*"):
        if link.is_symlink() and link.readlink().is_absolute():
            inside = root / link.readlink().relative_to("/")
            if inside.exists():
                link.unlink()
                link.symlink_to(inside)


def _source(suite: str) -> str:
    """A sources line for `suite` in the archive this machine uses."""
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    found = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.split()
    archive = next((uri for uri in found if "security" not in uri), None)
    if archive is None:
        raise SetupError("apt has no package source: see /etc/apt/sources.list")
    # Signatures are checked, with Debian's keyring where the machine has it. A machine told to
    # trust its archive unsigned (a local mirror) is told the same about another suite of it.
    option = f"[signed-by={KEYRING}] " if KEYRING.exists() else ""
    if _trusts(archive):
        option = "[trusted=yes] "
    return f"deb {option}{archive} {suite} main\n"


def _trusts(archive: str) -> bool:
    """Whether the machine's own configuration exempts `archive` from signature checks."""
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    blocks = [
        block
        for path in files
        if path.suffix in (".list", ".sources")
        if path.is_file()
        for block in re.split(r"\n\s*\n" if path.suffix == ".sources" else r"\n", path.read_text())
    ]
    trusted = re.compile(r"^\s*[^#\n]*\btrusted\s*[=:]\s*yes\b", re.IGNORECASE | re.MULTILINE)
    return any(archive.rstrip("/") in block and trusted.search(block) for block in blocks)
