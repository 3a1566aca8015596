"""What each of several Odoo processes does in ``test_coherence``: changes things, and looks.

A thing is something that cached methods tell of: a rule, a view, a right... It holds a version,
that only grows. On a board in memory that the processes share it says which version may have been
committed, and which was committed and signalled for certain. So of every value that a process looks
up in a cached method it knows whether it is older than what was promised, or was never committed.
"""

import contextlib
import fcntl
import functools
import mmap
import os
import random
import re
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import odoo.api
from odoo.modules.registry import Registry
from odoo.service import model as service_model
from odoo.tools.cache import _COUNTERS

from odoo.addons.redis_session_ormcache.http_patch import cursor as cursor_patch
from odoo.addons.redis_session_ormcache.http_patch import generations
from odoo.addons.redis_session_ormcache.http_patch import registry as registry_patch
from odoo.addons.redis_session_ormcache.ormcache import (
    COUNTERS,
    Generation,
    SharedOrmcache,
    Transaction,
)
from odoo.addons.redis_session_ormcache.ormcache.local import LocalTier, Mark
from odoo.addons.redis_session_ormcache.ormcache.shared import Hash

FIRST = 1000  # of the versions
BAD = 1_000_000  # and above: versions of changes that are rolled back
RING = 16  # records that stand for versions, where a version cannot be written as a number
MODEL = "res.country.state"
LANG = "fr_FR"


# -- the board -------------------------------------------------------------------------------------


class Board:
    """Numbers in a file that all processes map."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_RDWR)
        self._numbers = memoryview(mmap.mmap(self._file, 0)).cast("q")

    @classmethod
    def make(cls, path: str | Path) -> "Board":
        """A new one, on which nothing has been committed yet."""
        size = 2 * len(THINGS) + 3
        Path(path).write_bytes(bytes(8 * size))
        board = cls(path)
        for slot in range(3, size):
            board._numbers[slot] = FIRST
        return board

    def restart(self) -> None:
        """Begin to count reads again; the things keep their versions."""
        self._numbers[0] = self._numbers[1] = self._numbers[2] = 0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    @property
    def is_over(self) -> bool:
        """Whether all are to stop."""
        return bool(self._numbers[0])

    def stop(self) -> None:
        self._numbers[0] = 1

    def count(self, reads: int) -> int:
        """Add to the number of reads of all processes; the sum."""
        with self._locked():
            self._numbers[1] += reads
            return self._numbers[1]

    def wish(self, thing: int) -> None:
        """Ask for a change of a thing by another process."""
        self._numbers[2] = thing + 1

    def take_wish(self) -> int | None:
        """A thing to change, if somebody asked for it."""
        if not self._numbers[2]:
            return None
        with self._locked():
            thing, self._numbers[2] = self._numbers[2] - 1, 0
        return thing if thing >= 0 else None

    def begin(self, thing: int) -> int:
        """A new version of a thing: from now on it may be committed."""
        with self._locked():
            self._numbers[3 + thing] += 1
            return self._numbers[3 + thing]

    def begun(self, thing: int) -> int:
        """The newest version that may be committed."""
        return self._numbers[3 + thing]

    def signal(self, thing: int, version: int) -> None:
        """Take note that a version is committed and signalled."""
        slot = 3 + len(THINGS) + thing
        with self._locked():
            self._numbers[slot] = max(self._numbers[slot], version)

    def signalled(self) -> list[int]:
        """Per thing, the version that is committed and signalled: nobody is to see an older one."""
        return list(self._numbers[3 + len(THINGS) :])


class Broken(Exception):
    """Somebody saw what must not be seen."""


# -- things ----------------------------------------------------------------------------------------


class Thing(NamedTuple):
    """Something that holds a version.

    :param xmlid: the record to lock, in the module ``coherence``
    :param change: gives it a version, as a user would
    :param sql: a statement that does the same behind the ORM's back, and its parameters; None: not
        possible
    :param looks: cached methods: each gives the version that it knows of. From a random generator
        and an environment
    """

    xmlid: str
    change: Callable[[Any, int], None]
    looks: tuple[Callable[[random.Random, Any], int], ...]
    sql: Callable[[Any, int], tuple[str, list[Any]]] | None = None


def _record(env: Any, name: str) -> Any:
    """A record of the test; its id is not taken from the caches under test."""
    model, number = _ids[name]
    return env[model].browse(number)


_ids: dict[str, tuple[str, int]] = {}


def _version(text: object) -> int:
    return max(int(word) for word in re.findall(r"\d{4,}", str(text)))


def _as_user(rng: random.Random, env: Any, **context: Any) -> Any:
    uid = rng.choice([number for name, (_, number) in _ids.items() if name.startswith("user")])
    return env(user=uid, su=False, context=context)


def _on_ring(name: str, version: int) -> str:
    return f"{name}_bad" if version >= BAD else f"{name}_{version % RING}"


def _from_ring(name: str, ids: set[int], near: int) -> int:
    """The version that one of the ring's records stands for, of those at and above ``near``."""
    (found,) = (key for key, (_, number) in _ids.items() if number in ids and _is_on(name, key))
    if found.endswith("_bad"):
        return BAD
    return near + (int(found.rpartition("_")[2]) - near) % RING


