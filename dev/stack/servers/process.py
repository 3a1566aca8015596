"""A server process of the development stack: started, paused, killed, and never left behind.

Each runs in a process group of its own. Whatever happens to this process, none survives it: an
`atexit` hook stops them, and a guardian process ends them if this one is killed. (PR_SET_PDEATHSIG
would not do: it follows the thread that started the server, and spares grandchildren.)
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from typing_extensions import Self

LOOPBACK = "127.0.0.1"

_given: set[int] = set()


class ServerError(Exception):
    """A server did not start, or died; the message ends with the tail of its log."""


def free_port() -> int:
    """A loopback port that nobody listens on, and that was not given out before.

    Of the processes of pytest-xdist each has ports of its own: a server that a test stops and
    starts finds its port free.
    """
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        # Linux gives ports of one parity only.
        if port not in _given and port // 2 % count == number:
            _given.add(port)
            return port


def answers_http(url: str) -> bool:
    """Whether a web server answers there, were it with an error."""
    try:
        # Without the proxies of the environment: this is the loopback interface.
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def listens(port: int) -> bool:
    """Whether something accepts connections on a port of the loopback interface."""
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
        return True
    return False


def until(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Wait for something; ServerError if it does not happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ServerError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.05)


class Server:
    """A process with a folder and a log. Subclasses say how to run it and when it is ready."""

    stop_signal = signal.SIGTERM
    timeout = 30.0  # seconds it may take to start
    grace = 10.0  # seconds it may take to stop

    def __init__(self, name: str, folder: Path | str) -> None:
        self.name, self.folder = name, Path(folder).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The command line; may write the configuration it names."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """The environment variables of the process."""
        return dict(os.environ)

    def options(self) -> dict[str, Any]:
        """More arguments of `subprocess.Popen`."""
        return {"cwd": self.folder}

    def ready(self) -> bool:
        """Whether it serves; asked until it does."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        """Whether the process is there (paused included)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process's id, also its group's; of the last one if it is gone."""
        if self._process is None:
            raise ServerError(f"{self.name} was never started")
        return self._process.pid

    def start(self) -> Self:
        """Start, and wait until it serves."""
        return self.launch().wait()

    def launch(self) -> Self:
        """Start without waiting: `launch` several, then `wait` for each."""
        if self.running:
            return self
        argv = self.command()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self.environment(), start_new_session=True, **self.options(),
            )  # fmt: skip
        _guardian.watch(self)
        return self

    def wait(self) -> Self:
        """Wait until it serves; ServerError if it dies or takes more than `timeout` seconds."""
        deadline = time.monotonic() + self.timeout
        while not (self.ready() and self.running):  # another server may answer on its port
            if not self.running:
                code = self._process.returncode if self._process else None
                self._forget()
                raise ServerError(f"{self.name} died at start (exit code {code}).{self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                message = f"{self.name} did not start within {self.timeout:.0f} s."
                raise ServerError(message + self.tail())
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """Ask it to stop; kill it, and whatever it leaves in its group, after `grace` seconds."""
        if self._process is None:
            return
        if self.running:
            self.resume()
            self._process.send_signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(self.grace)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group; returns when it is gone."""
        if self._process is None:
            return
        members = self._signal(signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + 5
        while any(alive(pid) for pid in members) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._forget()

    def pause(self) -> None:
        """SIGSTOP to the whole group: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to the whole group."""
        self._signal(signal.SIGCONT)

    def tail(self, lines: int = 20) -> str:
        """The end of the log, indented."""
        with contextlib.suppress(OSError):
            text = self.log.read_text(errors="replace").splitlines()[-lines:]
            return "".join(f"\n    {line}" for line in (f"{self.log}:", *text))
        return ""

    def _signal(self, number: signal.Signals) -> list[int]:
        """Signal the group, and descendants in groups of their own (PostgreSQL has); all ids."""
        members = _family(self.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return members

    def _forget(self) -> None:
        _guardian.forget(self)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} in {self.folder}>"


def start_all(*servers: Server) -> None:
    """Start several at once; if one fails, all are stopped."""
    try:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()
    except BaseException:
        stop_all(*servers)
        raise


def stop_all(*servers: Server) -> None:
    """Stop several, the last first."""
    for server in reversed(servers):
        server.stop()


def kill_all(*servers: Server) -> None:
    """Kill several: asked to stop, a Redis waits for replicas that may be gone."""
    for server in servers:
        server.kill()


def _family(leader: int) -> list[int]:
    """The processes of a group and their descendants."""
    family: set[int] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == leader:
                family |= {process.pid, *(child.pid for child in process.children(recursive=True))}
    return sorted(family)


def alive(pid: int) -> bool:
    """Whether a process is there, or threads that outlive its first one and keep its sockets."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        gone = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return not gone or process.num_threads() > 1
    return False


class Together:
    """Several servers: a context in which all run."""

    def start(self) -> Self:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Guardian:
    """Ends what still runs when this process goes: by `atexit`, or from outside if it is killed."""

    SCRIPT = """
import os, signal, sys, time
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
def send(number):
    for group in list(groups):
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            groups.discard(group)
send(signal.SIGCONT)
send(signal.SIGINT)
deadline = time.monotonic() + 3
while groups and time.monotonic() < deadline:
    time.sleep(0.05)
    send(0)
send(signal.SIGKILL)
"""

    def __init__(self) -> None:
        self._servers: dict[int, Server] = {}
        self._owner = 0
        self._process: subprocess.Popen[str] | None = None

    def watch(self, server: Server) -> None:
        if self._owner != os.getpid():  # the first time, or in a fork
            self._owner, self._servers = os.getpid(), {}
            argv = [sys.executable, "-c", self.SCRIPT]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(argv, stdin=pipe, text=True, start_new_session=True)
            atexit.register(self.close)
        self._servers[server.pid] = server
        self._tell(f"+{server.pid}")

    def forget(self, server: Server) -> None:
        if self._owner == os.getpid() and server.pid in self._servers:
            del self._servers[server.pid]
            self._tell(f"-{server.pid}")

    def close(self) -> None:
        if self._owner == os.getpid() and self._process:
            stop_all(*self._servers.values())
            self._process.communicate()

    def _tell(self, line: str) -> None:
        pipe = self._process.stdin if self._process else None
        with contextlib.suppress(BrokenPipeError):
            if pipe:
                pipe.write(f"{line}\n")
                pipe.flush()


_guardian = _Guardian()
