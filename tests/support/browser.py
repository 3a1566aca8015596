"""A person's browser, as far as these tests need one."""

import time

import requests
import websocket

# Without a version, as an IoT device's page says it.
SUBSCRIBE = '{"event_name": "subscribe", "data": {"channels": [], "last": 0}}'


class Browser:
    """Keeps cookies between requests to several nodes, as it would behind a load balancer."""

    def __init__(self, database=None):
        self.database = database
        self.http = requests.Session()
        self.http.trust_env = False

    @property
    def sid(self):
        return self.http.cookies.get("session_id")

    @sid.setter
    def sid(self, sid):
        self.http.cookies.clear()
        self.http.cookies.set("session_id", sid, domain="127.0.0.1")

    def get(self, node, path, **options):
        return self.http.get(node.url + path, allow_redirects=False, timeout=30, **options)

    def post(self, node, path, **params):
        """A JSON-RPC call; the whole response."""
        body = {"jsonrpc": "2.0", "method": "call", "params": params}
        return self.http.post(node.url + path, json=body, timeout=30)

    def call(self, node, path, **params):
        """A JSON-RPC call; its result, or an assertion that shows the error."""
        response = self.post(node, path, **params)
        assert response.status_code == 200, response.text
        answer = response.json()
        assert "error" not in answer, answer["error"]
        return answer.get("result")

    def login(self, node, login="admin", password="admin"):
        """Log in with a password; the uid."""
        path = "/web/session/authenticate"
        return self.call(node, path, db=self.database, login=login, password=password)["uid"]

    def uid(self, node):
        """Who the node takes this browser for; None if nobody."""
        response = self.post(node, "/web/session/get_session_info")
        assert response.status_code == 200, response.text
        answer = response.json()
        if "error" in answer:
            assert answer["error"]["code"] == 100, answer  # session expired
            return None
        return answer["result"]["uid"]

    def is_logged_in(self, node):
        """The same, by a request that does not save the session."""
        response = self.post(node, "/web/session/check")
        # Without a session, a node of several databases does not know the route.
        return response.status_code == 200 and "error" not in response.json()

    def websocket(self, node):
        """An open, subscribed websocket."""
        connection = websocket.create_connection(
            f"ws://{node.websocket}/websocket",
            cookie=f"session_id={self.sid}",
            origin=node.url,
            timeout=20,
        )
        connection.send(SUBSCRIBE)
        return connection


def is_served(connection):
    """Whether the process at its other end looks after a websocket now; it need not ask Redis."""
    start = time.monotonic()
    connection.ping()
    answer, _payload = connection.recv_data(control_frame=True)
    return answer == websocket.ABNF.OPCODE_PONG and time.monotonic() - start < 0.5


def close_code(connection):
    """The code a websocket is closed with; None if it just ends."""
    try:
        while True:
            opcode, data = connection.recv_data()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return int.from_bytes(data[:2], "big")
    except (websocket.WebSocketConnectionClosedException, ConnectionError):
        return None