def _is_on(name: str, key: str) -> bool:
    return key.rpartition("_")[0] == name


def _change_rule(env: Any, version: int) -> None:
    _record(env, "rule").domain_force = f"[('id', '!=', {version})]"


def _sql_rule(env: Any, version: int) -> tuple[str, list[Any]]:
    statement = "UPDATE ir_rule SET domain_force = %s WHERE id = %s"
    return statement, [f"[('id', '!=', {version})]", _record(env, "rule").id]


def _look_at_rule(rng: random.Random, env: Any) -> int:
    mode = rng.choice(["read", "write", "create", "unlink"])
    return _version(_as_user(rng, env)["ir.rule"]._compute_domain(MODEL, mode))


def _form(version: int) -> str:
    return f'<form string="v{version}"><field name="name"/><field name="country_id"/></form>'


def _change_view(env: Any, version: int) -> None:
    _record(env, "view").arch = _form(version)


def _look_at_view(rng: random.Random, env: Any) -> int:
    env = _as_user(rng, env, lang=rng.choice([LANG, "en_US"]))
    view = env[MODEL]._get_view_cache(_record(env, "view").id, "form", mobile=rng.random() < 0.5)
    return _version(view["arch"].partition(">")[0])


def _page(version: int) -> str:
    return f'<t t-name="coherence.page"><p t-if="True">v{version}</p></t>'


def _change_template(env: Any, version: int) -> None:
    _record(env, "template").arch = _page(version)


def _look_at_template(rng: random.Random, env: Any) -> int:
    env = env(context={"lang": rng.choice([LANG, "en_US"])})
    return _version(env["ir.qweb"]._render(_record(env, "template").id))


def _change_menu(env: Any, version: int) -> None:
    """A translation."""
    _record(env, "menu").with_context(lang=LANG).name = f"v{version}"


def _look_at_menu(rng: random.Random, env: Any) -> int:
    env = _as_user(rng, env, lang=LANG)
    menus = env["ir.ui.menu"].load_menus(rng.random() < 0.5)
    return _version(menus[_record(env, "menu").id]["name"])


def _change_parameter(env: Any, version: int) -> None:
    _record(env, "parameter").value = str(version)


def _sql_parameter(env: Any, version: int) -> tuple[str, list[Any]]:
    statement = "UPDATE ir_config_parameter SET value = %s WHERE id = %s"
    return statement, [str(version), _record(env, "parameter").id]


def _look_at_parameter(rng: random.Random, env: Any) -> int:
    """Never shared, but as coherent."""
    return int(env(su=True)["ir.config_parameter"].get_param("coherence"))


def _change_digits(env: Any, version: int) -> None:
    _record(env, "digits").digits = version


def _sql_digits(env: Any, version: int) -> tuple[str, list[Any]]:
    statement = "UPDATE decimal_precision SET digits = %s WHERE id = %s"
    return statement, [version, _record(env, "digits").id]


def _look_at_digits(rng: random.Random, env: Any) -> int:
    return env["decimal.precision"].precision_get("coherence")


def _change_lang(env: Any, version: int) -> None:
    _record(env, "lang").name = f"v{version}"


def _look_at_lang(rng: random.Random, env: Any) -> int:
    field = rng.choice(["code", "id", "url_code"])  # the last two come from the first
    langs = env["res.lang"]._get_active_by(field)
    return _version(next(data.name for data in langs.values() if data.code == LANG))


def _change_xmlid(env: Any, version: int) -> None:
    _record(env, "xmlid").res_id = version


def _sql_xmlid(env: Any, version: int) -> tuple[str, list[Any]]:
    statement = "UPDATE ir_model_data SET res_id = %s WHERE id = %s"
    return statement, [version, _record(env, "xmlid").id]


def _look_at_xmlid(rng: random.Random, env: Any) -> int:
    return env["ir.model.data"]._xmlid_lookup("coherence.version")[1]


def _change_group(env: Any, version: int) -> None:
    implied = _ids[_on_ring("implied", version)][1]
    _record(env, "group").implied_ids = [odoo.Command.set([implied])]


def _look_at_group(rng: random.Random, env: Any) -> int:
    group, near = _record(env, "group").id, _near["group"]
    if rng.random() < 0.5:
        leaves = env["res.groups"]._get_group_definitions()._SetDefinitions__leaves
        return _from_ring("implied", set(leaves[group].supersets), near)
    groups = env["res.groups"].with_context(lang=LANG)._get_view_group_hierarchy()["groups"]
    return _from_ring("implied", set(groups[group]["implied_ids"]), near)


def _change_access(env: Any, version: int) -> None:
    _record(env, "access").group_id = _ids[_on_ring("holder", version)][1]


def _look_at_access(rng: random.Random, env: Any) -> int:
    """``holder_...`` are groups, of which one may delete."""
    union = env["ir.model.access"]._get_access_groups(MODEL, "unlink")
    return _from_ring("holder", {int(i) for i in re.findall(r"\d+", union.key)}, _near["access"])


def _change_right(env: Any, version: int) -> None:
    _record(env, "right").model_id = _ids[_on_ring("allowed", version)][1]


