"""Changes that nobody signals: a process that starts is given what a stock Odoo would compute."""

import contextlib
import subprocess
import time

import psutil
import psycopg2
import pytest
import requests

from odoo.addons.redis_session_ormcache.tests.support.cached import FIGURES, LOOK
from stack.provision.environment import odoo_command
from stack.servers import odoo_environment, until
from stack.servers.process import answers_http

# What is looked up, and a change in SQL that makes it another.
IN_SQL = {
    "menu": (
        "[menu['name'] for menu in env['ir.ui.menu'].load_menus(False).values()]",
        """UPDATE ir_ui_menu SET name = '{"en_US": "Renamed"}' WHERE parent_id IS NULL""",
    ),
    "broken page": (
        "str(env['ir.qweb']._render('test.page'))",
        "UPDATE ir_ui_view SET active = false WHERE name = 'test.broken'",
    ),
    "page": (
        "str(env['ir.qweb']._render('test.other'))",
        """UPDATE ir_ui_view SET arch_db = '{"en_US": "<t><p>After</p></t>"}'"""
        " WHERE key = 'test.other'",
    ),
    "view": (
        "env['res.partner'].get_view(env.ref('base.view_partner_tree').id, 'list')['arch']",
        """UPDATE ir_ui_view SET arch_db = '{"en_US": "<list><field name=\\"email\\"/></list>"}'"""
        " WHERE name = 'res.partner.list' AND inherit_id IS NULL",
    ),
    "access": (
        "sorted(env['ir.model.access']._get_allowed_models('write'))",
        "UPDATE ir_model_access SET perm_write = false",
    ),
    "rule": (
        "repr(env['ir.rule']._compute_domain('res.partner'))",
        "UPDATE ir_rule SET domain_force = '[(''id'', ''='', 42)]'",
    ),
    "groups of a user": (
        "env['res.users'].browse(2)._get_group_ids()",
        "DELETE FROM res_groups_users_rel WHERE uid = 2",
    ),
    "implied groups": (
        "env['res.users'].browse(1)._get_group_ids()",
        "DELETE FROM res_groups_implied_rel",
    ),
    "companies of a user": (
        "env['res.users'].browse(2)._get_company_ids()",
        "DELETE FROM res_company_users_rel WHERE user_id = 2",
    ),
    "language": (
        "[lang['name'] for lang in env['res.lang']._get_active_by('code').values()]",
        "UPDATE res_lang SET name = 'Inglish' WHERE code = 'en_US'",
    ),
    "field": (
        "env['ir.model.fields'].get_field_string('res.partner')['name']",
        """UPDATE ir_model_fields SET field_description = '{"en_US": "Renamed"}'"""
        " WHERE model = 'res.partner' AND name = 'name'",
    ),
    "external identifier": (
        "env['ir.model.data']._xmlid_lookup('base.user_admin')",
        "UPDATE ir_model_data SET res_id = 1 WHERE module = 'base' AND name = 'user_admin'",
    ),
    "another external identifier": (
        "env['ir.model.data']._xmlid_lookup('sap.partner_7')",
        "UPDATE ir_model_data SET res_id = 2 WHERE module = 'sap'",
    ),
    "currency": (
        "env['res.currency'].get_all_currencies()[1]['symbol']",
        "UPDATE res_currency SET symbol = '?'",
    ),
    "asset": (
        "[asset[0] for asset in env['ir.asset']._get_asset_paths('web.assets_tests', {})]",
        "INSERT INTO ir_asset (name, bundle, path, directive, sequence, active) VALUES"
        " ('x', 'web.assets_tests', 'web/static/src/boot.js', 'append', 1, true)",
    ),
    "action": (
        "repr(env['ir.actions.actions']._get_bindings('res.partner'))",
        "UPDATE ir_actions SET binding_model_id = NULL",
    ),
    "parameter": (
        "env['ir.config_parameter'].sudo().get_param('web.base.url')",
        "UPDATE ir_config_parameter SET value = 'http://after' WHERE key = 'web.base.url'",
    ),
}
LOOK_AT_ALL = "result = {}\n" + "".join(
    f"""
try:
    result[{name!r}] = repr({look})
except Exception as error:
    result[{name!r}] = type(error).__name__
"""
    for name, (look, _change) in IN_SQL.items()
)


@pytest.fixture
def make_stock(make_worker, redis):
    """Start a process of Odoo without the addon."""
    return lambda database, **options: make_worker(redis, database, load="base,web", **options)


