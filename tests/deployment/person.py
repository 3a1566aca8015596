"""A person's browser at nginx, which may ask a node directly as well."""

import json
import re
import time

import requests
import websocket
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

PATIENCE = 60


class Person:
    """Keeps one session.

    :param nginx: ``stack.deployment.Balancer``
    """

    def __init__(self, nginx):
        self.nginx = nginx
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.verify = nginx.authority
        # As browsers do where nginx, at its reload, closes a connection that it kept open.
        again = Retry(total=1, connect=0, read=1, status=0, other=0, allowed_methods=None)
        self.http.mount("https://", HTTPAdapter(max_retries=again))

    @property
    def sid(self):
        return self.http.cookies.get("session_id")

    def get(self, path, *, node=None, **options):
        """By way of nginx, or from a node."""
        return self._request("GET", path, node, **options)

    def post(self, path, *, node=None, **options):
        return self._request("POST", path, node, **options)

    def _request(self, method, path, node, **options):
        options = {"timeout": PATIENCE, "allow_redirects": False, **options}
        if node is None:
            return self.http.request(method, self.nginx.url + path, **options)
        # A node is asked over HTTP, to which a secure cookie is not sent.
        cookies = {"session_id": self.sid} if self.sid else {}
        url = f"http://127.0.0.1:{node.http_port}{path}"
        with requests.Session() as http:
            http.trust_env = False
            return http.request(method, url, cookies=cookies, **options)

    def login(self, login, password):
        """By the form."""
        page = self.get("/web/login")
        assert page.status_code == 200, page.text[:500]
        form = {"login": login, "password": password, "csrf_token": self.token(page)}
        answer = self.post("/web/login", data=form)
        assert answer.status_code in (302, 303), answer.text[:500]

    def token(self, page=None, *, node=None):
        """What a form needs."""
        text = (page or self.get("/odoo", node=node)).text
        return re.search(r'csrf_token(?:"?: |" value=)"(\w+)"', text)[1]

    def rpc(self, path, *, node=None, **params):
        """The result of a route that speaks JSON-RPC."""
        body = {"jsonrpc": "2.0", "method": "call", "params": params}
        response = self.post(path, node=node, json=body)
        assert response.status_code == 200, response.text[:500]
        answer = response.json()
        assert "error" not in answer, answer["error"]
        return answer.get("result")

    def call(self, model, method, *args, node=None, **kwargs):
        """The result of a method, as the web client calls it."""
        params = {"model": model, "method": method, "args": args, "kwargs": kwargs}
        return self.rpc(f"/web/dataset/call_kw/{model}/{method}", node=node, **params)

    def install(self, module, *, node=None):
        """Install a module; Odoo refuses while a job runs, and says to come again."""
        [found] = self.call("ir.module.module", "search", [["name", "=", module]], node=node)
        for _attempt in range(60):
            try:
                return self.call("ir.module.module", "button_immediate_install", [found], node=node)
            except AssertionError as error:
                if "processing a scheduled action" not in str(error):
                    raise
            time.sleep(1)
        raise AssertionError(f"{module} is not installed: there is a job all the time")

    def websocket(self):
        """An open websocket, by way of nginx."""
        connection = websocket.create_connection(
            f"{self.nginx.url.replace('https', 'wss')}/websocket?version=",
            cookie=f"session_id={self.sid}",
            origin=self.nginx.url,
            timeout=PATIENCE,
            sslopt={"ca_certs": self.nginx.authority},
        )
        connection.send(
            json.dumps({"event_name": "subscribe", "data": {"channels": [], "last": 0}})
        )
        return connection