def _look_at_right(rng: random.Random, env: Any) -> int:
    """``allowed_...`` are models, of which the users may delete the records of one."""
    models = _as_user(rng, env)["ir.model.access"]._get_allowed_models("unlink")
    ids = {number for name, number in _model_ids.items() if name in models}
    return _from_ring("allowed", ids, _near["right"])


_model_ids: dict[str, int] = {}
_near: dict[str, int] = {}  # by thing on a ring, the oldest version that may be seen


def _change_label(env: Any, version: int) -> None:
    """A translation that reloads the registry of every process."""
    _record(env, "label").with_context(lang=LANG).field_description = f"v{version}"


def _look_at_label(rng: random.Random, env: Any) -> int:
    env = env(context={"lang": LANG})
    field = env["ir.model.fields"]._get_fields_cached(MODEL)["x_coherence"]
    return _version(field["field_description"])


THINGS = {
    "rule": Thing("rule", _change_rule, (_look_at_rule,), _sql_rule),
    "view": Thing("view", _change_view, (_look_at_view,)),
    "template": Thing("template", _change_template, (_look_at_template,)),
    "menu": Thing("menu", _change_menu, (_look_at_menu,)),
    "parameter": Thing("parameter", _change_parameter, (_look_at_parameter,), _sql_parameter),
    "digits": Thing("digits", _change_digits, (_look_at_digits,), _sql_digits),
    "lang": Thing("lang", _change_lang, (_look_at_lang,)),
    "xmlid": Thing("xmlid", _change_xmlid, (_look_at_xmlid,), _sql_xmlid),
    "group": Thing("group", _change_group, (_look_at_group,)),
    "access": Thing("access", _change_access, (_look_at_access,)),
    "right": Thing("right", _change_right, (_look_at_right,)),
    "label": Thing("label", _change_label, (_look_at_label,)),
}


# A function that runs a statement: whoever calls it changes something and seems to read.
_RUN = """
CREATE FUNCTION coherence_run(statement text) RETURNS void LANGUAGE plpgsql
AS 'BEGIN EXECUTE statement; END'
"""


def prepare(env: Any) -> None:
    """Make the records, each with the first version, and tell the database of it."""

    def make(xmlid: str, model: str, /, **values: Any) -> Any:
        record = env[model].create(values)
        env["ir.model.data"].create(
            {"module": "coherence", "name": xmlid, "model": model, "res_id": record.id}
        )
        return record

    env["res.lang"]._activate_lang(LANG)
    model = env["ir.model"]._get(MODEL)
    staff = env.ref("base.group_user")
    for number in range(3):
        values = {"name": f"User {number}", "login": f"user{number}", "lang": LANG}
        values["group_ids"] = [odoo.Command.set(staff.ids)]
        user = make(f"user{number}", "res.users", **values)
    domain = [("abstract", "=", False), ("transient", "=", False), ("model", "!=", MODEL)]
    allowed = env(user=user.id, su=False)["ir.model.access"]._get_allowed_models("unlink")
    free = iter(env["ir.model"].search([*domain, ("model", "not in", list(allowed))], order="id"))
    for step in [*map(str, range(RING)), "bad"]:
        make(f"implied_{step}", "res.groups", name=f"Implied {step}")
        make(f"holder_{step}", "res.groups", name=f"Holder {step}")
        env["ir.model.data"].create({
            "module": "coherence", "name": f"allowed_{step}",
            "model": "ir.model", "res_id": next(free).id,
        })  # fmt: skip
    make("rule", "ir.rule", name="Coherence", model_id=model.id, domain_force="[]")
    make("view", "ir.ui.view", type="form", model=MODEL, arch=_form(FIRST))
    make("template", "ir.ui.view", type="qweb", key="coherence.page", arch=_page(FIRST))
    action = make("action", "ir.actions.act_window", name="States", res_model=MODEL)
    make("menu", "ir.ui.menu", name="en", action=f"{action._name},{action.id}")
    make("parameter", "ir.config_parameter", key="coherence", value=str(FIRST))
    make("digits", "decimal.precision", name="coherence", digits=FIRST)
    make("group", "res.groups", name="Coherence")
    make("access", "ir.model.access", name="Coherence", model_id=model.id, perm_unlink=True)
    rights = {"name": "Coherence", "group_id": staff.id, "perm_unlink": True}
    make("right", "ir.model.access", model_id=model.id, **rights)
    label = {"name": "x_coherence", "field_description": "Coherence", "ttype": "char"}
    make("label", "ir.model.fields", model_id=model.id, **label)
    script = {"name": "Coherence", "model_id": model.id, "state": "code"}
    make("script", "ir.actions.server", code="env.context['coherence'](env)", **script)
    xmlid = {"module": "coherence", "name": "version", "model": "res.partner", "res_id": FIRST}
    env["ir.model.data"].create(xmlid)
    env.cr.execute(_RUN)
    load(env)
    for thing in THINGS.values():
        thing.change(env, FIRST)