def look_at_all(worker, **options):
    return worker.run(LOOK_AT_ALL, uid=2, **options)


SET_UP = """
    view = env["ir.ui.view"].create([
        {"name": name, "key": name, "type": "qweb", "arch": "<t><p>Before</p></t>"}
        for name in ("test.page", "test.other")
    ])[0]
    env["ir.ui.view"].create({
        "name": "test.broken", "inherit_id": view.id, "type": "qweb",
        "arch": "<p position='after'><t t-out='1/0'/></p>",
    })
    env["ir.model.data"].create({
        "module": "sap", "name": "partner_7", "model": "res.partner", "res_id": 1,
    })
"""


def test_a_start_after_changes_in_sql(redis, make_worker, make_stock, lone_database, postgres):
    """Each kind of value is as it is in a stock Odoo that starts then, and was not so before."""
    first = make_worker(redis, lone_database)
    first.run(SET_UP)
    before = look_at_all(first)
    for _look, change in IN_SQL.values():
        postgres.sql(lone_database, change)
    expected = look_at_all(make_stock(lone_database))
    assert look_at_all(make_worker(redis, lone_database)) == expected
    assert [name for name in expected if before[name] == expected[name]] == []


def test_who_starts_after_a_change_shares_with_who_started_after_it(
    redis, make_worker, lone_database, postgres
):
    """The first to start computes anew for all the others."""
    make_worker(redis, lone_database).run(LOOK)
    postgres.sql(lone_database, "UPDATE ir_ui_menu SET sequence = sequence + 1")
    second, third = make_worker(redis, lone_database), make_worker(redis, lone_database)
    assert second.run(LOOK) == third.run(LOOK)
    figures = third.run(FIGURES)
    assert not [name for name, figure in figures.items() if figure["computed"]], figures


def test_what_has_nothing_to_do_with_a_change_is_shared(
    redis, make_worker, lone_database, postgres
):
    """Only containers whose tables were changed begin anew."""
    make_worker(redis, lone_database).run(LOOK)
    postgres.sql(lone_database, "UPDATE ir_ui_menu SET sequence = sequence + 1")
    second = make_worker(redis, lone_database)
    second.run(LOOK)
    figures = second.run(FIGURES)
    assert figures["load_menus"]["computed"] == 1
    assert figures["_get_view_cache"]["found"] == 1


def test_a_process_at_work_notices(redis, make_worker, lone_database, postgres):
    """Within a minute, beside its requests; here in a moment. Stock Odoo never does."""
    worker = make_worker(redis, lone_database)
    worker.run("""
        from odoo.addons.redis_session_ormcache.http_patch import generations
        generations._VERIFY_EVERY = 0.1
    """)
    look = "result = env['res.lang']._get_active_by('code')['en_US']['name']"
    assert worker.run(look) == "English (US)"
    postgres.sql(lone_database, "UPDATE res_lang SET name = 'Inglish' WHERE code = 'en_US'")
    until(lambda: worker.run(look) == "Inglish", "that the process notices")
    told = "tables were changed without a signal: default, stable, templates.cached_values"
    assert told in worker.log.read_text()


def test_a_table_that_is_being_altered_clears_nothing(redis, make_worker, lone_database, postgres):
    """A process goes on with what it has, shares nothing meanwhile, and finds out when it can."""
    worker = make_worker(redis, lone_database)
    worker.run("""
        from odoo.addons.redis_session_ormcache.http_patch import generations
        generations._VERIFY_EVERY = 0.1
    """)
    worker.run(LOOK)
    shares = "result = bool(cr._redis_connection.transaction.generation().secret)"
    assert worker.run(shares)
    count = """
        lru = env.registry._Registry__caches["templates"]
        result = len(lru)
    """
    before = worker.run(count)
    assert before
    where = {"host": postgres.host, "port": postgres.port, "user": postgres.user}
    other = psycopg2.connect(**where, dbname=lone_database)
    with contextlib.closing(other), other.cursor() as altering:
        altering.execute("LOCK TABLE res_country IN ACCESS EXCLUSIVE MODE")
        for _ in range(5):
            assert worker.run(count) == before
            time.sleep(0.2)
        postgres.sql(lone_database, "INSERT INTO orm_signaling_assets DEFAULT VALUES")
        assert worker.run(count) == before
        assert not worker.run(shares)
        assert "nothing is shared until its tables can be read" in worker.log.read_text()
        other.rollback()
    until(lambda: worker.run(shares), "that it shares again")
    assert worker.run(count) == before


