"""What one person does in Odoo: the same requests each time, every answer checked.

Needs `requests` alone. For a database with the modules in `MODULES`::

    client = Client("http://127.0.0.1:8069", "shop")
    client.login()
    seconds = sum(answer.seconds for answer in client.passage())
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import requests

MODULES = ["sale_management", "crm", "website_sale", "stock", "project", "hr", "account"]
MODELS = [
    "sale.order", "crm.lead", "product.template", "stock.picking", "project.task", "account.move",
]  # fmt: skip
VIEWS = ["kanban", "list", "form", "search"]
RELATIONS = {"many2one", "one2many", "many2many"}
LEFT_OUT = {"reference", "properties", "properties_definition"}  # they are read in other ways
HOST = "shop.example.com"  # behind a load balancer, all nodes go by one name
TIMEOUT = 120  # seconds, a first compilation of the assets included
_assets = re.compile(r'(?:src|href)="(/web/assets/[^"]+)"').findall


class JourneyError(Exception):
    """An answer is not what it should be."""


@dataclass(frozen=True)
class Answer:
    """A request and its answer, which was right.

    :param seconds: from sending the request to having read the whole answer
    """

    name: str
    seconds: float
    response: requests.Response


class Client:
    """A browser of somebody logged in, and one of a visitor of the website.

    :param url: of the server; may be changed between passages, cookies are kept
    """

    def __init__(self, url: str, database: str) -> None:
        self.url, self.database = url, database
        self._user, self._visitor = requests.Session(), requests.Session()
        for browser in (self._user, self._visitor):
            browser.trust_env = False  # no proxies
            browser.headers["Host"] = HOST
        self._pages: list[str] = []

    def login(self, login: str = "admin", password: str = "admin") -> None:
        """Log in."""
        params = {"db": self.database, "login": login, "password": password}
        answers: list[Answer] = []
        result = self._rpc(answers, "/web/session/authenticate", params)
        if not result.get("uid"):
            raise JourneyError(f"{login} could not log in: {result}")

    def passage(self) -> list[Answer]:
        """Make the journey once."""
        answers: list[Answer] = []
        self._pages = [
            self._page(answers, self._user, "/odoo", "odoo.__session_info__"),
            self._page(answers, self._visitor, "/", 'id="wrapwrap"'),
            self._page(answers, self._visitor, "/shop", "o_wsale_products_page"),
        ]
        menus = json.loads(self._page(answers, self._user, "/web/webclient/load_menus", '"root"'))
        if len(menus) < len(MODULES):
            raise JourneyError(f"load_menus gives {len(menus)} menus")
        for model in MODELS:
            self._open(answers, model)
        return answers

    def load_assets(self) -> int:
        """Fetch the scripts and styles of the last passage's pages; how many there are."""
        paths = sorted({path for page in self._pages for path in _assets(page)})
        for path in paths:
            self._page([], self._user, path.replace("&amp;", "&"), "")
        return len(paths)

    def _open(self, answers: list[Answer], model: str) -> None:
        """Open a model's list, as its menu does."""
        options = {"toolbar": True, "load_filters": True, "action_id": False}
        views = self._call(
            answers, model, "get_views", views=[[False, kind] for kind in VIEWS], options=options
        )
        if missing := set(VIEWS) - set(views.get("views", ())):
            raise JourneyError(f"get_views of {model} lacks {missing}")
        specification = _specification(
            views["views"]["list"]["arch"], views["models"][model]["fields"]
        )
        found = self._call(
            answers, model, "web_search_read",
            domain=[], specification=specification, limit=80, offset=0, order="", count_limit=10001,
        )  # fmt: skip
        if len(found.get("records", "")) != min(found.get("length", -1), 80):
            raise JourneyError(f"web_search_read of {model} gives {found}")

    def _call(self, answers: list[Answer], model: str, method: str, **kwargs: object) -> Any:
        params = {"model": model, "method": method, "args": [], "kwargs": kwargs}
        return self._rpc(answers, f"/web/dataset/call_kw/{model}/{method}", params)

    def _rpc(self, answers: list[Answer], path: str, params: dict[str, Any]) -> Any:
        body = {"jsonrpc": "2.0", "method": "call", "params": params}
        answer = self._request(answers, self._user, "POST", path, json=body).json()
        if "error" in answer or "result" not in answer:
            raise JourneyError(f"{path}: {json.dumps(answer.get('error'))[-2000:]}")
        return answer["result"]

    def _page(
        self, answers: list[Answer], browser: requests.Session, path: str, marker: str
    ) -> str:
        text = self._request(answers, browser, "GET", path).text
        if marker not in text:
            raise JourneyError(f"{path}: no {marker} in {text[:500]}")
        return text

    def _request(
        self,
        answers: list[Answer],
        browser: requests.Session,
        method: str,
        path: str,
        **options: Any,
    ) -> requests.Response:
        start = time.perf_counter()
        response = browser.request(
            method, self.url + path, allow_redirects=False, timeout=TIMEOUT, **options
        )
        answers.append(Answer(path, time.perf_counter() - start, response))
        if response.status_code != 200:
            raise JourneyError(f"{path}: HTTP {response.status_code}: {response.text[:500]}")
        return response


def _specification(arch: str, fields: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What the web client would read to show this list."""
    names = {str(node.get("name")) for node in ElementTree.fromstring(arch).findall("field")}
    return {
        name: {"fields": {"display_name": {}}} if fields[name]["type"] in RELATIONS else {}
        for name in sorted(names)
        if fields[name]["type"] not in LEFT_OUT
    }