def load(env: Any) -> None:
    """Learn where the records are."""
    env.cr.execute("SELECT name, model, res_id, id FROM ir_model_data WHERE module = 'coherence'")
    for name, model, number, own in env.cr.fetchall():
        _ids[name] = model, number
        if name == "version":
            _ids["xmlid"] = "ir.model.data", own
    env.cr.execute("SELECT res_id FROM ir_model_data WHERE module = 'base' AND name = 'lang_fr'")
    _ids["lang"] = "res.lang", env.cr.fetchone()[0]
    env.cr.execute("SELECT id FROM ir_cron ORDER BY id LIMIT 1")
    _ids["cron"] = "ir.cron", env.cr.fetchone()[0]
    env.cr.execute("SELECT model, id FROM ir_model")
    _model_ids.update(env.cr.fetchall())


# -- what a process does ---------------------------------------------------------------------------


class Abort(Exception):
    """Has a change rolled back."""


class Process:
    """One of the processes. What it does is drawn from ``rng``.

    :param reads: of all processes, after which all stop
    :param reloads: how often it has all registries loaded again
    """

    def __init__(
        self, registry: Any, board: Board, rng: random.Random, reads: int, reloads: int
    ) -> None:
        self.registry, self.board, self.rng = registry, board, rng
        self.reads, self.reloads = reads, reloads
        self.done: Counter[str] = Counter()
        self.broken = ""  # what was seen and must not be
        self.names = [name for name in THINGS if name != "label"]
        self._unreported = 0
        self._what = ""

    def run(self, deadline: float) -> None:
        """Requests of all kinds, until all processes together have read enough, or it is late."""
        kinds = [getattr(self, name) for name in KINDS]
        weights = list(KINDS.values())
        while not self.board.is_over and time.monotonic() < deadline:
            if (wish := self.board.take_wish()) is not None:
                self.write(list(THINGS)[wish], alone=True)
            (kind,) = self.rng.choices(kinds, weights)
            self._what = kind.__name__
            self.done[self._what] += 1
            kind()
            if self.board.count(self._unreported) >= self.reads:
                break
            self._unreported = 0

    # -- looking

    def look(self, env: Any, floor: list[int], times: int = 1, **own: int) -> None:
        """Look something up, which must be neither older than ``floor`` nor uncommitted.

        :param own: what this transaction itself has changed: it sees that
        """
        for _time in range(times):
            name = self.rng.choice([*own] if own and times < 4 else [*self.names, "label"])
            self.look_at(env, floor, name, own.get(name))

    def look_at(self, env: Any, floor: list[int], name: str, own: int | None = None) -> None:
        """Look at one thing.

        :param own: what this transaction made of it, if it did
        """
        number = _numbers[name]
        _near[name] = floor[number]
        version = self.rng.choice(THINGS[name].looks)(self.rng, env)
        newest = self.board.begun(number)
        self._unreported += 1
        fine = floor[number] <= version <= newest if own is None else version == own
        if not fine:
            kind = "uncommitted" if version >= BAD else "stale"  # on a ring, that is far ahead
            expected = own or f"{floor[number]}..{newest}"
            self.broken = f"{kind}: {self._what} sees {name} {version}, expected {expected}"
            raise Broken(self.broken)

    def pause(self, most: float = 0.01) -> None:
        time.sleep(self.rng.uniform(0, most))

    @contextlib.contextmanager
    def request(self, commit: bool = False) -> Iterator[tuple[Any, list[int]]]:
        """An environment as a request has it, and what it may not see anything older than."""
        floor = self.board.signalled()
        if self.rng.random() < 0.1:
            self.forget()
        with contextlib.closing(self.registry.cursor()) as cr:
            self.registry = self.registry.check_signaling(cr)
            cr.rollback()
            yield odoo.api.Environment(cr, odoo.SUPERUSER_ID, {}), floor

    def forget(self) -> None:
        """Have nothing in tier 1, like a process that has just begun."""
        for lru in self.registry._Registry__caches.values():
            lru.clear()

    def forget_all(self) -> None:
        """Have nothing that an earlier run made, nor its broken code."""
        self.forget()
        for name in (registry_patch._SHARED, generations.PINS):
            vars(self.registry).pop(name, None)
        vars(self.registry._invalidation_flags).pop("cache", None)  # tells those of before

    def elsewhere(self, floor: list[int], *names: str) -> None:
        """Look on another cursor, on which no signals were checked.

        :param names: things to look at before others
        """
        with self.registry.cursor() as cr:
            env = odoo.api.Environment(cr, odoo.SUPERUSER_ID, {})
            for name in names * 3:
                self.look_at(env, floor, name)
            self.look(env, floor, 4)

    # -- requests that only look

    def read(self) -> None:
        with self.request() as (env, floor):
            service_model.retrying(lambda: self.look(env, floor, 250), env)

    def read_slowly(self) -> None:
        """The snapshot is old when the values are computed."""
        with self.request() as (env, floor):
            env.cr.execute("SELECT 1")
            self.pause(0.03)
            service_model.retrying(lambda: self.look(env, floor, 100), env)

    def read_and_roll_back(self) -> None:
        with self.request() as (env, floor):
            self.look(env, floor, 60)
            env.cr.rollback()
            self.look(env, floor, 60)

    def read_in_savepoints(self) -> None:
        def looks() -> None:
            self.look(env, floor, 40)
            with contextlib.suppress(Abort), env.cr.savepoint():
                self.look(env, floor, 40)
                raise Abort
            self.look(env, floor, 40)

        with self.request() as (env, floor):
            service_model.retrying(looks, env)

    def read_elsewhere(self) -> None:
        with self.request() as (env, floor):
            self.forget()
            env["res.lang"]._get_active_by("code")  # of which others are computed
            self.await_change("lang")
            self.elsewhere(floor, "lang")
            self.look(env, floor, 60)

    def read_behind_a_change(self) -> None:
        """A transaction goes on when another cursor of its process has seen a newer state."""
        name = self.rng.choice(self.names)
        with self.request() as (env, floor):
            self.look_at(env, floor, name)
            self.await_change(name)
            self.forget()
            self.elsewhere(floor, name)
            self.forget()
            for _time in range(6):
                self.look_at(env, floor, name)
        with self.request() as (env, floor):
            for _time in range(3):
                self.look_at(env, floor, name)

    def await_change(self, name: str) -> None:
        """Have another process change a thing meanwhile."""
        number = _numbers[name]
        before, deadline = self.board.signalled()[number], time.monotonic() + 0.2
        self.board.wish(number)
        while self.board.signalled()[number] == before and time.monotonic() < deadline:
            self.pause()

    def clear_only(self) -> None:
        def clear() -> None:
            self.look(env, floor, 4)
            self.registry.clear_cache(self.rng.choice(["default", "stable", "templates", "groups"]))
            self.look(env, floor, 4)

        with self.request() as (env, floor):
            service_model.retrying(clear, env)

    # -- requests that change something

    def lock(self, env: Any, name: str) -> int:
        """Have a thing to oneself until the commit; a new version of it."""
        record = _record(env, THINGS[name].xmlid)
        env.cr.execute(f"SELECT 1 FROM {record._table} WHERE id = %s FOR UPDATE", [record.id])
        return self.board.begin(_numbers[name])

    def change(self, env: Any, name: str, version: int) -> None:
        THINGS[name].change(env, version)
        env.flush_all()  # some methods do not

    def change_by_sql(self, env: Any, name: str, version: int, *, hidden: bool = False) -> None:
        """The same behind the ORM's back.

        :param hidden: whether by a statement that seems to read
        """
        sql = THINGS[name].sql
        assert sql is not None
        statement, parameters = sql(env, version)
        if hidden:
            parameters = [env.cr.mogrify(statement, parameters).decode()]
            statement = "SELECT coherence_run(%s)"
        env.cr.execute(statement, parameters)
        env.invalidate_all()

    def write(self, name: str | None = None, alone: bool = False) -> None:
        """Change, and look on after the signal.

        :param alone: whether not to have another process change something meanwhile
        """
        name = name or self.rng.choice(self.names)
        versions: list[int] = []
        alone = alone or self.rng.random() < 0.5

        def change() -> None:
            if not alone and not versions and name in NEIGHBOURS:
                self.await_change(NEIGHBOURS[name])
                self.pause(0.03)
            self.look(env, floor, self.rng.choice([0, 6]))
            versions.append(self.lock(env, name))
            self.change(env, name, versions[-1])
            self.look(env, floor, 2, **{name: versions[-1]})
            self.look(env, floor, 4, **{name: versions[-1]})

        with self.request() as (env, floor):
            if not self.retry(change, env):
                return
            self.board.signal(_numbers[name], versions[-1])
            floor[_numbers[name]] = versions[-1]
            if not alone:
                self.forget()
            self.elsewhere(floor, name)
            if not alone:
                self.forget()
            for _time in range(3):
                self.look_at(env, floor, name)
            self.look(env, floor, 4)

    def retry(self, function: Callable[[], None], env: Any) -> bool:
        """Whether the change was committed in the end."""
        try:
            service_model.retrying(function, env)
        except (odoo.exceptions.ValidationError, *service_model.PG_CONCURRENCY_EXCEPTIONS_TO_RETRY):
            self.done["conflicts"] += 1
            return False
        return True

    def write_and_fail(self) -> None:
        name = self.rng.choice(self.names)

        def change() -> None:
            self.lock(env, name)
            self.change(env, name, BAD)
            self.look(env, floor, 6, **{name: BAD})
            self.pause()
            raise Abort

        with self.request() as (env, floor):
            with contextlib.suppress(Abort):
                self.retry(change, env)
            env.cr.rollback()
            self.look(env, floor, 4)

    def write_in_savepoint(self) -> None:
        """What is rolled back is one change of two."""
        name, other = self.rng.sample(self.names, 2)
        versions: list[int] = []

        def change() -> None:
            with contextlib.suppress(Abort), env.cr.savepoint():
                self.change(env, name, BAD)
                self.look(env, floor, 3, **{name: BAD})
                raise Abort
            self.look(env, floor, 3)
            versions.append(self.lock(env, other))
            self.change(env, other, versions[-1])
            self.look(env, floor, 4, **{other: versions[-1]})

        with self.request() as (env, floor):
            if self.retry(change, env):
                self.board.signal(_numbers[other], versions[-1])

    def write_before_clearing(self) -> None:
        """Between a change and its invalidation something is computed, as in many a ``write``."""
        self.clear_only()
        self._what = "write_before_clearing"
        name = self.rng.choice([name for name in self.names if THINGS[name].sql])
        key = "default" if name in ("rule", "xmlid") else "stable"
        end = self.rng.choice(["commit", "roll back", "fail"])
        versions: list[int] = []

        def change() -> None:
            version = self.lock(env, name)
            version = version if end == "commit" else BAD
            versions.append(version)
            self.forget()
            self.change_by_sql(env, name, version, hidden=self.rng.random() < 0.5)
            for _time in range(3):
                THINGS[name].looks[0](self.rng, env)
            if end == "roll back":
                raise Abort
            self.registry.clear_cache(key)
            self.look(env, floor, 2, **{name: version})
            if end == "fail":
                raise Abort

        with self.request() as (env, floor):
            try:
                committed = self.retry(change, env)
            except Abort:
                committed = False
            if committed:
                self.board.signal(_numbers[name], versions[-1])

    def fail_before_clearing(self) -> None:
        """As above, in a savepoint: the transaction itself is committed."""
        self.clear_only()
        self._what = "fail_before_clearing"
        name = self.rng.choice([name for name in self.names if THINGS[name].sql])

        def change() -> None:
            with contextlib.suppress(Abort), env.cr.savepoint():
                self.forget()
                self.change_by_sql(env, name, BAD)
                for _time in range(3):
                    THINGS[name].looks[0](self.rng, env)
                raise Abort
            self.look(env, floor, 4)

        with self.request() as (env, floor):
            self.retry(change, env)

    def run_job(self) -> None:
        """A scheduled job, which commits and signals by itself."""
        name = self.rng.choice(self.names)
        versions: list[int] = []

        def change(env: Any) -> None:
            versions.append(self.lock(env, name))
            self.change(env, name, versions[-1])
            self.look(env, floor, 2, **{name: versions[-1]})

        floor = self.board.signalled()
        with contextlib.closing(self.registry.cursor()) as cr:
            env = odoo.api.Environment(cr, odoo.SUPERUSER_ID, {"coherence": change})
            try:
                _record(env, "cron")._callback("Coherence", _record(env, "script").id)
            except service_model.PG_CONCURRENCY_EXCEPTIONS_TO_RETRY:
                self.done["conflicts"] += 1
                return
            self.registry = env.registry
        self.board.signal(_numbers[name], versions[-1])

    def commit_and_go_on(self) -> None:
        """A job that commits and signals later; what it looks up after the commit is no older."""
        name, other = self.rng.sample(self.names, 2)
        number = _numbers[name]
        with self.request() as (env, before):
            for turn in range(2):
                try:
                    for _time in range(6):
                        self.look_at(env, before, name)
                    version = self.lock(env, name)
                    self.change(env, name, version)
                    self.look(env, before, 2, **{name: version})
                    if turn:
                        self.await_change(other)
                    self.look(env, before, 2, **{name: version})
                    env.cr.commit()
                except service_model.PG_CONCURRENCY_EXCEPTIONS_TO_RETRY:
                    self.done["conflicts"] += 1
                    env.cr.rollback()
                    env.registry.reset_changes()
                    return
                floor = self.board.signalled()
                floor[number] = before[number] = version
                self.forget()  # what is in tier 1 may be as old as the last check, as in core
                self.look_at(env, floor, other)
                for _time in range(6):
                    self.look_at(env, floor, name)
                self.look(env, floor, 6)
                if turn or self.rng.random() < 0.2:
                    env.registry.signal_changes()
                    self.board.signal(number, version)
                self.elsewhere(floor, name)

    def signal_early(self) -> None:
        """Others take what they see between the signal and the commit for what is new."""
        name = self.rng.choice(self.names)
        versions: list[int] = []

        def change() -> None:
            versions.append(self.lock(env, name))
            self.change(env, name, versions[-1])
            self.look(env, floor, 2, **{name: versions[-1]})
            env.registry.signal_changes()
            self.look(env, floor, 2, **{name: versions[-1]})
            self.elsewhere(floor, name)
            self.pause(0.3)
            self.look(env, floor, 4, **{name: versions[-1]})

        with self.request() as (env, floor):
            if self.retry(change, env):
                self.board.signal(_numbers[name], versions[-1])
                floor[_numbers[name]] = versions[-1]
                self.elsewhere(floor, name)

    def undo_and_look(self) -> None:
        """Savepoints whose invalidations are rolled back, and many lookups after each."""
        name = self.rng.choice(self.names)

        def changes() -> None:
            for _time in range(3):
                self.look(env, floor, 10)
                with contextlib.suppress(Abort), env.cr.savepoint():
                    self.lock(env, name)
                    self.change(env, name, BAD)
                    self.look(env, floor, 3, **{name: BAD})
                    raise Abort
                self.look_at(env, floor, name)
                self.look(env, floor, 40)

        with self.request() as (env, floor):
            self.retry(changes, env)

    def read_behind_a_commit(self) -> None:
        """A cursor's snapshot is older than a commit of its process that it does not know of."""
        name = self.rng.choice(self.names)
        versions: list[int] = []

        def change() -> None:
            versions.append(self.lock(env, name))
            self.change(env, name, versions[-1])

        before = self.board.signalled()
        with self.registry.cursor() as cr:
            cr.execute("SELECT 1")
            with self.request() as (env, floor):
                if not self.retry(change, env):
                    return
            self.board.signal(_numbers[name], versions[-1])
            floor[_numbers[name]] = versions[-1]
            old = odoo.api.Environment(cr, odoo.SUPERUSER_ID, {})
            for _time in range(6):
                self.look_at(old, before, name)
        self.elsewhere(floor, name)

    def reload(self) -> None:
        """A change that has all processes load their registries again, which takes long."""
        if self.reloads:
            self.reloads -= 1
            self.write("label")


