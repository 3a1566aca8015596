"""Which processes share: those whose code and files agree in content, wherever these are."""

import os
import re
import shutil
import uuid

import pytest
import requests

from odoo.addons.redis_session_ormcache.codec.value import Vault
from odoo.addons.redis_session_ormcache.exceptions import CorruptRecordError
from odoo.addons.redis_session_ormcache.tests.support.cached import FIGURES, LOOK, hashes
from stack.servers import LOAD, ServerError, Worker

NAME = "cached_greeting"
RELEASE = {
    "__init__.py": "from . import models\n",
    "__manifest__.py": f"""{{
        "name": "cached", "depends": ["web"], "license": "LGPL-3",
        "assets": {{"cached.bundle": ["{NAME}/static/**/*.js"]}},
    }}""",
    "models.py": """
from odoo import models
from odoo.tools import ormcache

class Lang(models.Model):
    _inherit = "res.lang"

    @ormcache("word")
    def _greet(self, word):
        self.env.cr.execute("SELECT pg_sleep(0.001)")
        return "Hello " + word

    @ormcache("word")
    def _greet_from(self, word):
        self.env.cr.execute("SELECT pg_sleep(0.001)")
        return [__file__, word]
""",
    "static/src/one.js": "one",
    "i18n/fr.po": """
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"

#. module: cached_greeting
#. odoo-javascript
#: code:addons/cached_greeting/static/src/one.js:0
msgid "Hello"
msgstr "Bonjour"
""",
}
WHEN = 1_767_225_600  # of all files
GREET = "result = env['res.lang']._greet('you')"
TERMS = f"result = env['ir.http']._get_web_translations_hash(['{NAME}'], 'fr_FR')"
PATHS = "result = [a[0] for a in env['ir.asset']._get_asset_paths('cached.bundle', {})]"


def release(folder, changes=(), name=NAME):
    """Write a release of an addon, as a reproducible build does: all files have one date.

    :param changes: texts of files that this release has besides, or instead
    """
    shutil.rmtree(folder / name, ignore_errors=True)
    for file, text in {**RELEASE, **dict(changes)}.items():
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (WHEN, WHEN))
    return folder


def addons(folder):
    """Where Odoo's addons are, and these."""
    from odoo.tools import config

    return f"{','.join(config['addons_path'])},{folder}"


INSTALL = f"""
    env["ir.module.module"].update_list()
    addon = env["ir.module.module"].search([("name", "=", "{NAME}")])
    addon.button_immediate_install()
"""


@pytest.fixture(scope="module")
def installed(make_database, postgres, redis, tmp_path_factory):
    """A database where the addon is installed, to be copied."""
    database, folder = make_database(), tmp_path_factory.mktemp("installed")
    config = {"addons_path": addons(release(folder / "addons"))}
    settings = {"url": redis.url, "session": False}
    with Worker(folder, postgres, database=database, config=config, redis=settings) as worker:
        worker.run(INSTALL)
    return database


@pytest.fixture
def release_database(installed, postgres):
    """A copy of it."""
    name = f"test_{uuid.uuid4().hex[:8]}"
    postgres.createdb(name, installed)
    yield name
    postgres.dropdb(name)


@pytest.fixture
def start(make_worker, redis, release_database):
    """Start a process with the addons of a folder."""

    def started(folder, *, config=(), **options):
        config = {"addons_path": addons(folder), **dict(config)}
        return make_worker(redis, release_database, config=config, **options)

    return started


# -- content ---------------------------------------------------------------------------------------


def instead(file, old, new):
    assert len(old) == len(new)
    return {file: RELEASE[file].replace(old, new)}


