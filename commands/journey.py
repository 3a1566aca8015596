"""Requests as people make them, in this very process, with the code and the settings of a server.

As a visitor the pages of the website, as users those behind their menus, one user for each set of
groups and language. Nothing is saved that a visitor's own request would not save, and no device is
listed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from lxml import etree

from ..exceptions import ConfigurationError
from ..http_patch.application import OWN
from ..http_patch.install import Installed, install
from ..http_patch.registry import forget_hashes, shared_of
from ..ormcache import COUNTERS, Counter, SharedOrmcache
from .context import Context, complain

if TYPE_CHECKING:
    from odoo.api import Environment

USERS, PAGES, SCREENS = 10, 30, 300  # at most: of each kind, and screens of a user
_VIEWS = "kanban", "list", "form", "search"
_RELATIONS = {"many2one", "one2many", "many2many"}
_WITH_MORE = {"reference", "properties", "properties_definition"}  # they are read in other ways
_MINIMAL = "_trace_disable"  # of a session: no device is listed for it


class Step(NamedTuple):
    """A request.

    :param body: of a JSON-RPC call; None: a page
    :param follow: gives the request that the web client makes of this one's result
    """

    path: str
    body: dict[str, Any] | None = None
    follow: Callable[[dict[str, Any]], Step] | None = None


class Made(NamedTuple):
    """The outcome of a journey.

    :param people: as whom requests were made
    :param requests: how many were made
    :param failed: how many of them were not answered
    """

    people: int
    requests: int
    failed: int


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-d", "--database", required=True, help="which")
    parser.add_argument(
        "--users", type=int, default=USERS, help=f"with different groups, at most ({USERS})"
    )
    parser.add_argument("--path", action="append", default=[], help="another page of a visitor")


def make(context: Context, options: argparse.Namespace, database: Database) -> Made:
    """Make all requests, with a progress bar for people."""
    people: list[tuple[_Browser, list[Step]]] = []
    requests = failed = 0
    with contextlib.ExitStack() as sessions:
        for user in (None, *database.users(options.users)):
            steps = database.screens(user) if user else database.public(options.path)
            people.append((sessions.enter_context(database.browser(user)), steps))
        database.forget()
        for number, (browser, steps) in enumerate(people):
            for step in steps:
                context.progress(number / len(people), step.path)
                made, not_answered = browser.make(step)
                requests, failed = requests + made, failed + not_answered
    context.progress(1, "")
    return Made(len(people), requests, failed)


class Database:
    """A database, loaded as a server would.

    :ivar installed: what is in force in this process
    """

    installed: Installed

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Database:
        from odoo.modules.registry import Registry
        from odoo.service.server import load_server_wide_modules

        load_server_wide_modules()
        installed = install()
        if installed is None:
            raise ConfigurationError("the addon is not in server_wide_modules")
        if installed.outbox is None:
            raise ConfigurationError("ormcache = false: no values are shared")
        self.installed, self._outbox = installed, installed.outbox
        self.registry = Registry(self.name)
        return self

    def __exit__(self, *_error: object) -> None:
        self._outbox.flush()

    def environment(self, uid: int | None = None) -> Any:
        """A context manager that gives one for a transaction of its own."""
        from odoo import SUPERUSER_ID, api

        @contextlib.contextmanager
        def opened() -> Iterator[Environment]:
            threading.current_thread().dbname = self.name  # type: ignore[attr-defined]  # as Odoo
            with self.registry.cursor() as cursor:
                yield api.Environment(cursor, uid or SUPERUSER_ID, {})

        return opened()

    def users(self, most: int) -> list[int]:
        """One for each set of groups and language, the latest ones first."""
        query = """
            SELECT max(u.id) FROM res_users u
              JOIN res_partner p ON p.id = u.partner_id
              JOIN LATERAL (
                  SELECT array_agg(gid ORDER BY gid) AS groups FROM res_groups_users_rel
                   WHERE uid = u.id
              ) g ON true
             WHERE u.active AND NOT coalesce(u.share, false) AND u.id > 1
             GROUP BY g.groups, p.lang
             ORDER BY max(u.id) DESC LIMIT %s
        """
        with self.environment() as env:
            env.cr.execute(query, (most,))
            return [uid for (uid,) in env.cr.fetchall()]

    def public(self, paths: list[str]) -> list[Step]:
        """The login page, and those of a website."""
        found = ["/web/login", "/", *paths]
        with self.environment() as env:
            if "website" in env:
                website = env["website"].search([], limit=1)
                pages = website.with_context(website_id=website.id)._enumerate_pages()
                found += [page["loc"] for page in itertools.islice(pages, PAGES)]
        return [Step(path) for path in dict.fromkeys(found)]

    def screens(self, uid: int) -> list[Step]:
        """The back office of a user: its frame, its menus, and what is behind them."""
        steps = [Step("/odoo"), Step("/web/webclient/load_menus")]
        with self.environment(uid) as env:
            if "website" in env:
                steps.append(Step("/"))  # with what its visitors do not see
            menus = env["ir.ui.menu"].search([("action", "!=", False)])
            wanted = [
                menu.action.id
                for menu in menus
                if menu.action and menu.action._name == "ir.actions.act_window"
            ]
            actions = env["ir.actions.act_window"].sudo()
            for action in actions.browse(dict.fromkeys(wanted))[:SCREENS]:
                if action.res_model in env:
                    steps += _screen(action)
            # Screens that are reached from others, and dialogs.
            models = [action.res_model for action in actions.search([], order="id")]
            for model in dict.fromkeys(models):
                if model in env and not env[model]._transient and env[model].has_access("read"):
                    steps.append(_views(model, [(False, kind) for kind in _VIEWS]))
        return steps

    def browser(self, uid: int | None) -> _Browser:
        with self.environment() as env:
            url = env["ir.config_parameter"].get_param("web.base.url", "http://localhost")
        return _Browser(self, uid, urlsplit(url).netloc or "localhost")

    def forget(self) -> None:
        """Forget what was computed without a request: it is not shared with those that have one."""
        for cache in self.registry._Registry__caches.values():
            cache.clear()
        forget_hashes(self.registry)

    @property
    def shared(self) -> SharedOrmcache:
        """Both tiers."""
        return shared_of(self.registry)

    def signal(self) -> None:
        """Have all processes drop their caches."""
        self.registry.clear_all_caches()
        self.registry.signal_changes()

    def counters(self) -> dict[str, Counter]:
        """Figures of sharing in this process by now, by method."""
        self._outbox.flush()
        return {method: each for (name, method), each in COUNTERS.items() if name == self.name}


def _screen(action: Any) -> list[Step]:
    """The requests by which the web client shows an action."""
    views = [(view_id or False, kind) for view_id, kind in action.views]
    views.append((action.search_view_id.id or False, "search"))
    model = action.res_model
    shown = _views(model, views, action.id)
    return [
        Step("/web/action/load", {"action_id": action.id}),
        shown._replace(follow=lambda result: _rows(model, result)),
    ]


def _views(model: str, views: list[tuple[int | bool, str]], action: int | bool = False) -> Step:
    options = {"action_id": action, "load_filters": True, "toolbar": True}
    return _call(model, "get_views", views=views, options=options)


def _rows(model: str, result: dict[str, Any]) -> Step:
    """The rows of a list, by the description of its view."""
    fields = result["models"][model]["fields"]
    arch = result["views"].get("list", {}).get("arch", "<list/>")
    names = {node.get("name") for node in etree.fromstring(arch).iterchildren("field")}
    specification: dict[str, Any] = {
        name: {"fields": {"display_name": {}}} if fields[name]["type"] in _RELATIONS else {}
        for name in sorted(names & fields.keys())
        if fields[name]["type"] not in _WITH_MORE
    }
    return _call(model, "web_search_read", domain=[], specification=specification, limit=80)


def _call(model: str, method: str, **kwargs: Any) -> Step:
    params = {"model": model, "method": method, "args": [], "kwargs": kwargs}
    return Step(f"/web/dataset/call_kw/{model}/{method}", params)


class _Browser:
    """Asks this very process, as a user or as a visitor, in a session that goes with it.

    :param host: by which the database is found
    """

    def __init__(self, database: Database, uid: int | None, host: str) -> None:
        from odoo import http
        from werkzeug.test import Client

        self._database, self._uid, self._host = database, uid, host
        self._client, self._store = Client(http.root), http.root.session_store
        self._session: Any = None

    def __enter__(self) -> _Browser:
        from odoo.http import get_default_session
        from odoo.service import security

        with self._database.environment(self._uid) as env:
            self._session = session = self._store.new()
            session.update({**get_default_session(), "db": self._database.name, _MINIMAL: True})
            if self._uid:
                session.update({"uid": self._uid, "login": env.user.login})
                session.context = dict(env["res.users"].context_get())
                session.session_token = security.compute_session_token(session, env)
            self._store.save(session)
        self._client.set_cookie("session_id", session.sid, domain=self._host.partition(":")[0])
        return self

    def __exit__(self, *_error: object) -> None:
        self._store.delete(self._session)

    def make(self, step: Step) -> tuple[int, int]:
        """Make a request, and those that follow it; how many, and how many were not answered."""
        made = 0
        current: Step | None = step
        while current:
            made += 1
            result = self._result(current)
            if result is None:
                return made, 1
            current = current.follow(result) if current.follow else None
        return made, 0

    def _result(self, step: Step) -> Any:
        """Of a request; None: it was not answered with what was asked for."""
        options: dict[str, Any] = {
            "base_url": f"http://{self._host}",
            "environ_base": {"REMOTE_ADDR": "127.0.0.1", OWN: True},
        }
        if step.body is None:
            answer = self._client.get(step.path, **options)
            return {} if answer.status_code < 400 else self._failed(step, answer.status)
        body = {"jsonrpc": "2.0", "method": "call", "params": step.body}
        answer = self._client.post(step.path, json=body, **options)
        if answer.status_code != 200:
            return self._failed(step, answer.status)
        told = json.loads(answer.data)
        if "error" in told:
            return self._failed(step, told["error"]["data"]["message"].strip())
        return told.get("result") or {}

    def _failed(self, step: Step, why: str) -> None:
        who = f"user {self._uid}" if self._uid else "a visitor"
        complain(f"{step.path} as {who}: {why}")