KINDS = {
    "read": 30,
    "read_slowly": 15,
    "read_and_roll_back": 10,
    "read_in_savepoints": 10,
    "read_elsewhere": 8,
    "read_behind_a_change": 5,
    "clear_only": 2,
    "write": 15,
    "write_and_fail": 4,
    "write_in_savepoint": 4,
    "write_before_clearing": 6,
    "fail_before_clearing": 4,
    "run_job": 5,
    "commit_and_go_on": 6,
    "signal_early": 5,
    "undo_and_look": 4,
    "read_behind_a_commit": 3,
    "reload": 6,
}
# Things whose changes clear the same containers.
NEIGHBOURS = {"rule": "xmlid", "xmlid": "rule", "digits": "lang", "lang": "digits"}
NEIGHBOURS |= {"access": "right", "right": "access", "view": "template", "template": "view"}
_numbers = {name: number for number, name in enumerate(THINGS)}


def run(
    registry: Any,
    path: str,
    *,
    seed: int,
    reads: int,
    seconds: float,
    reloads: int = 0,
    plant: str = "",
) -> dict[str, Any]:
    """Be one of the processes; what was done, and ``broken``: what must not have been seen."""
    with contextlib.closing(registry.cursor()) as cr:
        load(odoo.api.Environment(cr, odoo.SUPERUSER_ID, {}))
    board, rng = Board(path), random.Random(seed)
    process = Process(registry, board, rng, reads, reloads)
    process.forget_all()
    before = _figures(registry.db_name)
    started = time.monotonic()
    with _impatient(), _slow_signals(rng), PLANTS[plant](process) if plant else _nothing():
        try:
            process.run(started + seconds)
        except Exception:  # a job's code raises another one
            if not process.broken:
                raise
        finally:
            board.stop()
    took = time.monotonic() - started
    registry_patch.shared_of(process.registry).flush()
    after = _figures(registry.db_name)
    figures = {name: after[name] - before[name] for name in after}
    process.done["reloads"] = reloads - process.reloads
    return {"broken": process.broken, "took": took, "done": process.done, "figures": figures}


