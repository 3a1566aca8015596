"""A browser whose every step is written down, to compare a stock Odoo with nodes of ours."""

import itertools
import re

import requests
from odoo.http import FilesystemSessionStore, Session

STOCK = "base,rpc,web"  # the server-wide modules of a stock Odoo
# Of a session's content, what differs between two servers that do the same.
OWN = {"session_token", "create_time", "deletion_time", "next_sid", "_trace"}
OWN |= {"identity-check-last", "identity-check-next"}
WARNINGS = re.compile(r"^\S+ \S+ \d+ (?:WARNING|ERROR|CRITICAL) \S+ ([\w.]+): (.*)$", re.MULTILINE)
ALERT = re.compile(r'class="alert alert-danger[^>]*>\s*([^<]*\S)')
CSRF = re.compile(r'name="csrf_token" value="(\w+)"')


def files_of(node):
    """The sessions of a stock node, as it keeps them."""
    folder = node.folder / "data/sessions"
    return FilesystemSessionStore(str(folder), session_class=Session, renew_missing=True)


class Visitor:
    """Asks each of the nodes in turn; presents its cookies to all hosts.

    :param store: where the nodes' sessions are
    :param database: is called "database" in what is seen
    :ivar cookies: by name
    :ivar seen: what came of each request: its answer, and the content of all sessions that this
        visitor ever had, in the order in which it got them
    """

    def __init__(self, nodes, store, database=None):
        self.nodes, self.store, self.database = nodes, store, database
        self.cookies, self.seen, self.sids = {}, [], []
        self._turn = itertools.cycle(nodes)
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0.0.0"
        self._logged = [len(node.log.read_text()) for node in nodes]

    @property
    def sid(self):
        return self.cookies.get("session_id")

    def ask(self, path, *, form=None, call=None, host=None, headers=None):
        """One request: a page, a form or a JSON-RPC call; the response.

        :param form: fields to post; the page is got before, for its CSRF token
        :param call: parameters of a call
        """
        if form is not None:
            page = self.ask(path, host=host)
            if not (token := CSRF.search(page.text)):
                return page
            form = {**form, "csrf_token": token[1]}
        node, headers = next(self._turn), dict(headers or {})
        if host:
            headers["Host"] = host
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={text}" for name, text in self.cookies.items())
        body = None if call is None else {"jsonrpc": "2.0", "method": "call", "params": call}
        response = self._http.request(
            "GET" if form is None and call is None else "POST",
            node.url + path,
            data=form,
            json=body,
            headers=headers,
            allow_redirects=False,
            timeout=30,
        )
        given = response.cookies.get_dict()
        self._http.cookies.clear()
        changed = {name for name, text in given.items() if self.cookies.get(name) != text}
        self.cookies.update(given)
        if "session_id" in changed:
            self.sids.append(self.sid)
        self.seen.append(
            {
                "asked": (path, host),
                "status": response.status_code,
                "location": response.headers.get("Location"),
                "answer": self._answer(response),
                "new cookies": changed,
                "sessions": [self._content(sid) for sid in self.sids],
                "logged": self._warnings(),
            }
        )
        return response

    def info(self, **options):
        """Ask whom the node takes it for: the user's id and the database; None for nobody."""
        self.ask("/web/session/get_session_info", call={}, **options)
        answer = self.seen[-1]["answer"]
        return (answer["uid"], answer["db"]) if isinstance(answer, dict) else None

    def authenticate(self, database, password="admin", **options):
        """Log in with a password."""
        call = {"db": database, "login": "admin", "password": password}
        return self.ask("/web/session/authenticate", call=call, **options)

    def _answer(self, response):
        if "json" not in response.headers.get("Content-Type", ""):
            alert = ALERT.search(response.text)
            return alert and alert[1]
        answer = response.json()
        if "error" in answer:
            return answer["error"].get("data", {}).get("name", answer["error"]["message"])
        result = answer.get("result")
        if isinstance(result, dict):
            return self._named({k: result[k] for k in ("uid", "db", "res_model") if k in result})
        return result

    def _named(self, values):
        is_own = self.database is not None and values.get("db") == self.database
        return {**values, "db": "database"} if is_own else values

    def _content(self, sid):
        session = self.store.get(sid)
        if session.is_new:
            return None
        content = {name: value for name, value in session.items() if name not in OWN}
        return self._named({**content, "own": OWN & session.keys()})

    def _warnings(self):
        found = []
        for number, node in enumerate(self.nodes):
            text = node.log.read_text()
            lines = WARNINGS.findall(text[self._logged[number] :])
            found += [line for line in lines if line[0] != "py.warnings"]  # once in each process
            self._logged[number] = len(text)
        return found


def compare(act, stock, ours):
    """Have both visitors do the same; all that came of it is the same."""
    for visitor in (stock, ours):
        act(visitor)
    assert len(stock.seen) == len(ours.seen)
    for there, here in zip(stock.seen, ours.seen, strict=True):
        differ = [f"{k}: {there[k]} in stock, {here[k]} here" for k in there if there[k] != here[k]]
        assert not differ, "\n".join([f"{there['asked']}:", *differ])