CHANGES = {
    "code": (GREET, instead("models.py", "Hello", "Salut")),
    "terms": (TERMS, instead("i18n/fr.po", "Bonjour", "Rebonjo")),
    "more terms": (TERMS, {"i18n_extra/fr_FR.po": RELEASE["i18n/fr.po"].replace("jour", "soir")}),
    "a script in a folder demo": (PATHS, {"static/demo/two.js": "two"}),
    "a script in a folder doc": (PATHS, {"static/doc/two.js": "two"}),
    "a script in a folder tests": (PATHS, {"static/tests/two.js": "two"}),
    "a manifest": (PATHS, instead("__manifest__.py", "static/**", "static/xx")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_two_releases_do_not_meet(start, tmp_path, what):
    """Whether the other is at another path, or came to the same path with the same dates."""
    look, changes = CHANGES[what]
    old, new = release(tmp_path / "old"), release(tmp_path / "new", changes)
    before, after = start(old).run(look), start(new).run(look)
    assert after != before
    assert start(release(old, changes)).run(look) == after


def test_equal_content_is_shared(start, tmp_path):
    """Nodes whose files differ in path and date share."""
    one, two = release(tmp_path / "one"), release(tmp_path / "two")
    for path in (two / NAME).rglob("*.*"):
        os.utime(path, (WHEN + 60, WHEN + 60))
    assert start(one).run(GREET) == "Hello you"
    other = start(two)
    assert other.run(GREET) == "Hello you"
    assert other.run(FIGURES)["_greet"]["found"] == 1


def test_paths_and_dates_are_a_nodes_own(start, tmp_path):
    """What holds them is shared by nodes where they agree, and by no others."""
    look = """
        paths = env["ir.asset"]._get_asset_paths("cached.bundle", {})
        result = [[str(part) for part in path] for path in paths]
        result.append(env["res.lang"]._greet_from("you")[0])
    """
    one, two = release(tmp_path / "one"), release(tmp_path / "two")
    assert f"{one}/" in str(start(one).run(look))
    first = start(two)
    found = first.run(look)
    assert f"{two}/" in str(found)
    assert f"{one}/" not in str(found)
    second = start(two)
    assert second.run(look) == found
    figures = second.run(FIGURES)
    assert figures["_get_asset_paths"]["found"] == 1
    assert figures["_greet_from"]["found"] == 0
    os.utime(two / NAME / "static/src/one.js", (WHEN + 60, WHEN + 60))
    assert str(WHEN + 60) in str(start(two).run(look))


def test_server_wide_modules_count(start, tmp_path):
    """Those that are not installed in the database are there to patch models."""
    look = "result = env['res.partner'].get_view(view_type='form')['arch']"
    seen = []
    for number in (1, 2):
        release(tmp_path / "addons")
        patch = f"""
def post_load():
    from odoo.addons.base.models.ir_ui_view import Base
    original = Base._get_view
    def _get_view(self, *args, **options):
        arch, view = original(self, *args, **options)
        arch.set("string", "release {number}")
        return arch, view
    Base._get_view = _get_view
"""
        wide = tmp_path / "addons/wide"
        wide.mkdir(exist_ok=True)
        (wide / "__init__.py").write_text(patch)
        (wide / "__manifest__.py").write_text("{'name': 'wide', 'post_load': 'post_load'}")
        shutil.rmtree(wide / "__pycache__", ignore_errors=True)
        seen.append(start(tmp_path / "addons", load=f"{LOAD},wide").run(look))
        assert f"release {number}" in seen[-1]


def test_a_line_tells_who_shares(start, tmp_path):
    """Two logs show whether two nodes share; on demand, why they do not."""
    debug = {"log_handler": "odoo.addons.redis_session_ormcache:DEBUG"}
    logs = []
    for folder, changes in (("one", {}), ("two", {}), ("three", CHANGES["code"][1])):
        worker = start(release(tmp_path / folder, changes), config=debug)
        worker.run(GREET)
        logs.append(worker.log.read_text())
    fingerprints = [re.findall(r"processes of fingerprint (\w{16})", log) for log in logs]
    assert [len(found) for found in fingerprints] == [1, 1, 1]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    listings = [re.findall(r"^[0-9a-f]{32} \w+$", log, re.MULTILINE) for log in logs]
    differing = set(listings[0]) ^ set(listings[2])
    assert {line.split()[1] for line in differing} == {NAME}


# -- files that are not there ----------------------------------------------------------------------


def link_to_nowhere(folder):
    (folder / "static/src/.#one.js").symlink_to("nowhere")
    (folder / "static/src/font.ttf").symlink_to("/nowhere/font.ttf")


def link_to_itself(folder):
    (folder / "static/src/itself").symlink_to("itself")
    (folder / "static/src/again").symlink_to("..")


def a_pipe(folder):
    os.mkfifo(folder / "static/src/pipe.js.tmp")


def strange_names(folder):
    (folder / os.fsdecode(b"static/src/caf\xe9.txt")).write_text("x")
    (folder / "static/src/two\nlines.txt").write_text("x")


@pytest.mark.parametrize("what", [link_to_nowhere, link_to_itself, a_pipe, strange_names])
def test_files_that_cannot_be_read_stop_nothing(start, tmp_path, what):
    """Odoo serves without them; so do we, and share what is computed."""
    what(release(tmp_path / "a") / NAME)
    first, second = start(tmp_path / "a"), start(tmp_path / "a")
    assert first.run(GREET) == second.run(GREET) == "Hello you"
    assert second.run(FIGURES)["_greet"]["found"] == 1


# -- databases -------------------------------------------------------------------------------------


def test_installing_and_uninstalling_a_module(redis, make_worker, lone_database, tmp_path):
    """Other processes reload their registries and never see values of another set of modules."""
    config = {"addons_path": addons(release(tmp_path / "a"))}
    first = make_worker(redis, lone_database, config=config)
    second = make_worker(redis, lone_database, config=config)
    fields = "result = 'im_status' in env['ir.model.fields']._get_fields_cached('res.partner')"
    assert first.run(LOOK) == second.run(LOOK)
    first.run(INSTALL)
    for worker in (first, second):
        assert worker.run(GREET) == "Hello you"
    assert second.run(fields) == first.run(fields)
    module = f"env['ir.module.module'].search([('name', '=', '{NAME}')])"
    second.run(f"{module}.button_immediate_uninstall()")
    for worker in (first, second):
        with pytest.raises(ServerError, match="_greet"):
            worker.run(GREET)
        worker.run(LOOK)


def test_a_duplicate_is_sealed_with_its_own_secret(redis, raw, make_node, lone_database, postgres):
    """Odoo gives it another one after it has loaded it."""
    copy = f"{lone_database}_copy"
    config = {"list_db": True, "db_name": "", "dbfilter": ""}  # several databases
    node = make_node(redis, database=lone_database, config=config)
    try:
        done = requests.post(
            f"{node.url}/web/database/duplicate",
            data={"master_pwd": "admin", "name": lone_database, "new_name": copy},
            allow_redirects=False,
            timeout=120,
        )
        assert done.status_code == 303, done.text
        assert requests.get(f"{node.url}/web/login?db={copy}", timeout=60).ok
        secret = "SELECT value FROM ir_config_parameter WHERE key = 'database.secret'"
        vault, former = (Vault(postgres.sql(name, secret)) for name in (copy, lone_database))
        values = [
            (key + b"\0" + field, value)
            for key, fields in hashes(raw, copy).items()
            for field, value in fields.items()
        ]
        opened = [bound for bound, value in values if opens(vault, bound, value)]
        assert len(opened) > 5
        assert not [bound for bound, value in values if opens(former, bound, value)]
    finally:
        node.stop()
        postgres.dropdb(copy)


def opens(vault, bound, sealed):
    try:
        return vault.open(bound, sealed)
    except CorruptRecordError:
        return None