def _figures(database: str) -> dict[str, int]:
    tier1 = [counter for (name, _method), counter in _COUNTERS.items() if name == database]
    tier2 = [counter for (name, _method), counter in COUNTERS.items() if name == database]
    return {
        "hits": sum(counter.hit for counter in tier1),
        "misses": sum(counter.miss for counter in tier1),
        "found": sum(counter.found for counter in tier2),
        "computed": sum(counter.computed for counter in tier2),
        "published": sum(counter.published for counter in tier2),
        "rejected": sum(counter.rejected for counter in tier2),
    }


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """Retry a transaction after a moment, rather than after a second or two."""
    quick = types.SimpleNamespace(uniform=lambda _least, _most: random.uniform(0, 0.01))
    with patch.object(service_model, "random", quick):
        yield


@contextlib.contextmanager
def _slow_signals(rng: random.Random) -> Iterator[None]:
    """Time passes between a commit and its signal, and before the signal is committed."""
    original = Registry.signal_changes

    def signal_changes(self: Any) -> None:
        if self.cache_invalidated or self.registry_invalidated:
            time.sleep(rng.choice([0, 0, 0.005]))
            if rng.random() < 0.3:
                self.cursor = functools.partial(_slow_cursor, self, set(self.cache_invalidated))
        try:
            original(self)
        finally:
            vars(self).pop("cursor", None)

    with patch.object(Registry, "signal_changes", signal_changes):
        yield


