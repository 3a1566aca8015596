"""TCP proxies before a server: one breaks connections as networks do, one refuses commands, one
gives wrong answers."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import hiredis

from .process import LOOPBACK

_MORE = object()  # is wanted, of a command or an answer
_POLL = 0.02  # seconds, until it sees that it is to end
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: an end without a goodbye


class Proxy(socketserver.ThreadingTCPServer):
    """Passes bytes between clients and a server on loopback.

    `mode` is "pass", "reset" (RST on data), "reset once", "cut" (close in the middle of an answer),
    "hole" (never answer), or "refuse" (RST for every connection, counted in `refused`).

    :param delay: seconds that each answer is late
    :param rate: bytes a second of each answer, in drops; 0: all there is
    :param rewrite: changes the server's answers
    :param hold: is told of what passes, and returns when it may: the bytes, the client's socket,
        and whether they are an answer
    """

    allow_reuse_address = daemon_threads = True
    request_queue_size = 1000

    def __init__(self, port: int, *, rewrite: Callable[[bytes], bytes] = bytes) -> None:
        self.target, self.mode, self.delay, self.rewrite = port, "pass", 0.0, rewrite
        self.hold: Callable[[bytes, socket.socket, bool], None] | None = None
        self.refused = self.rate = 0
        super().__init__((LOOPBACK, 0), socketserver.BaseRequestHandler)
        self.port = int(self.server_address[1])
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        threading.Thread(target=self.serve_forever, args=(_POLL,), daemon=True).start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.mode == "refuse":
            self.refused += 1
            self._reset(request)
            return
        with (
            contextlib.suppress(OSError),
            socket.create_connection((LOOPBACK, self.target)) as server,
        ):
            for end in (request, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pump, args=(request, server), daemon=True).start()
            self._pump(server, request, answering=True)

    def _pump(self, source: Any, sink: Any, answering: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.hold:
                    self.hold(data, sink if answering else source, answering)
                if self.mode == "hole":
                    continue
                if self.mode in {"reset", "reset once", "refuse"}:
                    self.mode = "pass" if self.mode == "reset once" else self.mode
                    self._reset(source, sink)
                    return
                if answering:
                    time.sleep(self.delay)
                    data = self.rewrite(data)
                    if self.mode == "cut":
                        sink.sendall(data[: len(data) // 2])
                        break
                while answering and self.rate and data:
                    drop, data = data[: self.rate // 20], data[self.rate // 20 :]
                    sink.sendall(drop)
                    time.sleep(0.05)
                sink.sendall(data)
            for end in (source, sink):
                end.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _reset(*ends: Any) -> None:
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()

    def server_close(self) -> None:
        self.shutdown()
        super().server_close()


class StrictProxy(Proxy):
    """A proxy that knows the protocol and refuses commands, as those of managed services do.

    :param answer: gives the answer to a command in its first words, such as ``b"-ERR no\\r\\n"``;
        b"" to hang up; None to ask the server
    """

    def __init__(self, port: int, answer: Callable[[list[bytes]], bytes | None]) -> None:
        self.answer = answer
        super().__init__(port)

    def finish_request(self, request: Any, client_address: Any) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((LOOPBACK, self.target)) as server,
        ):
            commands = hiredis.Reader(notEnoughData=_MORE)
            while data := request.recv(65536):
                commands.feed(data)
                while (command := commands.gets()) is not _MORE:
                    given = self.answer(command)
                    if given == b"":
                        request.shutdown(socket.SHUT_RDWR)
                        return
                    request.sendall(given or self._ask(server, command))

    def _ask(self, server: socket.socket, command: list[bytes]) -> bytes:
        server.sendall(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]
        reader, answer = hiredis.Reader(notEnoughData=_MORE), b""
        while reader.gets() is _MORE:
            data = server.recv(65536)
            if not data:
                raise OSError("closed")
            reader.feed(data)
            answer += data
        return answer


class LyingProxy(StrictProxy):
    """A proxy that gives well-formed answers, which are wrong, to chosen commands::

        with LyingProxy(redis.port) as proxy:
            proxy.lies["HGET"] = b":5\\r\\n"          # to each HGET
            proxy.lies["CLUSTER SLOTS"] = b"*0\\r\\n"  # of a command with others under its name
            proxy.lies[script.sha] = b"+OK\\r\\n"      # to one script, by EVALSHA and by EVAL
            proxy.lies.clear()                      # tells the truth again

    Its clients have its `url`. What was lied about is counted in `told`, by the key of `lies`.

    :param forwards: whether the server is asked all the same, and does what it was told; only the
        answer is then another
    """

    def __init__(self, port: int, *, forwards: bool = True) -> None:
        self.lies: dict[str, bytes] = {}
        self.told: Counter[str] = Counter()
        self.forwards = forwards
        super().__init__(port, lambda command: None if self.forwards else self._lie(command))

    def _lie(self, command: list[bytes]) -> bytes | None:
        words = [word.decode(errors="replace") for word in command[:2]]
        names = [words[0].upper(), " ".join(words).upper()]
        if names[0] == "EVALSHA":
            names.append(words[1])
        elif names[0] == "EVAL":
            names.append(hashlib.sha1(command[1], usedforsecurity=False).hexdigest())
        for name in names:
            if name in self.lies:
                self.told[name] += 1
                return self.lies[name]
        return None

    def _ask(self, server: socket.socket, command: list[bytes]) -> bytes:
        answer = super()._ask(server, command)
        return answer if (lie := self._lie(command)) is None else lie
