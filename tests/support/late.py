"""A reverse proxy between a browser and a node, where an answer may be late, or lost."""

import contextlib
import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PATIENCE = 30  # seconds
_OF_ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "upgrade"}


class Held:
    """The next answer to a path: the node has given it, and the browser does not have it yet."""

    def __init__(self):
        self.is_given, self._go, self._lost = threading.Event(), threading.Event(), False

    def wait(self):
        """Until the node has answered."""
        assert self.is_given.wait(PATIENCE)

    def pass_on(self):
        """Let the browser have it."""
        self._go.set()

    def lose(self):
        """Answer 502 in its place, as a proxy does whose connection broke."""
        self._lost = True
        self._go.set()

    def is_lost(self):
        """Whether it never comes; waits until that is known."""
        self.is_given.set()
        assert self._go.wait(PATIENCE)
        return self._lost


class LateProxy(ThreadingHTTPServer):
    """Passes requests to a node."""

    daemon_threads = True

    def __init__(self, node):
        self.node, self._held = node, {}
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def hold(self, path):
        """Keep the next answer to a path, which may have a query."""
        self._held[path] = held = Held()
        return held

    def pop(self, path):
        return self._held.pop(path, None)

    def server_close(self):
        self.shutdown()
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _pass(self):
        host, _colon, port = self.server.node.address.partition(":")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        node = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        with contextlib.closing(node):
            headers = {n: v for n, v in self.headers.items() if n.lower() not in _OF_ONE_HOP}
            node.request(self.command, self.path, body or None, headers)
            answer = node.getresponse()
            content = answer.read()
        held = self.server.pop(self.path)
        if held and held.is_lost():
            self.send_response(502)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        with contextlib.suppress(OSError):  # the browser has left
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _OF_ONE_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = _pass

    def log_message(self, *_arguments):
        pass