def _slow_cursor(registry: Any, keys: set[str], /, readonly: bool = False) -> Any:
    """A cursor for signals that are committed late: after another, which has a higher id."""
    cr = type(registry).cursor(registry, readonly=readonly)

    def commit() -> None:
        with type(registry).cursor(registry) as other:
            for key in keys:
                other.execute(f"INSERT INTO orm_signaling_{key} DEFAULT VALUES")
        time.sleep(0.02)
        type(cr).commit(cr)

    cr.commit = commit
    return cr


# -- what breaks coherence, on purpose -------------------------------------------------------------


@contextlib.contextmanager
def generation_when_publishing(process: Process) -> Iterator[None]:
    """The generation is read when a value is sealed, not with the snapshot that it comes of."""
    original = SharedOrmcache._entry

    def _seal(self: Any, slot: Any, method: Any, value: Any, cost: Any) -> Any:
        with contextlib.closing(process.registry.cursor()) as cr:
            now = generations.read_generation(process.registry, cr)
        container = slot.hash.key[len(self._prefix) :].partition(":")[0]
        slot = slot._replace(hash=Hash(self._key(container, now, slot.vault), {}, 0.0))
        return original(self, slot, method, value, cost)

    with patch.object(SharedOrmcache, "_entry", _seal):
        yield


