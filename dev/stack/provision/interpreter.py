"""The Python the virtualenv is made with: the one that runs this, or the one that is asked for.

A private one comes from a newer Debian than most machines run, with the C library it was built
for. Its program is told where they are, so it starts as any other does, and so do its children.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import apt
from .apt import SetupError
from .parts import home, part, private, run

# The only Python of this release, whose packages do not change their names any more.
SUITE, VERSION = "trixie", "3.13"
PACKAGES = (
    *("python3.13", "python3.13-minimal", "libpython3.13-stdlib", "libpython3.13-minimal"),
    *("libc6", "libgcc-s1", "libstdc++6", "libexpat1", "zlib1g", "libzstd1", "libssl3t64"),
    *("libbz2-1.0", "libdb5.3t64", "libffi8", "liblzma5", "libncursesw6", "libreadline8t64"),
    *("libsqlite3-0", "libtinfo6", "libuuid1", "python3-pip-whl", "patchelf"),
)


def asked() -> str:
    """The version in `ODOO_DEV_PYTHON`; empty for the Python that runs this."""
    version = os.environ.get("ODOO_DEV_PYTHON", "")
    if version and not re.fullmatch(r"3\.[1-9]\d", version):
        raise SetupError(f"ODOO_DEV_PYTHON={version}: not a version such as {VERSION}.")
    return version


def suffix() -> str:
    """How the name of what belongs to this Python ends: `-3.13`, or nothing."""
    return f"-{version}" if (version := asked()) else ""


def inputs() -> str:
    """What a virtualenv is made from, besides its packages."""
    return " ".join([asked(), SUITE, *PACKAGES]) if asked() else f"{sys.version_info[:2]}"


def executable() -> Path:
    """The Python: the machine's own of that version, else a private one."""
    if not (version := asked()):
        return Path(sys.executable)
    found = shutil.which(f"python{version}")
    # A version manager puts a command on PATH that fails unless that version is turned on.
    if found and not private() and _runs(found, "import venv"):
        return Path(found)
    if version != VERSION:
        raise SetupError(f"Install python{version}: only {VERSION} can be had as a private one.")
    made_from = " ".join([SUITE, *PACKAGES])
    root = part(f"python{version}", made_from, home(), _make, in_place=True)
    return root / f"usr/bin/python{version}"


def has_pip(python: Path) -> bool:
    """Whether the virtualenvs it makes can have pip."""
    return _runs(str(python), "import ensurepip")


def pip_wheel(python: Path, folder: Path) -> Path:
    """The wheel of pip that Debian has for its Python, fetched into `folder` if need be."""
    wheels = "share/python-wheels/pip-*.whl"
    if beside := [*python.resolve().parents[1].glob(wheels)]:
        return beside[0]
    if not apt.available():
        raise SetupError("This Python cannot make virtualenvs with pip: install python3-venv.")
    source = apt.Apt(folder / "apt", run)
    source.update()
    apt.unpack(source.download("python3-pip-whl"), folder / "pip")
    return next((folder / "pip").glob(f"usr/{wheels}"))


def _make(folder: Path) -> None:
    """Unpack the packages; the program is told where its loader and its libraries are."""
    if not apt.available():
        raise SetupError(f"Install python{VERSION}: there is no apt to fetch a private one.")
    source = apt.Apt(folder / "apt", run, SUITE)
    source.update()
    apt.unpack(source.download(*PACKAGES), folder)
    shutil.rmtree(folder / "apt")
    loader = next(folder.glob("usr/lib/*/ld-linux-*.so.*"))
    program = str(folder / "usr/bin" / f"python{VERSION}")
    command = [str(loader), "--library-path", str(loader.parent), str(folder / "usr/bin/patchelf")]
    # Unlike a RUNPATH, an RPATH holds for what the libraries need, too. It comes first: this
    # patchelf breaks the program when it sets both at once or the other before.
    rpath = f"$ORIGIN/../lib/{loader.parent.name}"
    argv = [*command, "--force-rpath", "--set-rpath", rpath, program]
    run(f"tell python{VERSION} where its libraries are", argv, folder)
    argv = [*command, "--set-interpreter", str(loader), program]
    run(f"tell python{VERSION} where its loader is", argv, folder)


def _runs(python: str, code: str) -> bool:
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0
