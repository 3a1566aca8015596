"""A real browser: tabs that share their cookies, and run what they are told."""

import itertools
import json
import threading
from concurrent.futures import Future

import websocket

from stack.provision import environment
from stack.servers import Server
from stack.servers.process import LOOPBACK

_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
_PATIENCE = 30  # seconds
FETCH = """fetch({path}, {options}).then(async answer => [answer.status, await answer.text()])"""


class Chromium(Server):
    """Started for a test; its profile is in its folder."""

    def command(self):
        profile = self.folder / "profile"
        options = ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        return [str(environment.browser()), *_FLAGS, *options]

    @property
    def _port_file(self):
        return self.folder / "profile" / "DevToolsActivePort"

    def ready(self):
        return self._port_file.exists() and len(self._port_file.read_text().split()) == 2

    def wait(self):
        super().wait()
        port, path = self._port_file.read_text().split()
        self._devtools = DevTools(f"ws://{LOOPBACK}:{port}{path}")
        return self

    def profile(self):
        """Another person's browser: it has no cookies yet."""
        return self._devtools.call("Target.createBrowserContext")["browserContextId"]

    def tab(self, url, profile):
        """A tab that shows a page; of one profile, tabs share their cookies."""
        tools = self._devtools
        target = tools.call("Target.createTarget", url="about:blank", browserContextId=profile)
        attached = tools.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(tools, attached["sessionId"])
        tab.open(url)
        return tab


class DevTools:
    """Chromium's protocol, over one websocket."""

    def __init__(self, url):
        self._socket = websocket.create_connection(url, suppress_origin=True, timeout=None)
        self._numbers, self._answers, self.loaded = itertools.count(1), {}, {}
        threading.Thread(target=self._read, daemon=True).start()

    def begin(self, method, tab=None, **params):
        """Send a command; the future of its answer."""
        number, answer = next(self._numbers), Future()
        self._answers[number] = answer
        message = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps({**message, **({"sessionId": tab} if tab else {})}))
        return answer

    def call(self, method, tab=None, **params):
        """Send a command, and wait for its answer."""
        return self.begin(method, tab, **params).result(_PATIENCE)

    def _read(self):
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

    def __init__(self, tools, session):
        self._tools, self._session = tools, session
        tools.loaded[session] = threading.Event()
        tools.call("Page.enable", session)

    def open(self, url):
        """Show a page."""
        loaded = self._tools.loaded[self._session]
        loaded.clear()
        self._tools.call("Page.navigate", self._session, url=url)
        assert loaded.wait(_PATIENCE)

    def begin(self, path, **options):
        """Begin a request; a function that waits for its status and text."""
        expression = FETCH.format(path=json.dumps(path), options=json.dumps(options))
        answer = self._tools.begin(
            "Runtime.evaluate",
            self._session,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )

        def wait():
            result = answer.result(_PATIENCE)
            assert "exceptionDetails" not in result, result
            return result["result"]["value"]

        return wait

    def get(self, path):
        """Status and text."""
        return self.begin(path)()

    def call(self, path, **params):
        """A JSON-RPC call; the answer."""
        body = json.dumps({"jsonrpc": "2.0", "method": "call", "params": params})
        headers = {"Content-Type": "application/json"}
        status, text = self.begin(path, method="POST", headers=headers, body=body)()
        assert status == 200, text
        return json.loads(text)

    def login(self, database):
        """As the administrator; the uid."""
        account = {"login": "admin", "password": "admin"}
        return self.call("/web/session/authenticate", db=database, **account)["result"]["uid"]

    def logout(self):
        """End the session."""
        self.call("/web/session/destroy")

    def uid(self):
        """Who the node takes the browser for; None if nobody."""
        return self.call("/web/session/get_session_info").get("result", {}).get("uid")
