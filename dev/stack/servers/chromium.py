"""A real browser: tabs that share their cookies, and run what they are told."""

from __future__ import annotations

import base64
import itertools
import json
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import websocket

from ..provision import environment
from .process import LOOPBACK, Server, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
_PATIENCE = 30  # seconds
FETCH = """fetch({path}, {options}).then(async answer => [answer.status, await answer.text()])"""


class Chromium(Server):
    """Its profile is in its folder."""

    def __init__(self, folder: Path | str) -> None:
        super().__init__("chromium", folder)

    def command(self) -> list[str]:
        profile = self.folder / "profile"
        options = ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        return [str(environment.browser()), *_FLAGS, *options]

    @property
    def _port_file(self) -> Path:
        return self.folder / "profile" / "DevToolsActivePort"

    def ready(self) -> bool:
        return self._port_file.exists() and len(self._port_file.read_text().split()) == 2

    def wait(self) -> Self:
        super().wait()
        port, path = self._port_file.read_text().split()
        self._devtools = DevTools(f"ws://{LOOPBACK}:{port}{path}")
        return self

    def profile(self) -> str:
        """Another person's browser: it has no cookies yet."""
        profile: str = self._devtools.call("Target.createBrowserContext")["browserContextId"]
        return profile

    def tab(self, url: str, profile: str) -> Tab:
        """A tab that shows a page; of one profile, tabs share their cookies."""
        tools = self._devtools
        target = tools.call("Target.createTarget", url="about:blank", browserContextId=profile)
        attached = tools.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(tools, attached["sessionId"])
        tab.open(url)
        return tab


class DevTools:
    """Chromium's protocol, over one websocket."""

    def __init__(self, url: str) -> None:
        self._socket = websocket.create_connection(url, suppress_origin=True, timeout=None)
        self._numbers = itertools.count(1)
        self._answers: dict[int | None, Future[Any]] = {}
        self.loaded: dict[str, threading.Event] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def begin(self, method: str, tab: str = "", **params: object) -> Future[Any]:
        """Send a command; the future of its answer."""
        number, answer = next(self._numbers), Future[Any]()
        self._answers[number] = answer
        message = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps({**message, **({"sessionId": tab} if tab else {})}))
        return answer

    def call(self, method: str, tab: str = "", **params: object) -> Any:
        """Send a command, and wait for its answer."""
        return self.begin(method, tab, **params).result(_PATIENCE)

    def _read(self) -> None:
        while True:
            try:
                message = json.loads(self._socket.recv())
            except (OSError, websocket.WebSocketException):  # the browser was stopped
                return
            if message.get("method") == "Page.loadEventFired":
                self.loaded[message["sessionId"]].set()
            if answer := self._answers.pop(message.get("id"), None):
                if "error" in message:
                    answer.set_exception(AssertionError(message["error"]))
                else:
                    answer.set_result(message["result"])


class Tab:
    """A page that is shown, from which requests go out with the browser's cookies."""

    def __init__(self, tools: DevTools, session: str) -> None:
        self._tools, self._session = tools, session
        tools.loaded[session] = threading.Event()
        tools.call("Page.enable", session)

    def open(self, url: str) -> None:
        """Show a page."""
        loaded = self._tools.loaded[self._session]
        loaded.clear()
        self._tools.call("Page.navigate", self._session, url=url)
        assert loaded.wait(_PATIENCE)

    def resize(self, width: int, height: int) -> None:
        """Show the page on another screen; a narrow one is a phone's."""
        self._tools.call(
            "Emulation.setDeviceMetricsOverride", self._session,
            width=width, height=height, deviceScaleFactor=1, mobile=width < 768,
        )  # fmt: skip

    def screenshot(self, path: Path) -> None:
        """Write a PNG of what is shown."""
        shown = self._tools.call("Page.captureScreenshot", self._session, format="png")
        path.write_bytes(base64.b64decode(shown["data"]))

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key: its name, its code, and what it writes."""
        for kind in ("keyDown", "keyUp"):
            self._tools.call(
                "Input.dispatchKeyEvent", self._session,
                type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text,
            )  # fmt: skip

    def evaluate(self, expression: str) -> Any:
        """The value of JavaScript; of a promise, what it gives."""
        return self._begin(expression)()

    def until(self, expression: str, seconds: float = _PATIENCE) -> None:
        """Wait until JavaScript is true."""
        until(lambda: self.evaluate(f"!!({expression})"), expression, seconds)

    def begin(self, path: str, **options: object) -> Callable[[], Any]:
        """Begin a request; a function that waits for its status and text."""
        return self._begin(FETCH.format(path=json.dumps(path), options=json.dumps(options)))

    def get(self, path: str) -> Any:
        """Status and text."""
        return self.begin(path)()

    def call(self, path: str, **params: object) -> Any:
        """A JSON-RPC call; the answer."""
        body = json.dumps({"jsonrpc": "2.0", "method": "call", "params": params})
        headers = {"Content-Type": "application/json"}
        status, text = self.begin(path, method="POST", headers=headers, body=body)()
        assert status == 200, text
        return json.loads(text)

    def login(self, database: str, login: str = "admin", password: str = "admin") -> Any:
        """With a password; the uid."""
        account = {"login": login, "password": password}
        return self.call("/web/session/authenticate", db=database, **account)["result"]["uid"]

    def logout(self) -> None:
        """End the session."""
        self.call("/web/session/destroy")

    def uid(self) -> Any:
        """Who the node takes the browser for; None if nobody."""
        return self.call("/web/session/get_session_info").get("result", {}).get("uid")

    def _begin(self, expression: str) -> Callable[[], Any]:
        answer = self._tools.begin(
            "Runtime.evaluate",
            self._session,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )

        def wait() -> Any:
            result = answer.result(_PATIENCE)
            assert "exceptionDetails" not in result, result
            return result["result"].get("value")

        return wait