def test_a_recycled_worker_computes_anew(redis, make_node, lone_database, postgres):
    """What its parent has is older than the change; a stock worker would not have it either."""
    node = make_node(redis, database=lone_database, workers=2)
    login = f"{node.url}/web/login"
    assert "Log in" in requests.get(login, timeout=30).text
    postgres.sql(
        lone_database,
        "UPDATE ir_ui_view SET arch_db = replace(arch_db::text, 'Log in', 'Come in')::jsonb"
        " WHERE key = 'web.login'",
    )
    assert "Log in" in requests.get(login, timeout=30).text
    former = psutil.Process(node.pid).children()
    for worker in former:
        worker.terminate()
    until(lambda: not any(worker.is_running() for worker in former), "that the workers end")
    until(lambda: answers_http(login), "that others serve")
    assert {"Come in" in requests.get(login, timeout=30).text for _ in range(8)} == {True}


def test_the_table_of_another_addons_model(redis, make_worker, make_stock, lone_database, postgres):
    """A method that nobody has told of is taken to read its model's own table."""
    worker = make_worker(redis, lone_database)
    define = """
        from odoo.tools import ormcache
        cls = type(env["res.partner.category"])
        def _count(self):
            self.env.cr.execute("SELECT pg_sleep(0.001), count(*) FROM res_partner_category")
            return self.env.cr.fetchone()[1]
        if not hasattr(cls, "_count"):
            _count.__qualname__ = "Category._count"
            cls._count = ormcache()(_count)
        result = env["res.partner.category"]._count()
    """
    before = worker.run(define)
    second = make_worker(redis, lone_database)
    assert second.run(define) == before
    assert second.run(FIGURES)["_count"]["found"] == 1
    postgres.sql(lone_database, "INSERT INTO res_partner_category (name) VALUES ('{}')")
    assert make_worker(redis, lone_database).run(define) == before + 1
    assert make_stock(lone_database).run(define) == before + 1
    assert worker.run(define) == before


def odoo(worker, *words, **options):
    """One of Odoo's commands, with the configuration of a worker."""
    command = [*odoo_command(), words[0], *words[1:], "-c", worker.log.with_name("odoo.conf")]
    done = subprocess.run(
        command, env=odoo_environment({}), capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_start_after_odoos_own_commands(redis, make_worker, make_stock, lone_database, tmp_path):
    """A language that was loaded, terms that were imported, a shell, a neutralized database."""
    look = """
        layout, _name, _options = env["ir.qweb"]._generate_code_cached(env.ref("web.layout").id)
        constants = str([part.__code__.co_consts for part in layout.values()])
        languages = dict(env["res.lang"].get_installed())
        env = env(context={"lang": "fr_FR" if "fr_FR" in languages else "en_US"})
        result = {
            "languages": sorted(languages),
            "menus": sorted(menu["name"] for menu in env["ir.ui.menu"].load_menus(False).values()),
            "fields": env["ir.model.fields"].get_field_string("res.partner"),
            "view": env["res.partner"].get_view(view_type="form")["arch"],
            "ribbon": "neutralize" in constants,
            "neutral": env["ir.config_parameter"].get_param("database.is_neutralized"),
            "translations": env["ir.http"]._get_web_translations_hash(["base", "web"], "fr_FR"),
        }
    """
    first = make_worker(redis, lone_database)
    terms = tmp_path / "fr.po"
    terms.write_text("""
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"

#. module: base
#: model:ir.ui.menu,name:base.menu_administration
msgid "Settings"
msgstr "Imported"
""")
    seen = [first.run(look)]
    for words, options in (
        (("i18n", "loadlang", "-l", "fr_FR"), {}),
        (("i18n", "import", "-w", "-l", "fr_FR", terms), {}),
        (
            ("shell", "--shell-interface", "python"),
            {
                "input": "menu = env.ref('base.menu_administration')\n"
                "menu.name = 'Shell'; menu.with_context(lang='fr_FR').name = 'Coquille'\n"
                "env.cr.commit()\n"
            },
        ),
        (("neutralize",), {}),
    ):
        odoo(first, *words, **options)
        seen.append(make_worker(redis, lone_database).run(look))
        assert seen[-1] == make_stock(lone_database).run(look), words
        assert seen[-1] != seen[-2], words
