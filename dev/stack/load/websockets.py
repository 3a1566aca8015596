"""Many websockets of an evented process, as as many browser tabs have them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..servers import Odoo, PostgreSQL, ServerError, until

if TYPE_CHECKING:
    from typing_extensions import Self

TYPE = "stack/told"  # of the notifications
CHANNEL = "broadcast"  # all subscribe to it
SESSION_EXPIRED, TRY_LATER = 4001, 1013  # the browser shows the login page, or comes again
_AT_ONCE = 16  # handshakes: each takes one of few connections to the database for a moment
_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10


class Tabs(threading.Thread):
    """Websockets that stay, and come again as the web client's do: later each time, by chance.

    Each knows of a notification from before: without that, one that comes again after 50 seconds is
    not given what it missed.

    :param node: that serves them
    :param sids: of sessions; each is used by several websockets if there are fewer of them
    :param count: how many websockets
    :ivar told: when each websocket got a notification first (monotonic, seconds), by what it says
    :ivar closed: how often the server closed one, by code
    :ivar refused: how often it refused a handshake, by HTTP status; or the name of an error
    :ivar opened: how many handshakes succeeded
    """

    def __init__(self, node: Odoo, postgres: PostgreSQL, sids: Sequence[str], count: int) -> None:
        super().__init__(daemon=True)
        self.node, self.postgres, self.sids, self.count = node, postgres, sids, count
        self.told: dict[str, dict[int, float]] = {}
        self.closed: Counter[int | None] = Counter()
        self.refused: Counter[int | str] = Counter()
        self.opened = self.open = 0
        self.loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        self._last = self._write("from before")
        self.start()
        until(lambda: self.open == self.count, "all websockets", 60 + self.count / 20)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.loop.call_soon_threadsafe(self._all.cancel)
        self.join()

    def run(self) -> None:
        async def stay() -> None:
            self._turns = asyncio.Semaphore(_AT_ONCE)
            await asyncio.gather(*(self._stay(number) for number in range(self.count)))

        self._all = self.loop.create_task(stay())
        with contextlib.suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self._all)

    def tell(self, text: str) -> float:
        """Have a notification sent to all of them, as the model ``bus.bus`` does; when."""
        self.told[text] = {}
        self._write(text)
        began = time.monotonic()
        self.postgres.sql("postgres", f"SELECT pg_notify('imbus', '[{self._channel}]')")
        return began

    @property
    def _channel(self) -> str:
        return json.dumps([self.node.database, CHANNEL], separators=(",", ":"))

    def _write(self, text: str) -> int:
        """Write a notification down; its number."""
        message = json.dumps({"type": TYPE, "payload": text})
        values = f"'{self._channel}', '{message}', now() AT TIME ZONE 'UTC'"
        columns = "channel, message, create_date"
        insert = f"INSERT INTO bus_bus ({columns}) VALUES ({values}) RETURNING id"
        return int(self.postgres.sql(self.node.database, insert).split()[0])

    async def _stay(self, number: int) -> None:
        delay, last = 1.0, self._last
        while True:
            try:
                async with self._turns:
                    reader, writer = await self._connect(self.sids[number % len(self.sids)])
            except (OSError, ServerError, asyncio.IncompleteReadError) as error:
                self.refused[getattr(error, "status", type(error).__name__)] += 1
            else:
                self.opened += 1
                self.open += 1
                delay = 1.0
                try:
                    subscribe = {"channels": [], "last": last}
                    _send(writer, json.dumps({"event_name": "subscribe", "data": subscribe}))
                    code, last = await self._listen(number, reader, writer, last)
                    self.closed[code] += 1
                    if code == SESSION_EXPIRED:
                        return
                finally:
                    self.open -= 1
                    writer.close()
            delay = min(delay * 1.5, 60) + random.random()
            await asyncio.sleep(delay)

    async def _connect(self, sid: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.node.websocket.split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            "GET /websocket HTTP/1.1",
            f"Host: {host}:{port}",
            f"Origin: http://{host}:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            f"Cookie: session_id={sid}",
        )
        writer.write("\r\n".join([*lines, "", ""]).encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        status = int(answer.split(b" ", 2)[1])
        if status != 101:
            writer.close()
            raise Refused(status)
        return reader, writer

    async def _listen(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, last: int
    ) -> tuple[int | None, int]:
        """Read until it is closed; the code, and the last notification's number."""
        try:
            while True:
                first, second = await reader.readexactly(2)
                length = second & 127
                if length > 125:
                    size = 2 if length == 126 else 8
                    length = int.from_bytes(await reader.readexactly(size), "big")
                data = await reader.readexactly(length)
                opcode = first & 15
                if opcode == _PING:
                    _send(writer, data, _PONG)
                elif opcode == _CLOSE:
                    _send(writer, data[:2], _CLOSE)
                    return int.from_bytes(data[:2], "big"), last
                elif opcode == _TEXT:
                    for notification in json.loads(data):
                        last = max(last, notification["id"])
                        message: Any = notification["message"]
                        if message["type"] == TYPE:
                            times = self.told.setdefault(message["payload"], {})
                            times.setdefault(number, time.monotonic())
        except (OSError, asyncio.IncompleteReadError):
            return None, last


class Refused(ServerError):
    """A handshake was answered with another status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


def _send(writer: asyncio.StreamWriter, data: str | bytes, opcode: int = _TEXT) -> None:
    """Write one masked frame."""
    data = data.encode() if isinstance(data, str) else data
    length = bytes([128 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    writer.write(bytes([128 | opcode]) + length + bytes(4) + data)  # masked with nothing
