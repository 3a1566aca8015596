"""Parts of the private folder: each is built once, aside, and put in place in one step."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .apt import SetupError

CHECKOUT = Path(__file__).resolve().parents[3]


def home() -> Path:
    """The private folder."""
    return Path(os.environ.get("ODOO_DEV_HOME") or CHECKOUT / ".dev").resolve()


def private() -> bool:
    """Whether to do without the programs of the machine."""
    return bool(os.environ.get("ODOO_DEV_PRIVATE"))


def part(
    name: str, inputs: str, parent: Path, make: Callable[[Path], None], *, in_place: bool = False
) -> Path:
    """The folder `parent/name`, made by `make` if it is absent or was made from other inputs.

    `make` gets a temporary folder and leaves the part in its `result`; with `in_place` (a
    virtualenv cannot be moved) it gets the final folder, made anew. The stamp is written last.
    """
    target, stamp = parent / name, parent / f"{name}.stamp"
    key = hashlib.sha256(inputs.encode()).hexdigest()
    if target.exists() and _stamped(stamp, key):
        return target
    parent.mkdir(parents=True, exist_ok=True)
    with _lock(parent / f"{name}.lock"):
        if target.exists() and _stamped(stamp, key):  # another process was making it
            return target
        if Path(sys.prefix) == target:
            raise SetupError(
                "The virtualenv is out of date: run dev/setup with the machine's Python."
            )
        stamp.unlink(missing_ok=True)
        work = target if in_place else parent / f"{name}.new"
        for old in (target, work):
            if old.exists():
                shutil.rmtree(old)
        if not in_place:
            work.mkdir()
        make(work)
        if not in_place:
            (work / "result").replace(target)
            shutil.rmtree(work)
        write(stamp, key)
    return target


def _stamped(stamp: Path, key: str) -> bool:
    with contextlib.suppress(OSError):
        return stamp.read_text() == key
    return False


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another setup is at work: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file in one step, if its content changes."""
    with contextlib.suppress(OSError):
        if path.read_text() == text:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.chmod(mode)
    temporary.replace(path)


def run(title: str, argv: list[str], folder: Path) -> None:
    """Run a command in `folder`, its output in a log whose end is shown when it fails."""
    logs = home() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{title.replace('/', '-')[:60]}.log"
    start = last = time.monotonic()
    _say(f"{title} ...")
    with log.open("wb") as out:
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(argv, cwd=folder, stdin=nothing, stdout=out, stderr=out)
        try:
            while process.poll() is None:
                time.sleep(0.05)
                if time.monotonic() - last > 5:
                    last = time.monotonic()
                    _say(f"    {last - start:.0f} s, {_megabytes(folder)} MB")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        tail = "\n    ".join(log.read_text(errors="replace").splitlines()[-15:])
        raise SetupError(f"{title} failed ({shlex.join(argv)}):\n    {tail}\nThe whole log: {log}")


def _megabytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size
    return total // 2**20


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