@contextlib.contextmanager
def only_own_key(process: Process) -> Iterator[None]:
    """The generation of a container forgets the keys that clear it besides its own."""
    with patch.object(Generation, "token", _token(lambda container: ("registry", container))):
        yield


@contextlib.contextmanager
def without_registry(process: Process) -> Iterator[None]:
    """The generation of a container forgets that a change of the registry clears it."""
    keys_of = generations.KEYS_OF
    with patch.object(Generation, "token", _token(keys_of.__getitem__)):
        yield


def _token(keys_of: Callable[[str], tuple[str, ...]]) -> Callable[[Any, str], bytes]:
    def token(self: Any, container: str) -> bytes:
        return repr([self._rows.get(key) for key in keys_of(container)]).encode()

    return token


@contextlib.contextmanager
def newer_than_tier1(process: Process) -> Iterator[None]:
    """A cursor that sees more than its process shares what it computes of values in tier 1."""
    original = LocalTier.learn

    def learn(self: Any, seen: Generation, mark: Any = None, *, loaded: bool = False) -> bool:
        if loaded or self._state is None:
            return original(self, seen, mark, loaded=loaded)
        if self._state.precedes(seen):
            self._state = self._seen[seen.origin] = seen  # and nothing is cleared
        return False

    with patch.object(LocalTier, "learn", learn):
        yield


@contextlib.contextmanager
def out_of_step(process: Process) -> Iterator[None]:
    """A transaction that has seen less than its process puts its values in tier 1."""
    with patch.object(LocalTier, "agrees", lambda *_arguments: True):
        yield


@contextlib.contextmanager
def behind_a_commit(process: Process) -> Iterator[None]:
    """So does one whose snapshot is older than a commit of its process."""
    with patch.object(
        LocalTier, "mark", lambda self, **_options: Mark(self._commits, self._signals)
    ):
        yield


@contextlib.contextmanager
def never_ahead(process: Process) -> Iterator[None]:
    """What Redis has is taken for valid between a commit of the process and its signal."""
    with patch.object(LocalTier, "is_ahead", lambda *_arguments: False):
        yield


@contextlib.contextmanager
def kept_after_commit(process: Process) -> Iterator[None]:
    """The next transaction of a cursor goes by the generation of the one that was committed."""
    original = Transaction._begin

    def _begin(self: Any, *, keeps_generation: bool) -> None:
        original(self, keeps_generation=True)

    with patch.object(Transaction, "_begin", _begin):
        yield


@contextlib.contextmanager
def to_tier1_at_once(process: Process) -> Iterator[None]:
    """The values of a transaction go to tier 1, and stay there when it is rolled back."""
    original = Transaction.keep

    def keep(self: Any, container: str, key: Any, computed: Any, cost: float) -> None:
        self._local.put(container, key, computed, self.generation(), self._mark)
        original(self, container, key, computed, cost)

    with patch.object(Transaction, "keep", keep):
        yield


@contextlib.contextmanager
def published_at_once(process: Process) -> Iterator[None]:
    """Values are published when they are computed, whatever the transaction has written."""
    original = Transaction.keep

    def keep(self: Any, container: str, key: Any, computed: Any, cost: float) -> None:
        if computed.entry:
            self._outbox.publish([computed.entry])
        original(self, container, key, computed, cost)

    with patch.object(Transaction, "keep", keep):
        yield


@contextlib.contextmanager
def published_after_rollback(process: Process) -> Iterator[None]:
    """Values are given to others before a rollback as after a commit."""

    def rolling_back(self: Any) -> None:
        self._hand_over()

    with patch.object(Transaction, "rolling_back", rolling_back):
        yield


@contextlib.contextmanager
def never_wrote(process: Process) -> Iterator[None]:
    """Every transaction is taken for one that wrote nothing, unless a statement tells."""
    with patch.object(generations, "wrote_nothing", lambda _cursor: True):
        yield


@contextlib.contextmanager
def statements_ignored(process: Process) -> Iterator[None]:
    """A transaction hears of no statement, so neither of changes nor of savepoints."""
    with patch.object(cursor_patch.Connection, "ran", lambda *_arguments: None):
        yield


@contextlib.contextmanager
def savepoints_ignored(process: Process) -> Iterator[None]:
    """What was computed before a rollback to a savepoint stays valid."""
    with patch.object(Transaction, "savepoint_rolled_back", lambda *_arguments: None):
        yield


@contextlib.contextmanager
def invalidations_ignored(process: Process) -> Iterator[None]:
    """A transaction is not told what its thread has invalidated."""
    with patch.object(cursor_patch.Invalidated, "add", set.add):
        yield


@contextlib.contextmanager
def signalled_once(process: Process) -> Iterator[None]:
    """A signal that came before its commit is not repeated after it."""
    with patch.object(Transaction, "signalled", lambda *_arguments: None):
        yield


PLANTS = {
    plant.__name__: plant
    for plant in (
        generation_when_publishing,
        only_own_key,
        without_registry,
        newer_than_tier1,
        out_of_step,
        behind_a_commit,
        never_ahead,
        kept_after_commit,
        to_tier1_at_once,
        published_at_once,
        published_after_rollback,
        never_wrote,
        statements_ignored,
        savepoints_ignored,
        invalidations_ignored,
        signalled_once,
    )
}
